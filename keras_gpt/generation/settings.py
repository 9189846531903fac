"""The numbers that steer generation, one per row, and their ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.sampling.logits_processors import Penalties
from keras_gpt.sampling.samplers import SamplingSettings


class GenerationSettings(NamedTuple):
    """Settings of one call, each a tensor with one entry per row.

    Attributes:
        max_new_tokens: int32 (B,). Also ended by the model's context.
        min_new_tokens: int32 (B,). At least 0, like those below; see `Penalties` and
            `SamplingSettings` for their meaning.
        repetition_penalty: float32 (B,). Above 0; 1 is off.
        presence_penalty: float32 (B,). Any finite number; 0 is off.
        frequency_penalty: float32 (B,). Any finite number; 0 is off.
        no_repeat_ngram_size: int32 (B,). At least 0; 0 is off.
        temperature: float32 (B,). At least 0; 0 is greedy.
        top_k: int32 (B,). At least 0; 0 is off.
        top_p: float32 (B,). In (0, 1]; 1 is off.
        min_p: float32 (B,). In [0, 1]; 0 is off.
        typical_p: float32 (B,). In (0, 1]; 1 is off.
        epsilon_cutoff: float32 (B,). In [0, 1); 0 is off.
        eta_cutoff: float32 (B,). In [0, 1); 0 is off.
        seed: int64 (B,).
    """

    max_new_tokens: tf.Tensor
    min_new_tokens: tf.Tensor
    repetition_penalty: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    no_repeat_ngram_size: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    typical_p: tf.Tensor
    epsilon_cutoff: tf.Tensor
    eta_cutoff: tf.Tensor
    seed: tf.Tensor

    @property
    def sampling(self) -> SamplingSettings:
        """The part that sampling reads."""
        return SamplingSettings(
            *(getattr(self, name) for name in SamplingSettings._fields)
        )

    @property
    def penalties(self) -> Penalties:
        """The part that penalties read."""
        return Penalties(*(getattr(self, name) for name in Penalties._fields))

    @property
    def are_valid(self) -> tf.Tensor:
        """Bool (B,). Whether each row's settings are within their ranges."""
        valid = [SETTINGS[name].holds(value) for name, value in self._asdict().items()]
        return tf.reduce_all(tf.stack(valid), axis=0)


class Setting(NamedTuple):
    """A field of `GenerationSettings`.

    Attributes:
        dtype: TensorFlow dtype.
        default: number. Leaves the setting off.
        rule: string. What its values must be, for messages.
        holds: function from values, as tensor or array, to whether each is in range.
    """

    dtype: tf.DType
    default: float
    rule: str
    holds: Callable[[Any], Any]


def _is_finite(x: Any) -> Any:
    return (x > -math.inf) & (x < math.inf)


_COUNT = Setting(tf.int32, 0, "at least 0", lambda x: x >= 0)
_SHARE = Setting(tf.float32, 1.0, "in (0, 1]", lambda x: (x > 0) & (x <= 1))
_PENALTY = Setting(tf.float32, 0.0, "finite", _is_finite)
_CUTOFF = Setting(tf.float32, 0.0, "in [0, 1)", lambda x: (x >= 0) & (x < 1))
SETTINGS: dict[str, Setting] = {
    "max_new_tokens": _COUNT._replace(default=64),
    "min_new_tokens": _COUNT,
    "repetition_penalty": Setting(
        tf.float32, 1.0, "finite and above 0", lambda x: _is_finite(x) & (x > 0)
    ),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "no_repeat_ngram_size": _COUNT,
    "temperature": Setting(
        tf.float32, 1.0, "finite and at least 0", lambda x: _is_finite(x) & (x >= 0)
    ),
    "top_k": _COUNT,
    "top_p": _SHARE,
    "min_p": Setting(tf.float32, 0.0, "in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
    "typical_p": _SHARE,
    "epsilon_cutoff": _CUTOFF,
    "eta_cutoff": _CUTOFF,
    "seed": Setting(tf.int64, 0, "an integer", lambda x: x == x),
}
