"""Learning-rate schedules: a linear warm-up, then one of several ways down."""

from __future__ import annotations

import abc
import math
from typing import Any

import keras
import tensorflow as tf


class Schedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """A linear warm-up from 0 to the peak, and then `_fallen` of the way down.

    Step `warmup_steps` has the peak, step `total_steps` and all later ones the
    minimum.

    Args:
        peak: float. Highest learning rate, positive.
        minimum: float in [0, peak]. Learning rate at the end. Defaults to 0.
        warmup_steps: int, at least 0. Steps of the warm-up. Defaults to 0.
        total_steps: int, more than `warmup_steps`. Steps until the minimum.

    Raises:
        ValueError: if an argument is out of its range.
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
        left = 1.0 - self._fallen(tf.clip_by_value(done, 0.0, 1.0))
        falling = self.minimum + (self.peak - self.minimum) * left
        return tf.where(step < self.warmup_steps, rising, falling)

    @abc.abstractmethod
    def _fallen(self, done: tf.Tensor) -> tf.Tensor:
        """Maps the share of the steps after the warm-up to that of the way down."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "minimum": self.minimum,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


@keras.saving.register_keras_serializable(package="keras_gpt")
class WarmupCosine(Schedule):
    """Linear warm-up, then a half cosine down to the minimum.

    Args: `peak`, `total_steps`, `minimum` and `warmup_steps`, as in every schedule
    here: the highest rate, the step of the minimum, the lowest rate (default 0) and
    the steps of the warm-up (default 0).

    Reference: Radford et al. 2018, section 4.1; Loshchilov & Hutter 2017.
    """

    def _fallen(self, done: tf.Tensor) -> tf.Tensor:
        return 0.5 - 0.5 * tf.cos(math.pi * done)


@keras.saving.register_keras_serializable(package="keras_gpt")
class WarmupLinear(Schedule):
    """Linear warm-up, then a straight line down to the minimum.

    Args: as in `WarmupCosine`.

    Reference: Devlin et al. 2019, appendix A.2.
    """

    def _fallen(self, done: tf.Tensor) -> tf.Tensor:
        return done


@keras.saving.register_keras_serializable(package="keras_gpt")
class WarmupConstantDecay(Schedule):
    """Linear warm-up, the peak for long, then a straight line to the minimum.

    Args: as in `WarmupCosine`, and `decay_fraction`: float in (0, 1], the last share
    of the steps after the warm-up, in which the rate falls. Defaults to 0.2.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Zhai et al. 2022, "Scaling Vision Transformers", section 3.5; Hu et al.
    2024, "MiniCPM", section 4.
    """

    def __init__(self, *args: Any, decay_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0.0 < decay_fraction <= 1.0:
            raise ValueError(
                f"decay_fraction must be in (0, 1], got {decay_fraction}."
            )
        self.decay_fraction = decay_fraction

    def _fallen(self, done: tf.Tensor) -> tf.Tensor:
        return tf.maximum(done - (1.0 - self.decay_fraction), 0.0) / self.decay_fraction

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "decay_fraction": self.decay_fraction}


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": WarmupCosine,
    "linear": WarmupLinear,
    "constant_decay": WarmupConstantDecay,
}
