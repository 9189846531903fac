"""What a file's answers differ in from the model's, by running both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.export.litert import tflite_file
from keras_gpt.export.litert.graphs import language_model
from keras_gpt.export.litert.heads import head_outputs
from keras_gpt.export.litert.network import LiteRTNetwork
from keras_gpt.export.verify import ExportError
from keras_gpt.generation import SETTINGS

NUM_TOKENS = 64  # of the made text, where none is given
NUM_NEW_TOKENS = 4  # of the loop, to see that it is right
LOOP_TOLERANCE = 0.01  # by which logits of tokens may be lower, as a share of the scale
LONGEST_TOKEN = 64  # in characters, on average


class Costs(NamedTuple):
    """Differences between a file and its model.

    Attributes:
        largest_error: float. Of a logit, or of a head's output.
        largest_output: float. The largest of these outputs: the scale of the error.
        perplexity: float or None. Of the given text, under the file.
        perplexity_before: float or None. The same under the model.
    """

    largest_error: float
    largest_output: float
    perplexity: float | None = None
    perplexity_before: float | None = None


def tokens_to_try(task: Any, text: str | None, *, context: int) -> np.ndarray:
    """Returns the tokens by which a language model and its file are compared.

    Args:
        task: `GPTCausalLM`.
        text: string, or None for ids at random.
        context: int. Most tokens.

    Returns:
        int32 (N,).

    Raises:
        ValueError: if the text has less than two tokens.
    """
    if text is None:
        size, count = task.backbone.config.vocabulary_size, min(NUM_TOKENS, context)
        return np.random.default_rng(0).integers(size, size=count, dtype=np.int32)
    if task.preprocessor is None:
        raise ValueError("text must be None for a task without a preprocessor.")
    tokenize = task.preprocessor.tokenizer.tokenize
    token_ids = tokenize(text[: LONGEST_TOKEN * context]).numpy()[:context]
    if len(token_ids) < 2:
        raise ValueError(f"text must have two tokens at least, got {text!r}.")
    return token_ids.astype(np.int32)


def lm_costs(
    task: Any, path: Path, token_ids: np.ndarray, *, have_meaning: bool
) -> Costs:
    """Runs every signature of a language model's file.

    Args:
        task: `GPTCausalLM`.
        path: the file.
        token_ids: int32 (N,), at most the file's context.
        have_meaning: bool. Whether they are a text, whose perplexity counts.

    Raises:
        ExportError: if `sample` or `generate` draw otherwise than `decode` tells.
        ValueError: if the model's own logits are no numbers.
    """
    network, model = LiteRTNetwork(path), language_model(task)

    def logits_of(ids: np.ndarray, first: int) -> np.ndarray:
        hidden = model.forward(tf.constant(ids[None]), training=False).hidden
        return model.logits(hidden[0, first:]).numpy()

    want, cache = logits_of(token_ids, 0), network.empty_cache()
    got = np.stack(
        [
            network.feed(token_ids[: count + 1], num_cached=count, cache=cache)
            for count in range(len(token_ids))
        ]
    )
    # So long that each prefill_T runs, but for what finds no room.
    size = min(sum(network.about["prefill_lengths"]) + 1, network.context)
    long = np.resize(token_ids, size)
    after = network.feed(long, num_cached=0, cache=network.empty_cache())
    costs = _costs(
        {"decode": want, "prefill": logits_of(long, size - 1)},
        {"decode": got, "prefill": after[None]},
    )
    # Of integers, kernels may round otherwise, as the file does than the model.
    tolerance = max(LOOP_TOLERANCE * costs.largest_output, 2 * costs.largest_error)
    _check_sampling(path, network, token_ids, tolerance=tolerance)
    if not have_meaning:
        return costs
    return costs._replace(
        perplexity=_perplexity(got, token_ids),
        perplexity_before=_perplexity(want, token_ids),
    )


def _check_sampling(
    path: Path, network: LiteRTNetwork, token_ids: np.ndarray, *, tolerance: float
) -> None:
    """Raises `ExportError` unless `sample` and `generate` take the likeliest tokens."""
    # LiteRT's own kernels multiply wrongly by int4 where an activation is fused.
    is_int4 = network.about["quantization"] == "int4"
    interpreter = tflite_file.open_file(path, by_xnnpack=is_int4)
    ids, cache = token_ids[: network.context // 2], network.empty_cache()
    logits = network.feed(ids, num_cached=0, cache=cache)
    found = _greedily(
        interpreter, "sample", ids, logits=logits, num_prompt_tokens=len(ids)
    )
    if found["token"] != logits.argmax():
        raise ExportError("sample must take the likeliest token, and takes another.")
    if "generate" not in interpreter.get_signature_list():
        return
    found = _greedily(interpreter, "generate", ids)
    new = found["new_tokens"][: found["num_new_tokens"][0]]
    is_right = len(new) == min(NUM_NEW_TOKENS, network.context - len(ids))
    for token in new:
        is_right &= bool(logits[token] >= logits.max() - tolerance)
        ids = np.append(ids, token)
        if len(ids) < network.context:
            logits = network.feed(ids, num_cached=len(ids) - 1, cache=cache)
    if not is_right:
        raise ExportError("generate must take the likeliest tokens, and takes others.")


def _greedily(
    interpreter: Any, name: str, token_ids: np.ndarray, **others: Any
) -> dict[str, np.ndarray]:
    """Returns what `sample` or `generate` makes of a text, greedily."""
    signature = interpreter.get_signature_runner(name)
    inputs = {
        key: np.zeros(one["shape"], one["dtype"])
        for key, one in signature.get_input_details().items()
    }
    values = {key: setting.default for key, setting in SETTINGS.items()}
    values |= {"temperature": 0, "max_new_tokens": NUM_NEW_TOKENS, "stop_tokens": -1}
    values |= {"num_tokens": len(token_ids), **others}
    for key, value in values.items():
        inputs[key][:] = value
    inputs["tokens"][0, : len(token_ids)] = token_ids
    return signature(**inputs)


def head_costs(task: Any, path: Path, name: str) -> Costs:
    """Runs a task with a head, and the signature `name` of its file, on a row."""
    interpreter = tflite_file.open_file(path, by_xnnpack=True)
    signature = interpreter.get_signature_runner(name)
    shape = signature.get_input_details()["token_ids"]["shape"]
    size = task.backbone.config.vocabulary_size
    rows = {
        "token_ids": np.random.default_rng(0).integers(
            size, size=shape, dtype=np.int32
        ),
        "padding_mask": np.ones(shape, np.int32),
    }
    rows["padding_mask"][..., shape[-1] * 3 // 4 :] = 0
    want = head_outputs(task, task(rows, training=False))
    return _costs({key: x.numpy() for key, x in want.items()}, signature(**rows))


def _costs(want: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> Costs:
    if not all(np.isfinite(x).all() for x in want.values()):
        raise ValueError("weights must be finite: outputs of the task are NaN.")
    # What is banned or padding is no output.
    there = {key: np.abs(x) < 1e8 for key, x in want.items()}
    return Costs(
        largest_error=max(
            float(np.abs(got[key] - x)[there[key]].max()) for key, x in want.items()
        ),
        largest_output=max(
            float(np.abs(x)[there[key]].max()) for key, x in want.items()
        ),
    )


def _perplexity(logits: np.ndarray, token_ids: np.ndarray) -> float:
    """Returns that of all tokens but the first; logits (N, V)."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(token_ids[1:], logits[:-1])
    return float(tf.exp(tf.reduce_mean(losses)))
