"""Cross-entropy of tasks and of next tokens, and the error where it is no number."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

# Keras' mean over examples by their sample weights, not over all that there are: so
# neither padding nor the cut of a batch changes it.
MEAN = "mean_with_sample_weight"


class DivergenceError(ValueError):
    """The loss became infinite or no number."""


class LossSum(NamedTuple):
    """A loss before its mean, so that batches can be added exactly.

    Attributes:
        total: float32 scalar. Cross-entropy in nats, summed over counted targets.
        count: float32 scalar. Number of counted targets.
    """

    total: tf.Tensor
    count: tf.Tensor


def mean_cross_entropy() -> keras.losses.Loss:
    """Makes the loss of integer labels under logits, a mean by sample weights."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=MEAN)


def next_token_loss_sum(
    logits: tf.Tensor, *, targets: tf.Tensor, mask: tf.Tensor | None = None
) -> LossSum:
    """Sums the cross-entropy of each target under its logits, in float32.

    Args:
        logits: float (B, T, V).
        targets: int32 (B, T). The id that follows each position.
        mask: bool (B, T). True where the target counts. Defaults to everywhere.

    Returns:
        A `LossSum`.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=targets, logits=tf.cast(logits, tf.float32)
    )
    if mask is None:
        return LossSum(tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32))
    # A masked target may have any logits, also such that its loss is not finite.
    counted = tf.where(mask, losses, tf.zeros_like(losses))
    return LossSum(tf.reduce_sum(counted), tf.reduce_sum(tf.cast(mask, tf.float32)))


def next_token_loss(
    logits: tf.Tensor, *, targets: tf.Tensor, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns the mean cross-entropy over counted targets, in nats per token.

    Args:
        logits: float (B, T, V).
        targets: int32 (B, T).
        mask: bool (B, T). True where the target counts. Defaults to everywhere.

    Returns:
        float32 scalar; 0 when nothing counts.
    """
    total, count = next_token_loss_sum(logits, targets=targets, mask=mask)
    return tf.math.divide_no_nan(total, count)
