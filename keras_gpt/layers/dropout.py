"""Dropout whose noise depends on the step and the row, not on the devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

# The finalizer of MurmurHash3's 32-bit form (Appleby 2011): shift, then multiplier.
_HASH_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
_LAST_SHIFT = 16
_SPREAD = 0x9E3779B9  # 2^32 over the golden ratio: keeps neighbouring counters apart


class StepNoise:
    """What the dropout of one training step is drawn from.

    Args:
        seed: int in [0, 2**31). Of the run.
        step: int scalar. Steps done before.
        first_row: int scalar. Number, in the whole batch, of the first row here.
        num_rows: int scalar. Number of rows here, for networks in which a row becomes
            several: their numbers then follow from the row's. Defaults to None: each
            draw has a row for each row.
    """

    def __init__(
        self,
        *,
        seed: int,
        step: tf.Tensor,
        first_row: tf.Tensor,
        num_rows: tf.Tensor | None = None,
    ) -> None:
        key = _hash(tf.constant(seed, tf.uint32))
        self._key = _hash(key + tf.cast(step, tf.uint32))
        self._first_row = tf.cast(first_row, tf.uint32)
        self._num_rows = num_rows
        # Number of the next draw of the step, in the order of the forward pass.
        self.stream = 0

    def bits(self, shape: list[Any]) -> tf.Tensor:
        """Draws uint32 of a shape (rows, ...): the next stream of the step."""
        key = _hash(self._key + tf.constant(self.stream, tf.uint32))
        self.stream += 1
        rows, *others = (tf.cast(tf.range(size), tf.uint32) for size in shape)
        first = self._first_row
        if self._num_rows is not None:
            by_row = shape[0] // tf.maximum(self._num_rows, 1)
            first *= tf.cast(by_row, tf.uint32)
        bits = _hash(key + (rows + first) * tf.constant(_SPREAD, tf.uint32))
        for counters in others:
            bits = _hash(bits[..., None] + counters * tf.constant(_SPREAD, tf.uint32))
        return bits


_noise: ContextVar[StepNoise | None] = ContextVar("_noise", default=None)


@contextlib.contextmanager
def step_noise(noise: StepNoise | None) -> Iterator[None]:
    """Within it, `Dropout` draws from `noise`; from Keras' seeds where it is None."""
    token = _noise.set(noise)
    try:
        yield
    finally:
        _noise.reset(token)


def current_noise() -> StepNoise | None:
    """Returns what `Dropout` draws from now."""
    return _noise.get()


@keras.saving.register_keras_serializable(package="keras_gpt")
class Dropout(keras.layers.Dropout):
    """Sets elements to zero with probability `rate` and scales up the others.

    Within `step_noise` whether an element stays is a hash of the seed, the step, the
    number of the draw, the element's row in the whole batch and its place in the row.
    So the noise is the same on one device, on many, with accumulation and when a
    block is recomputed, and a resumed run repeats it. Elsewhere it is
    `keras.layers.Dropout`.

    Reference: Srivastava et al. 2014; counters in place of a state: Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3".
    """

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        """Drops; see the class."""
        noise = current_noise()
        if noise is None or not training or not self.rate:
            return super().call(inputs, training=training)
        dynamic = tf.shape(inputs)
        shape = [
            dynamic[axis] if size is None else size
            for axis, size in enumerate(inputs.shape)
        ]
        stays = noise.bits(shape) >= tf.constant(int(self.rate * 2**32), tf.uint32)
        scaled = inputs * tf.cast(1.0 / (1.0 - self.rate), inputs.dtype)
        return tf.where(stays, scaled, tf.zeros_like(inputs))


def _hash(x: tf.Tensor) -> tf.Tensor:
    for shift, multiplier in _HASH_ROUNDS:
        x = _shifted(x, shift) * tf.constant(multiplier, tf.uint32)
    return _shifted(x, _LAST_SHIFT)


def _shifted(x: tf.Tensor, shift: int) -> tf.Tensor:
    moved = tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32))
    return tf.bitwise.bitwise_xor(x, moved)
