"""One training step and one evaluation step, under any `tf.distribute` strategy.

Axes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.training.losses import (
    LossSum,
    next_token_loss,
    next_token_loss_sum,
)
from keras_gpt.training.optimizers import ReplicaAdamW

JIT_CHOICES = (True, False, "auto")


class StepMetrics(NamedTuple):
    """What a training step measured, before its update.

    Attributes:
        loss: float32 scalar. Mean cross-entropy in nats per token.
        gradient_norm: float32 scalar. Global norm of the gradients, unclipped.
    """

    loss: tf.Tensor
    gradient_norm: tf.Tensor


def make_train_step(
    backbone: Any,
    *,
    optimizer: Any,
    strategy: tf.distribute.Strategy | None = None,
    clip_norm: float | None = 1.0,
    jit_compile: bool | str = "auto",
) -> Callable[[tf.Tensor], StepMetrics]:
    """Returns a function that trains on one batch of windows.

    Each replica computes its loss and gradients; their means over the replicas,
    which see equally many targets, are those of the whole batch. Only then are the
    gradients clipped and applied, so that the result does not depend on the number
    of replicas. With one replica, all of it is compiled as one function.

    Args:
        backbone: `GPTBackbone`, made in the strategy's scope.
        optimizer: Keras optimizer without clipping, built for the backbone's
            trainable variables in the strategy's scope.
        strategy: `tf.distribute.Strategy`. Defaults to the current one.
        clip_norm: float, positive. Largest global norm of the gradients. None for
            no clipping. Defaults to 1.
        jit_compile: bool or `"auto"`. Whether XLA compiles the step; `"auto"` does
            so with one replica. Defaults to `"auto"`.

    Returns:
        Function of windows, int32 (B, T + 1), to `StepMetrics`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if clip_norm is not None and not clip_norm > 0.0:
        raise ValueError(f"clip_norm must be positive or None, got {clip_norm}.")
    strategy = strategy or tf.distribute.get_strategy()
    jit = _resolve_jit(jit_compile, strategy)
    one_replica = strategy.num_replicas_in_sync == 1
    if not one_replica and not isinstance(optimizer, ReplicaAdamW):
        raise ValueError(
            "optimizer must come from training_optimizer where there are several "
            f"replicas, got {type(optimizer).__name__}: it would sum them twice."
        )
    variables = backbone.trainable_variables

    @tf.function(jit_compile=jit)
    def loss_and_gradients(
        windows: tf.Tensor,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        inputs, targets = windows[:, :-1], windows[:, 1:]
        with tf.GradientTape() as tape:
            hidden = backbone.forward(inputs, training=True).hidden
            loss = next_token_loss(backbone.logits(hidden), targets=targets)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def replica_step(windows: tf.Tensor) -> StepMetrics:
        loss, gradients = loss_and_gradients(windows)
        if not one_replica:
            loss, *gradients = _mean_over_replicas([loss, *gradients])
        norm = tf.linalg.global_norm(gradients)
        if clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        optimizer.apply(gradients, variables)
        return StepMetrics(loss=loss, gradient_norm=norm)

    # Compiled as a whole where no collective stands in the middle: the clipping
    # and the update are then one pass over the weights instead of a dozen.
    compiled = (
        tf.function(replica_step, jit_compile=True)
        if (jit and one_replica)
        else replica_step
    )

    @tf.function
    def train_step(windows: tf.Tensor) -> StepMetrics:
        metrics = strategy.run(compiled, args=(windows,))
        # Equal on every replica after the all-reduce.
        return StepMetrics(
            *(strategy.experimental_local_results(value)[0] for value in metrics)
        )

    return train_step


def make_eval_step(
    backbone: Any,
    *,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool | str = "auto",
) -> Callable[[tf.Tensor, tf.Tensor], LossSum]:
    """Returns a function that scores one batch of windows, without dropout.

    Args:
        backbone: `GPTBackbone`.
        strategy: as in `make_train_step`.
        jit_compile: as in `make_train_step`.

    Returns:
        Function of windows, int32 (B, T + 1), and mask, bool (B, T), true where
        the target counts, to the `LossSum` over all replicas.

    Raises:
        ValueError: if an argument is out of its range.
    """
    strategy = strategy or tf.distribute.get_strategy()

    @tf.function(jit_compile=_resolve_jit(jit_compile, strategy))
    def replica_step(windows: tf.Tensor, mask: tf.Tensor) -> LossSum:
        hidden = backbone.forward(windows[:, :-1], training=False).hidden
        return next_token_loss_sum(
            backbone.logits(hidden), targets=windows[:, 1:], mask=mask
        )

    @tf.function
    def eval_step(windows: tf.Tensor, mask: tf.Tensor) -> LossSum:
        sums = strategy.run(replica_step, args=(windows, mask))
        return LossSum(*(strategy.reduce("SUM", value, axis=None) for value in sums))

    return eval_step


def _resolve_jit(jit_compile: bool | str, strategy: tf.distribute.Strategy) -> bool:
    if jit_compile not in JIT_CHOICES:
        raise ValueError(
            f"jit_compile must be True, False or 'auto', got {jit_compile!r}."
        )
    if jit_compile == "auto":
        return strategy.num_replicas_in_sync == 1
    return bool(jit_compile)


def _mean_over_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
