"""Checks that an exported generator answers like its task."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export.served_options import ServedOptions
from keras_gpt.export.signatures.knobs import SAMPLING
from keras_gpt.export.verify import Check, check_equal
from keras_gpt.models.causal_lm import GPTCausalLM

PROMPTS = ("", "The", " a\n\nb", "caf\u00e9 \u4e2d")
MAX_TOKENS = 16
STREAM_TOKENS = 5  # at a time
# Of the four prompts: two greedy, two drawn.
NUM_GREEDY = 2
DRAWS = {"temperature": [0.0, 0.0, 1.0, 0.7], "seed": [0, 1, 2, 3]}
# Logits of a batch and of a single text differ in their last bits.
SCORE_TOLERANCE = 1e-3


def generator_checks(
    task: GPTCausalLM, served: ServedOptions, *, xla: bool = False
) -> list[Check]:
    """Returns the checks of an exported generator.

    Args:
        task: `GPTCausalLM`, with weights as they are stored.
        served: `ServedOptions`.
        xla: bool. Whether there is a signature `generate_xla`. Defaults to False.
    """
    prompts = _prompts(task)
    return [
        *_generation_checks(task, served, prompts, xla=xla),
        _score_check(task, prompts),
        _tokenize_check(task, prompts),
        *_chat_checks(task, served),
    ]


def _generation_checks(
    task: GPTCausalLM, served: ServedOptions, prompts: list[str], *, xla: bool
) -> list[Check]:
    """Returns the checks of `generate`, in one go, in steps and in XLA."""
    knobs: dict[str, Any] = {"max_new_tokens": [MAX_TOKENS] * len(prompts)}
    if served.method == SAMPLING:
        knobs |= DRAWS
    texts = task.generate(
        prompts,
        max_length=task.backbone.config.max_sequence_length,
        stop_token_ids=served.stop_token_ids,
        strip_prompt=True,
        **served.python_options | knobs,
    )
    texts = [text if isinstance(text, str) else text[0] for text in texts]
    inputs = {"text": prompts, **knobs}

    def compare(name: str, field: str, rows: int = len(prompts)) -> Any:
        def check(outputs: dict[str, Any]) -> None:
            found = zip(prompts[:rows], texts, outputs[field], strict=False)
            for prompt, want, got in found:
                check_equal(name, prompt, want, got)

        return check

    generated = compare("generate", "generated_text")
    checks = [Check({"signature": "generate", "inputs": inputs}, generated)]
    if served.method == SAMPLING:
        call = {"signature": "prefill", "inputs": inputs, "max_tokens": STREAM_TOKENS}
        checks.append(Check(call, compare("prefill and decode", "text")))
    if xla:
        # Its sums run in another order, so that draws may differ: only greedy ones.
        call = {"signature": "generate_xla", "inputs": inputs}
        checks.append(
            Check(call, compare("generate_xla", "generated_text", NUM_GREEDY))
        )
    return checks


def _score_check(task: GPTCausalLM, prompts: list[str]) -> Check:
    def compare(outputs: dict[str, Any]) -> None:
        totals = [score.total_log_prob for score in task.score(prompts)]
        found = zip(prompts, totals, outputs["total_log_prob"], strict=True)
        for prompt, want, got in found:
            if not np.isclose(got, want, rtol=SCORE_TOLERANCE):
                check_equal("score", prompt, want, got)

    return Check({"signature": "score", "inputs": {"text": prompts}}, compare)


def _tokenize_check(task: GPTCausalLM, prompts: list[str]) -> Check:
    def compare(outputs: dict[str, Any]) -> None:
        tokens = task.text_generator().tokenizer.tokenize(prompts).to_list()
        counts = outputs["num_tokens"]
        found = zip(prompts, tokens, outputs["token_ids"], counts, strict=True)
        for prompt, want, got, count in found:
            check_equal("tokenize", prompt, want, got[:count])

    return Check({"signature": "tokenize", "inputs": {"text": prompts}}, compare)


def _chat_checks(task: GPTCausalLM, served: ServedOptions) -> list[Check]:
    """Returns a check of `chat`, where there is a template and room for it."""
    template = task.preprocessor and task.preprocessor.chat_template
    if not template:
        return []
    messages = [{"role": role, "content": "Hi"} for role in template.roles]
    columns: dict[str, Any] = {
        key: [[one[key] for one in messages]] for key in ("role", "content")
    }
    tokens, _ = task.text_generator().chat_tokens(
        template, **{key: tf.constant(value) for key, value in columns.items()}
    )
    if tokens.row_lengths()[0] >= task.backbone.config.max_sequence_length:
        return []

    def compare(outputs: dict[str, Any]) -> None:
        options = served.python_options | {"max_new_tokens": MAX_TOKENS}
        options["num_return_sequences"] = 1
        answer = task.chat(messages, stop_token_ids=served.stop_token_ids, **options)
        check_equal("chat", str(messages), answer, outputs["generated_text"][0])

    inputs = {**columns, "num_messages": [len(messages)]}
    inputs["max_new_tokens"] = [MAX_TOKENS]
    return [Check({"signature": "chat", "inputs": inputs}, compare)]


def _prompts(task: GPTCausalLM) -> list[str]:
    """Returns the prompts, as far as the context has room for them."""
    counts = task.text_generator().prompt_tokens(tf.constant(PROMPTS)).row_lengths()
    if max(counts.numpy()) >= task.backbone.config.max_sequence_length:
        return [""] * len(PROMPTS)  # a context too short for anything else
    return list(PROMPTS)
