"""Parts of a training step of a task: its rows cut in parts, their sums, replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

# A mean over examples that sample weights weigh, not over all that there are: so
# neither padding nor the cut of a batch changes it.
MEAN = "mean_with_sample_weight"


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
