"""How fast a run trains, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar("T")

PEAK_SIZE = 1024  # of the square matrices whose product is timed
PEAK_SECONDS = 0.3


class Speed:
    """Tokens per second over the intervals in which nothing but training ran.

    Args:
        tokens_per_step: int.
    """

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._steps = 0  # in the open interval
        self._waited = 0.0
        self._since: float | None = None
        self._total_steps = 0
        self._total_seconds = 0.0
        self._total_waited = 0.0
        self._compiled = False

    def pause(self) -> None:
        """Starts a new interval: what came before does not count."""
        self._steps = 0
        self._waited = 0.0
        self._since = time.monotonic() if self._compiled else None

    def count(self, loss: tf.Tensor) -> None:
        """Counts a step; the first one, which compiles, only starts the clock."""
        if not self._compiled:
            float(loss)
            self._compiled = True
            self.pause()
        else:
            self._steps += 1

    def mark(self) -> None:
        """Adds the open interval to the total. Call when its steps are done."""
        if self._since is not None and self._steps:
            self._total_seconds += time.monotonic() - self._since
            self._total_waited += self._waited
            self._total_steps += self._steps
        self.pause()

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """Yields the items, and notes how long each was waited for."""
        while True:
            started = time.monotonic()
            item = next(items, None)
            self._waited += time.monotonic() - started
            if item is None:
                return
            yield item

    @property
    def tokens_per_second(self) -> float | None:
        """Mean speed, or None before anything was measured."""
        if not self._total_steps:
            return None
        return self._total_steps * self._tokens_per_step / self._total_seconds

    @property
    def data_wait(self) -> float | None:
        """Share of the time that went by waiting for data, or None."""
        return self._total_waited / self._total_seconds if self._total_steps else None

    def seconds_for(self, steps: int) -> float:
        """Returns how long so many steps will take."""
        speed = self.tokens_per_second
        return steps * self._tokens_per_step / speed if speed else 0.0


def measure_peak_flops(dtype: str = "float32") -> float:
    """Measures the matrix-product speed of one device, in FLOP/s.

    Products of square matrices, as large as a transformer's, are timed for a third
    of a second; one of size n counts 2 n^3 operations.

    Args:
        dtype: string. Of the matrices.
    """
    a: Any = tf.cast(tf.random.stateless_normal([PEAK_SIZE] * 2, [0, 1]), dtype)

    @tf.function
    def products(x: tf.Tensor) -> tf.Tensor:
        for _ in range(4):
            x = tf.matmul(x, a) * tf.cast(PEAK_SIZE**-0.5, x.dtype)
        return tf.reduce_sum(x)

    float(products(a))  # traces
    count, started = 0, time.monotonic()
    while time.monotonic() - started < PEAK_SECONDS:
        float(products(a))
        count += 4
    return count * 2 * PEAK_SIZE**3 / (time.monotonic() - started)
