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

NUM_TOKENS = 64  # of the made text, where none is given


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
    token_ids = task.preprocessor.tokenizer.tokenize(text).numpy()[:context]
    if len(token_ids) < 2:
        raise ValueError(f"text must have two tokens at least, got {text!r}.")
    return token_ids.astype(np.int32)


def lm_costs(
    task: Any, path: Path, token_ids: np.ndarray, *, have_meaning: bool
) -> Costs:
    """Feeds tokens to a language model and to its file.

    Args:
        task: `GPTCausalLM`.
        path: the file.
        token_ids: int32 (N,), at most the file's context.
        have_meaning: bool. Whether they are a text, whose perplexity counts.
    """
    network = LiteRTNetwork(path)
    model = language_model(task)
    hidden = model.forward(tf.constant(token_ids[None]), training=False).hidden
    want = model.logits(hidden)[0].numpy()
    rows, cache, first = [], network.empty_cache(), 0
    # Of what has no meaning the first half goes in chunks, which tell of prefill.
    least = 1 if have_meaning else len(token_ids) // 2 + 1
    for count in range(least, len(token_ids) + 1):
        rows.append(network.feed(token_ids[:count], num_cached=first, cache=cache))
        first = count
    got = np.stack(rows)
    costs = _costs({"logits": want[-len(got) :]}, {"logits": got})
    if not have_meaning:
        return costs
    return costs._replace(
        perplexity=_perplexity(got, token_ids),
        perplexity_before=_perplexity(want, token_ids),
    )


def head_costs(task: Any, path: Path, name: str) -> Costs:
    """Runs a task with a head, and the signature `name` of its file, on a row."""
    interpreter = tflite_file.open_file(path)
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
