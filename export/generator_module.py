"""A whole generator as a `tf.Module`: tokenizer, weights, KV cache, sampling loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_gpt.export.served_options import ServedOptions, module_of
from keras_gpt.export.shared_graphs import SharedDecoder, SharedTokenizer
from keras_gpt.export.signatures.generate import Generation
from keras_gpt.export.signatures.inputs import (
    TEXT,
    Input,
    Outputs,
    Signature,
    signature,
)
from keras_gpt.export.signatures.knobs import SAMPLING, KnobReader, knob_inputs
from keras_gpt.export.signatures.streaming import Streaming
from keras_gpt.export.signatures.texts import TextSignatures
from keras_gpt.export.weights import ServedModel, ServedWeights
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.tokenizer import ChatTemplate

MESSAGES = {
    "role": Input(tf.string, (None,)),
    "content": Input(tf.string, (None,)),
    "num_messages": Input(tf.int32),
}
TOKENS = {"token_ids": Input(tf.int32, (None,)), "num_tokens": Input(tf.int32)}


class ServedGenerator(NamedTuple):
    """What an exported model is made of.

    Attributes:
        module: `tf.Module` of just the state that is served.
        signatures: `Signature` by name.
    """

    module: tf.Module
    signatures: dict[str, Signature]


def build_generator(
    task: GPTCausalLM,
    served: ServedOptions,
    *,
    storage_dtype: str | None = None,
    xla: bool = False,
) -> ServedGenerator:
    """Puts tokenizer, weights, KV cache and sampling loop into one module.

    Args:
        task: `GPTCausalLM` with a preprocessor.
        served: `ServedOptions`.
        storage_dtype: string or None. As in `ServedWeights`.
        xla: bool. Whether there is a signature `generate_xla`. Defaults to False.
    """
    options, config = served.options, task.backbone.config
    module = tf.Module()
    weights = ServedWeights(task.backbone, storage_dtype=storage_dtype)
    module.weights = weights.state
    generator = task.text_generator(
        model=ServedModel(task.backbone, weights),
        tokenizer=SharedTokenizer(task.text_generator().tokenizer),
        processors=options.logits_processors,
        drafter=served.drafter,
        decoder_class=SharedDecoder,
    )
    module.tables = list(generator.tokenizer.trackables)
    owners = map(module_of, options.logits_processors)
    module.processors = [owner for owner in owners if owner is not None]
    generation = Generation(
        generator,
        KnobReader(
            tokenizer=generator.tokenizer,
            vocabulary_size=config.vocabulary_size,
            fixed=served.fixed,
        ),
        method=served.method,
        num_beams=options.num_beams,
        num_beam_groups=options.num_beam_groups,
        num_return_sequences=options.num_return_sequences,
        early_stopping=served.early_stopping,
        num_candidates=served.num_candidates,
    )
    knobs = knob_inputs(served.defaults, method=served.method)
    template = task.preprocessor.chat_template  # type: ignore[union-attr]
    signatures = _signatures(generation, knobs, template)
    if xla:
        signatures["generate_xla"] = _xla_signature(generation, knobs)
    return ServedGenerator(module, signatures)


def _signatures(
    generation: Generation, knobs: dict[str, Input], template: ChatTemplate | None
) -> dict[str, Signature]:
    generate = signature(
        "generate",
        "continues prompts, as the knobs of each row say",
        generation.from_text,
        {**TEXT, **knobs},
    )

    def serving_default(text: tf.Tensor) -> Outputs:
        return {"generated_text": generate.function(text)["generated_text"]}

    texts = TextSignatures(generation.generator)
    functions: dict[str, tuple[str, Callable[..., Outputs], dict[str, Input]]] = {
        "serving_default": ("continues prompts", serving_default, TEXT),
        "score": ("measures how likely texts are, in nats", texts.score, TEXT),
        "tokenize": ("turns texts into token ids", texts.tokenize, TEXT),
        "detokenize": ("turns token ids into texts", texts.detokenize, TOKENS),
    }
    if template is not None:
        functions["chat"] = (
            "answers conversations: the messages' roles, and their texts",
            functools.partial(generation.from_chat, template),
            {**MESSAGES, **knobs},
        )
    if generation.method == SAMPLING:
        streaming = Streaming(generation, knobs)
        functions["prefill"] = (
            "begins a generation in steps, and returns its state",
            streaming.prefill,
            {**TEXT, **knobs},
        )
        functions["decode"] = (
            "goes on with a state, and returns the new text and the next state",
            streaming.decode,
            streaming.inputs,
        )
    made = {name: signature(name, *parts) for name, parts in functions.items()}
    first = {"serving_default": made.pop("serving_default"), "generate": generate}
    return {**first, **made}


def _xla_signature(generation: Generation, knobs: dict[str, Input]) -> Signature:
    return signature(
        "generate_xla",
        "as generate, compiled by XLA for each size of batch, prompt and text; the "
        "server needs --xla_cpu_compilation_enabled",
        generation.compiled().from_text,
        {
            **TEXT,
            **{name: one for name, one in knobs.items() if name != "stop_strings"},
        },
    )
