"""Tests of the loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.losses import next_token_loss, next_token_loss_sum


def _oracle(logits, targets, mask):
    total = 0.0
    for row, target, counts in zip(
        logits.reshape(-1, logits.shape[-1]).astype(np.float64),
        targets.ravel(),
        mask.ravel(),
        strict=True,
    ):
        if counts:
            total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
    return total, mask.sum()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-6)])
def test_mean_over_unmasked_targets(dtype, tolerance):
    generator = np.random.default_rng(0)
    logits = tf.cast(generator.normal(0, 3, [3, 5, 7]), dtype)
    targets = generator.integers(0, 7, [3, 5])
    mask = generator.random([3, 5]) < 0.6
    total, count = _oracle(logits.numpy(), targets, mask)
    sums = next_token_loss_sum(logits, targets=targets, mask=mask)
    assert sums.total.dtype == tf.float32
    np.testing.assert_allclose(sums.total, total, rtol=tolerance)
    assert float(sums.count) == count
    np.testing.assert_allclose(
        next_token_loss(logits, targets=targets, mask=mask),
        total / count,
        rtol=tolerance,
    )
    everything = _oracle(logits.numpy(), targets, np.ones_like(mask))
    np.testing.assert_allclose(
        next_token_loss(logits, targets=targets), everything[0] / 15, rtol=tolerance
    )


def test_masked_logits_may_be_anything():
    logits = np.zeros([1, 2, 3], np.float32)
    logits[0, 1] = np.nan
    loss = next_token_loss(tf.constant(logits), targets=[[1, 0]], mask=[[True, False]])
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    assert (
        float(next_token_loss(tf.zeros([1, 1, 3]), targets=[[0]], mask=[[False]])) == 0
    )
