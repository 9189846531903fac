"""Next-token cross-entropy, and the error where a loss is no number."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


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
