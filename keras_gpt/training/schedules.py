"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_gpt")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to the peak, then a half cosine down to the minimum.

    Step `warmup_steps` has the peak, step `total_steps` and all later ones the
    minimum.

    Args:
        peak: float. Highest learning rate, positive.
        minimum: float in [0, peak]. Learning rate at the end. Defaults to 0.
        warmup_steps: int, at least 0. Steps of the warm-up. Defaults to 0.
        total_steps: int, more than `warmup_steps`. Steps until the minimum.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Radford et al. 2018, section 4.1; Loshchilov & Hutter 2017.
    """

    def __init__(
        self,
        peak: float,
        *,
        total_steps: int,
        minimum: float = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        if not (peak > 0.0 and math.isfinite(peak)):
            raise ValueError(f"peak must be positive and finite, got {peak}.")
        if not 0.0 <= minimum <= peak:
            raise ValueError(f"minimum must be in [0, peak = {peak}], got {minimum}.")
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "warmup_steps must be in [0, total_steps), got "
                f"{warmup_steps} and {total_steps}."
            )
        self.peak = peak
        self.minimum = minimum
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the float32 learning rate of `step` (scalar, from 0)."""
        step = tf.cast(step, tf.float32)
        rising = self.peak * step / max(self.warmup_steps, 1)
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        done = tf.clip_by_value(done, 0.0, 1.0)
        falling = self.minimum + (self.peak - self.minimum) * 0.5 * (
            1.0 + tf.cos(math.pi * done)
        )
        return tf.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "minimum": self.minimum,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
