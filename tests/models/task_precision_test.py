"""`fit` of tasks compiled by XLA and in half precision, against neither."""

import keras
import numpy as np
import pytest

from tests.models.tasks_test import CASES, make, trained


def compiled(task, **options):
    task.compile(
        keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5), seed=5, **options
    )
    return task


@pytest.mark.slow
def test_xla_and_half_precision_train_alike(tokenizer):
    name = "answering"
    _, x, y, _ = CASES[name]
    losses, weights = trained(make(name, tokenizer), x, y)
    task = compiled(make(name, tokenizer), jit_compile=True, accumulate=2)
    by_xla = trained(task, x, y)
    assert task.jit_compile
    np.testing.assert_allclose(by_xla[0], losses, rtol=1e-5)
    for found, expected in zip(by_xla[1], weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        task = make(name, tokenizer)
    finally:
        keras.config.set_dtype_policy(policy)
    assert task.backbone.compute_dtype == "bfloat16"
    half = trained(task, x, y)
    assert half[0] != losses
    np.testing.assert_allclose(half[0], losses, rtol=1e-2)
    assert {weight.dtype.name for weight in half[1]} == {"float32"}
