"""Arguments of `GPTCausalLM.generate`: their rules and forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.generation import SETTINGS
from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import BeamSettings

_EARLY_STOPPING: dict[bool | str, int] = {
    False: beam_search.HEURISTIC,
    True: beam_search.WHEN_FULL,
    "never": beam_search.NEVER,
}


class BeamArguments(NamedTuple):
    """The arguments of `generate` that are about beams."""

    num_beams: int
    length_penalty: float | Sequence[float]
    early_stopping: bool | str
    num_return_sequences: int

    def check(self, knobs: dict[str, Any]) -> None:
        """Raises `ValueError` for values out of range, or that do not go together."""
        for name in ("num_beams", "num_return_sequences"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences must be at most num_beams, {self.num_beams}, "
                f"got {self.num_return_sequences}."
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                "early_stopping must be True, False or 'never', "
                f"got {self.early_stopping!r}."
            )
        given = [n for n in knobs if n != "max_new_tokens" and knobs[n] is not None]
        if self.num_beams > 1 and given:
            raise ValueError(
                f"{', '.join(given)} must be None with num_beams={self.num_beams}, "
                "since beam search does not draw."
            )

    def settings(self, rows: int) -> BeamSettings:
        """Returns the settings of each row."""
        penalty = np.asarray(self.length_penalty, np.float32)
        if penalty.ndim > 1 or penalty.size not in (1, rows):
            raise ValueError(
                f"length_penalty must be one value or one per prompt ({rows}), "
                f"got {self.length_penalty!r}."
            )
        if not np.isfinite(penalty).all():
            raise ValueError(
                f"length_penalty must be finite, got {self.length_penalty!r}."
            )
        return BeamSettings(
            length_penalty=tf.constant(np.broadcast_to(penalty, [rows])),
            early_stopping=tf.fill([rows], _EARLY_STOPPING[self.early_stopping]),
        )


def check_setting(name: str, value: Any, *, rows: int) -> np.ndarray:
    """Returns a generation setting as one entry per row.

    Args:
        name: string. A key of `keras_gpt.generation.SETTINGS`.
        value: a number, or one per row.
        rows: int. Number of rows (B).

    Raises:
        ValueError: if the value has another shape or kind, or is out of range.
    """
    dtype, _, rule, holds = SETTINGS[name]
    array = np.asarray(value)
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] not in (1, rows)):
        raise ValueError(
            f"{name} must be one value or one per prompt ({rows}), got {value!r}."
        )
    if array.dtype.kind not in ("iu" if dtype.is_integer else "iuf"):
        kind = "whole" if dtype.is_integer else "real"
        raise ValueError(f"{name} must be a {kind} number, got {value!r}.")
    if not np.all(holds(array)):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")
    limit = np.iinfo(dtype.as_numpy_dtype).max if dtype.is_integer else None
    if limit is not None and np.any(array > limit):
        raise ValueError(f"{name} must be at most {limit}, got {value!r}.")
    return np.broadcast_to(array, [rows])


def check_utf8(data: bytes, row: int) -> None:
    """Raises `ValueError` unless the text number `row` is valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"inputs must be valid UTF-8, got {data!r} in text {row}."
        ) from error


def string_batches(inputs: Any) -> tuple[Iterable[tf.Tensor], bool]:
    """Returns prompts as batches of string vectors, and whether it was one string."""
    if isinstance(inputs, tf.data.Dataset):
        return (tf.reshape(batch, [-1]) for batch in inputs), False
    prompts = tf.convert_to_tensor(inputs, tf.string)
    if prompts.shape.rank == 0:
        return [prompts[None]], True
    if prompts.shape.rank != 1:
        raise ValueError(
            f"inputs must be a string or a vector of strings, got {prompts.shape}."
        )
    return [prompts], False


def settings_of_sampler(sampler: Any) -> dict[str, Any]:
    """Translates a KerasHub sampler into generation settings."""
    samplers = keras_nlp.samplers
    settings = {"temperature": getattr(sampler, "temperature", 1.0)}
    if isinstance(sampler, samplers.GreedySampler):
        return {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    if isinstance(sampler, samplers.TopPSampler):
        return {**settings, "top_k": sampler.k or 0, "top_p": sampler.p}
    if isinstance(sampler, samplers.TopKSampler):
        return {**settings, "top_k": sampler.k, "top_p": 1.0}
    if isinstance(sampler, samplers.RandomSampler):
        return {**settings, "top_k": 0, "top_p": 1.0}
    raise ValueError(
        "sampler must be a greedy, random, top-k or top-p sampler, "
        f"got {type(sampler).__name__}."
    )
