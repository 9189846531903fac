"""One training step and one evaluation step, the same for every strategy.

Axes: B batch, T positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.layers.dropout import StepNoise, step_noise
from keras_gpt.layers.masks import segment_mask, segment_positions
from keras_gpt.losses import LossSum, next_token_loss_sum
from keras_gpt.training.mesh import MeshStrategy
from keras_gpt.training.optimizers import is_summed
from keras_gpt.training.strategy import Strategy, on_replicas

JIT_CHOICES = (True, False, "auto")


class StepMetrics(NamedTuple):
    """What a training step measured, before its update.

    Attributes:
        loss: float32 scalar. Mean cross-entropy in nats per counted target.
        gradient_norm: float32 scalar. Global norm of the gradients, unclipped.
    """

    loss: tf.Tensor
    gradient_norm: tf.Tensor


class _Sums(NamedTuple):
    """Sums over some of a batch's rows, over the number of all its targets.

    So of a batch whose targets all count, the sum of the parts is the mean.

    Attributes:
        loss: float32 scalar.
        counted: float32 scalar, of counted targets. None where all count.
        gradients: list of float32 tensors.
    """

    loss: tf.Tensor
    counted: tf.Tensor | None
    gradients: list[tf.Tensor]

    def tensors(self) -> list[tf.Tensor]:
        """Returns what there is, in order."""
        counted = [] if self.counted is None else [self.counted]
        return [self.loss, *counted, *self.gradients]

    def with_tensors(self, tensors: Sequence[tf.Tensor]) -> _Sums:
        """Returns the like with others in the place of `tensors()`."""
        loss, *others = tensors
        counted = None if self.counted is None else others.pop(0)
        return _Sums(loss, counted, others)


def make_train_step(
    backbone: Any,
    *,
    optimizer: Any,
    strategy: Strategy | None = None,
    clip_norm: float | None = 1.0,
    accumulate: int = 1,
    remat: bool = False,
    seed: int = 0,
    jit_compile: bool | str = "auto",
) -> Callable[[ExampleBatch], StepMetrics]:
    """Returns a function that trains on one batch.

    The gradients are summed over micro-batches and replicas, divided by the number
    of counted targets, clipped, and only then applied: the result depends neither on
    the number of replicas nor on `accumulate`. With one replica, all of it is
    compiled as one function.

    Args:
        backbone: `GPTBackbone`, made in the strategy's scope. A mesh takes a copy of
            the weights, to be read with `MeshStrategy.read`.
        optimizer: from `training_optimizer`, built for the backbone's trainable
            variables in the strategy's scope. Its `iterations` number the steps.
        strategy: `tf.distribute.Strategy` or `MeshStrategy`. Defaults to the current
            `tf.distribute` one.
        clip_norm: float, positive. Largest global norm of the gradients. None for
            no clipping. Defaults to 1.
        accumulate: int, positive. Micro-batches into which each replica's rows are
            cut, computed one after the other. Defaults to 1.
        remat: bool. Whether blocks are computed again in the backward pass. Defaults
            to False.
        seed: int in [0, 2**31). Of dropout. Defaults to 0.
        jit_compile: bool or `"auto"`. Whether XLA compiles the step; `"auto"` does
            so with one replica, never on a mesh. Defaults to `"auto"`.

    Returns:
        Function of an `ExampleBatch` to `StepMetrics`. The batch holds the rows of
        this process, `strategy.local_rows` tells which.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if clip_norm is not None and not clip_norm > 0.0:
        raise ValueError(f"clip_norm must be positive or None, got {clip_norm}.")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}.")
    strategy = strategy or tf.distribute.get_strategy()
    jit = _resolve_jit(jit_compile, strategy)
    variables = backbone.trainable_variables
    shares = accumulate * strategy.num_replicas_in_sync

    def sums(batch: ExampleBatch, first_row: tf.Tensor) -> _Sums:
        values = [variable.value for variable in variables]
        noise = StepNoise(
            seed=seed, step=optimizer.iterations.value, first_row=first_row
        )
        with tf.GradientTape() as tape:
            tape.watch(values)
            with step_noise(noise):
                total, count = _loss_sum(backbone, batch, training=True, remat=remat)
            targets = shares * tf.size(batch.windows[:, 1:])
            scale = 1.0 / tf.cast(targets, tf.float32)
            loss = total * scale
        gradients = tape.gradient(loss, values)
        return _Sums(
            loss,
            None if batch.mask is None else count * scale,
            [tf.convert_to_tensor(gradient) for gradient in gradients],
        )

    def update(total: _Sums) -> StepMetrics:
        loss, gradients = total.loss, total.gradients
        if total.counted is not None:
            loss = tf.math.divide_no_nan(loss, total.counted)
            gradients = [tf.math.divide_no_nan(g, total.counted) for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        if clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        optimizer.apply(gradients, variables)
        return StepMetrics(loss=loss, gradient_norm=norm)

    if isinstance(strategy, MeshStrategy):
        return _mesh_step(strategy, backbone, optimizer, sums, update, accumulate)
    return _replica_step(strategy, optimizer, sums, update, accumulate, jit)


def make_eval_step(
    backbone: Any,
    *,
    strategy: Strategy | None = None,
    jit_compile: bool | str = "auto",
) -> Callable[[ExampleBatch], LossSum]:
    """Returns a function that scores one batch, without dropout.

    Args:
        backbone: `GPTBackbone`.
        strategy: as in `make_train_step`.
        jit_compile: as in `make_train_step`.

    Returns:
        Function of an `ExampleBatch` to the `LossSum` over all replicas.

    Raises:
        ValueError: if an argument is out of its range.
    """
    strategy = strategy or tf.distribute.get_strategy()
    jit = _resolve_jit(jit_compile, strategy)

    @tf.function(jit_compile=jit)
    def score(batch: ExampleBatch) -> LossSum:
        return _loss_sum(backbone, batch, training=False)

    if isinstance(strategy, MeshStrategy):
        placed = strategy.place(backbone)

        @tf.function
        def mesh_step(batch: ExampleBatch) -> LossSum:
            with placed.values():
                return score(batch)

        return lambda batch: mesh_step(strategy.split(batch))

    @tf.function
    def eval_step(batch: ExampleBatch) -> LossSum:
        sums = strategy.run(score, args=(batch,))
        return LossSum(*(strategy.reduce("SUM", value, axis=None) for value in sums))

    return lambda batch: eval_step(on_replicas(strategy, batch)[0])


def _loss_sum(
    backbone: Any, batch: ExampleBatch, *, training: bool, remat: bool = False
) -> LossSum:
    """Runs the network: the loss summed over the counted targets of a batch."""
    # Only what is wanted: networks of other kinds know neither remat nor masks.
    kwargs: dict[str, Any] = {"training": training}
    if remat:
        kwargs["remat"] = True
    if batch.segments is not None:
        kwargs["mask"] = segment_mask(batch.segments[:, :-1])
        kwargs["positions"] = segment_positions(kwargs["mask"])
    hidden = backbone.forward(batch.windows[:, :-1], **kwargs).hidden
    return next_token_loss_sum(
        backbone.logits(hidden), targets=batch.windows[:, 1:], mask=batch.mask
    )


def _replica_step(
    strategy: tf.distribute.Strategy,
    optimizer: Any,
    sums: Callable[..., _Sums],
    update: Callable[[_Sums], StepMetrics],
    accumulate: int,
    jit: bool,
) -> Callable[[ExampleBatch], StepMetrics]:
    one_replica = strategy.num_replicas_in_sync == 1
    if not one_replica and not is_summed(optimizer):
        raise ValueError(
            "optimizer must come from training_optimizer where there are several "
            f"replicas, got {type(optimizer).__name__}: it would sum them twice."
        )

    @tf.function(jit_compile=jit)
    def replica_sums(batch: ExampleBatch, first_row: tf.Tensor) -> _Sums:
        if accumulate == 1:
            return sums(batch, first_row)
        return _accumulated(sums, batch, first_row, accumulate)

    def replica_step(batch: ExampleBatch, first_row: tf.Tensor) -> StepMetrics:
        total = replica_sums(batch, first_row)
        return update(total if one_replica else _sum_over_replicas(total))

    # Compiled as a whole where no collective stands in the middle: the clipping
    # and the update are then one pass over the weights instead of a dozen.
    compiled = (
        tf.function(replica_step, jit_compile=True)
        if (jit and one_replica)
        else replica_step
    )

    @tf.function
    def train_step(batch: ExampleBatch, first_row: tf.Tensor) -> StepMetrics:
        metrics = strategy.run(compiled, args=(batch, first_row))
        # Equal on every replica after the all-reduce.
        return StepMetrics(
            *(strategy.experimental_local_results(value)[0] for value in metrics)
        )

    return lambda batch: train_step(*on_replicas(strategy, batch))


def _accumulated(
    sums: Callable[..., _Sums],
    batch: ExampleBatch,
    first_row: tf.Tensor,
    accumulate: int,
) -> _Sums:
    """Adds up the sums of micro-batches, computed one after the other."""
    rows = batch.windows.shape[0] // accumulate
    parts = batch.map(
        lambda field: tf.reshape(field, [accumulate, rows, *field.shape[1:]])
    )

    def part(index: tf.Tensor) -> _Sums:
        start = tf.cast(index * rows, first_row.dtype)
        return sums(parts.map(lambda field: field[index]), first_row + start)

    def add(index: tf.Tensor, *total: tf.Tensor) -> tuple[tf.Tensor, ...]:
        more = part(index).tensors()
        return index + 1, *(a + b for a, b in zip(total, more, strict=True))

    first = part(tf.constant(0))
    _, *total = tf.while_loop(
        lambda index, *_: index < accumulate,
        add,
        (tf.constant(1), *first.tensors()),
        maximum_iterations=accumulate - 1,
    )
    return first.with_tensors(total)


def _added(total: _Sums, more: _Sums) -> _Sums:
    pairs = zip(total.tensors(), more.tensors(), strict=True)
    return total.with_tensors([a + b for a, b in pairs])


def _sum_over_replicas(total: _Sums) -> _Sums:
    context = tf.distribute.get_replica_context()
    return total.with_tensors(
        context.all_reduce(tf.distribute.ReduceOp.SUM, total.tensors())
    )


def _mesh_step(
    strategy: MeshStrategy,
    backbone: Any,
    optimizer: Any,
    sums: Callable[..., _Sums],
    update: Callable[[_Sums], StepMetrics],
    accumulate: int,
) -> Callable[[ExampleBatch], StepMetrics]:
    placed = strategy.place(backbone, optimizer=optimizer)

    @tf.function
    def mesh_sums(batch: ExampleBatch, first_row: tf.Tensor) -> _Sums:
        with placed.values():
            return sums(batch, first_row)

    add = tf.function(_added)

    @tf.function
    def mesh_update(total: _Sums) -> StepMetrics:
        with placed.values() as scope:
            metrics = update(total)
        placed.assign(scope)
        return metrics

    def train_step(batch: ExampleBatch) -> StepMetrics:
        total = None
        rows = len(batch.windows) // accumulate
        for start in range(0, rows * accumulate, rows):
            micro = batch.map(operator.itemgetter(slice(start, start + rows)))
            part = mesh_sums(strategy.split(micro), strategy.replicated(start))
            total = part if total is None else add(total, part)
        return mesh_update(total)

    return train_step


def _resolve_jit(jit_compile: bool | str, strategy: Strategy) -> bool:
    if jit_compile not in JIT_CHOICES:
        raise ValueError(
            f"jit_compile must be True, False or 'auto', got {jit_compile!r}."
        )
    if isinstance(strategy, MeshStrategy):
        if jit_compile is True:
            raise ValueError("jit_compile must not be True on a mesh.")
        return False
    if jit_compile == "auto":
        return strategy.num_replicas_in_sync == 1
    return bool(jit_compile)
