"""Settings of a pretraining run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras_gpt.config import GPTConfig
from keras_gpt.data.windows import MAX_SEED
from keras_gpt.training.optimizers import OPTIMIZERS
from keras_gpt.training.schedules import SCHEDULES, Schedule
from keras_gpt.training.step import JIT_CHOICES

# float16 would need loss scaling.
DTYPE_POLICIES = ("float32", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of a pretraining run, checked on construction.

    Args:
        model: `GPTConfig`. Architecture to train.
        steps: int. Optimizer steps.
        batch_size: int. Windows per step, over all replicas and micro-batches (B).
        accumulate: int. Micro-batches per step: less memory, the same result.
            Defaults to 1.
        remat: bool. Whether the backward pass computes blocks again: less memory
            for more work. Defaults to False.
        context_length: int. Tokens per window (T), at most the model's
            `max_sequence_length`. Defaults to that.
        learning_rate: float. Peak of the schedule. Defaults to 1e-3.
        min_learning_rate: float. End of the cosine. Defaults to a tenth of the
            peak.
        schedule: string. How the rate falls after the warm-up: `"cosine"`,
            `"linear"`, or `"constant_decay"`, at the end alone. Defaults to
            `"cosine"`.
        decay_fraction: float in (0, 1]. Of `"constant_decay"`: the last share of the
            steps after the warm-up, in which the rate falls. Defaults to 0.2.
        warmup_steps: int, less than `steps`. Linear warm-up from 0. Defaults to 0.
        optimizer: string. `"adamw"` or `"adafactor"`. Defaults to `"adamw"`.
        beta_1: float in [0, 1). AdamW's first decay. Defaults to 0.9.
        beta_2: float in [0, 1). AdamW's second decay. Defaults to 0.95.
        weight_decay: float, at least 0. On matrices only. Defaults to 0.1.
        clip_norm: float, positive, or None. Largest global norm of the gradients.
            Defaults to 1.
        eval_every: int. Steps between evaluations. Defaults to 250.
        eval_batches: int or None. Batches per evaluation, spread over the held-out
            part; None for all of it. The last evaluation then sees all of it too.
            Defaults to 20.
        checkpoint_every: int. Steps between checkpoints. Defaults to 250.
        keep_checkpoints: int. How many of the newest to keep, besides the best.
            Defaults to 2.
        log_every: int. Steps between progress lines. Defaults to 10.
        patience: int or None. Evaluations without a better loss after which the run
            ends early. Defaults to None, never.
        sample_tokens: int. Tokens that the model writes at each evaluation, for
            TensorBoard; 0 for none. Defaults to 0.
        seed: int in [0, 2**31). Of initialisation, data order and dropout.
            Defaults to 0.
        validation_fraction: float in (0, 1). Share of the text held out, from its
            end. Defaults to 0.1.
        dtype_policy: string. `"float32"` or `"mixed_bfloat16"`. Defaults to
            `"float32"`.
        jit_compile: bool or `"auto"`. As in `make_train_step`. Defaults to
            `"auto"`.

    Raises:
        ValueError: if a field is out of its range.
    """

    model: GPTConfig
    steps: int
    batch_size: int
    accumulate: int = 1
    remat: bool = False
    context_length: int | None = None
    learning_rate: float = 1e-3
    min_learning_rate: float | None = None
    schedule: str = "cosine"
    decay_fraction: float = 0.2
    warmup_steps: int = 0
    optimizer: str = "adamw"
    beta_1: float = 0.9
    beta_2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    eval_every: int = 250
    eval_batches: int | None = 20
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    log_every: int = 10
    patience: int | None = None
    sample_tokens: int = 0
    seed: int = 0
    validation_fraction: float = 0.1
    dtype_policy: str = "float32"
    jit_compile: bool | str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.model, GPTConfig):
            raise ValueError(f"model must be a GPTConfig, got {self.model!r}.")
        if self.context_length is None:
            object.__setattr__(self, "context_length", self.model.max_sequence_length)
        if self.min_learning_rate is None:
            object.__setattr__(self, "min_learning_rate", self.learning_rate / 10)
        self._check_integers()
        self._check_numbers()
        for name, choices in (
            ("dtype_policy", DTYPE_POLICIES),
            ("optimizer", OPTIMIZERS),
            ("schedule", tuple(SCHEDULES)),
            ("jit_compile", JIT_CHOICES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}, "
                    f"got {getattr(self, name)!r}."
                )

    def _check_integers(self) -> None:
        optional = {
            name for name in ("eval_batches", "patience") if getattr(self, name) is None
        }
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "context_length",
            "eval_every",
            "eval_batches",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "patience",
        ):
            if name not in optional:
                _check_integer(name, getattr(self, name), minimum=1)
        _check_integer("seed", self.seed, minimum=0)
        _check_integer("sample_tokens", self.sample_tokens, minimum=0)
        _check_integer("warmup_steps", self.warmup_steps, minimum=0)
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be in [0, {MAX_SEED}], got {self.seed}.")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                "warmup_steps must be less than steps, "
                f"got {self.warmup_steps} and {self.steps}."
            )
        longest = self.model.max_sequence_length
        if self.context_length > longest:  # type: ignore[operator]
            raise ValueError(
                f"context_length must be at most max_sequence_length = {longest}, "
                f"got {self.context_length}."
            )

    def _check_numbers(self) -> None:
        if not (self.learning_rate > 0.0 and math.isfinite(self.learning_rate)):
            raise ValueError(
                f"learning_rate must be positive and finite, got {self.learning_rate}."
            )
        if not 0.0 <= self.min_learning_rate <= self.learning_rate:  # type: ignore
            raise ValueError(
                f"min_learning_rate must be in [0, learning_rate = "
                f"{self.learning_rate}], got {self.min_learning_rate}."
            )
        if not 0.0 < self.decay_fraction <= 1.0:
            raise ValueError(
                f"decay_fraction must be in (0, 1], got {self.decay_fraction}."
            )
        for name in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1), got {getattr(self, name)}."
                )
        if not self.weight_decay >= 0.0:
            raise ValueError(
                f"weight_decay must be at least 0, got {self.weight_decay}."
            )
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ValueError(
                f"clip_norm must be positive or None, got {self.clip_norm}."
            )
        if not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(
                "validation_fraction must be in (0, 1), "
                f"got {self.validation_fraction}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns every field as plain Python data."""
        return dataclasses.asdict(self)

    def learning_rate_schedule(self) -> Schedule:
        """Returns the learning rate as a function of the step."""
        more = {}
        if self.schedule == "constant_decay":
            more["decay_fraction"] = self.decay_fraction
        return SCHEDULES[self.schedule](
            self.learning_rate,
            minimum=self.min_learning_rate or 0.0,
            warmup_steps=self.warmup_steps,
            total_steps=self.steps,
            **more,
        )

    @property
    def tokens_per_step(self) -> int:
        """Targets of one step, `batch_size * context_length`."""
        return self.batch_size * self.context_length  # type: ignore[operator]


def _check_integer(name: str, value: Any, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            f"{name} must be an integer of at least {minimum}, got {value!r}."
        )
