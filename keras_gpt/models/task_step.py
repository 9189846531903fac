"""The training step of tasks: its rows cut in parts, their sums, replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt.layers.dropout import StepNoise, step_noise
from keras_gpt.layers.sequences import merged_rows
from keras_gpt.losses import MEAN, next_token_loss_sum

# A class of Keras' own at the root would make a cycle of Keras' functional models.
_Base: Any = keras_nlp.models.Task if TYPE_CHECKING else object


class Examples(NamedTuple):
    """What the data of a step are: rows of inputs, targets and their weights.

    Attributes:
        x: dict of tensors.
        y: tensors, or None.
        sample_weight: tensors, or None.
    """

    x: Any
    y: Any
    sample_weight: Any

    @property
    def rows(self) -> tf.Tensor:
        """Int32 scalar, their number."""
        return tf.shape(tf.nest.flatten(self.x)[0])[0]


class Weights(NamedTuple):
    """By what the parts of a batch count.

    Attributes:
        task: float32 scalar. Of the task's loss.
        tokens: float32 scalar. Next tokens, of the auxiliary loss.
    """

    task: tf.Tensor
    tokens: tf.Tensor


class TaskStep(_Base):
    """Trains and measures a task on one batch.

    Training sums the gradients over micro-batches and replicas, each weighed by its
    share of the batch, and only then clips and applies them; dropout is drawn by the
    row of the whole batch. So the result depends neither on the number of devices of
    a `tf.distribute.MirroredStrategy` nor on `accumulate`.
    """

    accumulate: int
    auxiliary_lm_weight: float
    dropout_seed: int

    def train_step(self, data: Any) -> dict[str, Any]:
        """Trains on one batch, or on a replica's part of it; called by `fit`."""
        batch = Examples(*keras.utils.unpack_x_y_sample_weight(data))
        own = self._weights_of(batch)
        first_row, whole = across_replicas(batch.rows, own)
        loss, gradients = self._sums(batch, first_row, whole)
        share = tf.math.divide_no_nan(whole.task, own.task)
        self._loss_tracker.update_state(loss * share, sample_weight=own.task)
        if num_replicas() > 1:
            gradients = all_reduce(gradients)
        with taken_as_summed(self.optimizer):
            self.optimizer.apply(gradients, self.trainable_variables)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measures one batch; called by `evaluate`. The loss is the task's alone."""
        batch = Examples(*keras.utils.unpack_x_y_sample_weight(data))
        outputs = self(batch.x, training=False)
        loss = self._task_loss(batch, outputs, training=False)
        weight = self._weights_of(batch).task
        self._loss_tracker.update_state(loss, sample_weight=weight)
        return self.compute_metrics(*batch[:2], outputs, batch.sample_weight)

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        # Keras adds up what replicas get to know its form, which fails for masks and
        # for replicas with different numbers of rows.
        if iterator is not None and self.distribute_strategy.num_replicas_in_sync > 1:
            batch = next(next(iter(iterator))[2])
            parts = self.distribute_strategy.experimental_local_results
            data_batch = tf.nest.map_structure(lambda part: parts(part)[0], batch)
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _sums(
        self, batch: Examples, first_row: tf.Tensor, whole: Weights
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """Returns what these rows add to loss and gradients of the whole batch."""
        if self.accumulate == 1:
            return self._part(batch, first_row, whole)
        rows = batch.rows
        count = num_parts(rows, at_least=self.accumulate)
        size = rows // count
        parts = map_tensors(lambda tensor: cut(tensor, count, size), batch)
        absent: list[int] = []

        def add(index: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            part = map_tensors(lambda tensor: tensor[index], parts)
            loss, gradients = self._part(part, first_row + index * size, whole)
            absent[:] = [i for i, g in enumerate(gradients) if g is None]
            more = [0.0 if tensor is None else tensor for tensor in (loss, *gradients)]
            return index + 1, *(a + b for a, b in zip(sums, more, strict=True))

        zeros = [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables]
        _, loss, *gradients = tf.while_loop(
            lambda index, *_: index < count,
            add,
            (tf.constant(0), tf.constant(0.0), *zeros),
        )
        return loss, [None if i in absent else g for i, g in enumerate(gradients)]

    def _part(
        self, batch: Examples, first_row: tf.Tensor, whole: Weights
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        noise = StepNoise(
            seed=self.dropout_seed,
            step=self.optimizer.iterations.value,
            first_row=first_row,
            num_rows=batch.rows,
        )
        with tf.GradientTape() as tape:
            with step_noise(noise):
                hidden = self.hidden_of(batch.x, training=True)
                outputs = self.outputs_of(hidden, batch.x, training=True)
            own = self._weights_of(batch)
            share = tf.math.divide_no_nan(own.task, whole.task)
            loss = share * self._task_loss(batch, outputs, training=True)
            if self.auxiliary_lm_weight:
                total = self._next_token_loss(hidden, batch.x)
                mean = tf.math.divide_no_nan(total, whole.tokens)
                loss += self.auxiliary_lm_weight * mean
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.compute_metrics(*batch[:2], outputs, batch.sample_weight)
        return loss, [None if g is None else tf.convert_to_tensor(g) for g in gradients]

    def _task_loss(self, batch: Examples, outputs: Any, *, training: bool) -> tf.Tensor:
        """Returns the compiled loss of these rows, and what layers add to it."""
        loss = self.compute_loss(
            batch.x, batch.y, outputs, batch.sample_weight, training=training
        )
        return loss * num_replicas()  # by which Keras divides it

    def _next_token_loss(self, hidden: tf.Tensor, x: Any) -> tf.Tensor:
        token_ids, mask = merged_rows(x["token_ids"]), merged_rows(x["padding_mask"])
        return next_token_loss_sum(
            self.backbone.logits(hidden[:, :-1]),
            targets=token_ids[:, 1:],
            mask=tf.cast(mask[:, 1:], tf.bool),
        ).total

    def _weights_of(self, batch: Examples) -> Weights:
        mask = merged_rows(batch.x["padding_mask"])
        weights = batch.sample_weight
        task = tf.cast(batch.rows, tf.float32)
        if isinstance(weights, tf.Tensor) and is_weighed_mean(self.loss):
            task = tf.reduce_sum(tf.cast(weights, tf.float32))
        return Weights(task, tf.reduce_sum(tf.cast(mask[:, 1:], tf.float32)))


def is_weighed_mean(loss: Any) -> bool:
    """Returns whether a loss, or all of several, is such a mean."""
    losses = keras.tree.flatten(loss)
    return all(getattr(one, "reduction", None) == MEAN for one in losses)


def num_parts(rows: tf.Tensor, *, at_least: int) -> tf.Tensor:
    """Returns the smallest number of equal parts, at least so many if there are."""
    numbers = tf.range(1, tf.maximum(rows, 1) + 1)  # a replica may have no row
    fits = (rows % numbers == 0) & (numbers >= tf.minimum(at_least, rows))
    return tf.reduce_min(tf.where(fits, numbers, rows))


def cut(tensor: tf.Tensor, num_parts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns (num_parts, size, ...), of a tensor (num_parts * size, ...)."""
    shape = tf.concat([[num_parts, size], tf.shape(tensor)[1:]], axis=0)
    parts = tf.reshape(tensor, shape)
    return tf.ensure_shape(parts, [None, None, *tensor.shape[1:]])


def map_tensors(function: Any, batch: Examples) -> Examples:
    """Applies a function to all tensors; what is absent stays so."""
    return tf.nest.map_structure(
        lambda tensor: None if tensor is None else function(tensor), batch
    )


def num_replicas() -> int:
    """Returns how many replicas train together."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_reduce(tensors: Any) -> Any:
    """Sums over the replicas; what is absent stays so."""
    present = [tensor for tensor in tensors if tensor is not None]
    context = tf.distribute.get_replica_context()
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(summed) for tensor in tensors]


def across_replicas(rows: tf.Tensor, own: Weights) -> tuple[tf.Tensor, Weights]:
    """Returns the number of a replica's first row, and the whole batch's weights."""
    count = num_replicas()
    if count == 1:
        return tf.constant(0), own
    context = tf.distribute.get_replica_context()
    index = context.replica_id_in_sync_group
    # As floats, for integers are on the host, which sums them apart from the weights.
    rows_by_replica = tf.one_hot(index, count) * tf.cast(rows, tf.float32)
    rows_by_replica, *whole = all_reduce([rows_by_replica, *own])
    before = tf.where(tf.range(count) < index, rows_by_replica, 0.0)
    return tf.cast(tf.reduce_sum(before), tf.int32), Weights(*whole)


@contextlib.contextmanager
def taken_as_summed(optimizer: Any) -> Iterator[None]:
    """Keeps a Keras optimizer from summing over the replicas, after its clipping."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    try:
        yield
    finally:
        # Replicas are threads that have all come past it when the first one ends.
        vars(inner).pop("_all_reduce_sum_gradients", None)
