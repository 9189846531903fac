"""A dense layer with a low-rank adapter, against NumPy and Keras' dense layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.layers import Projection
from keras_gpt.layers.dropout import StepNoise, step_noise

RNG = np.random.default_rng(0)
INPUTS, UNITS, RANK, ALPHA = 12, 20, 3, 6.0
ROWS = RNG.normal(size=(10, INPUTS)).astype(np.float32)


def _projection(dropout=None, **options):
    layer = Projection(UNITS, **options)
    layer.build((None, INPUTS))
    if dropout is not None:
        lora = layer.new_lora(RANK, alpha=ALPHA, dropout=dropout)
        lora.kernel_b.assign(RNG.normal(size=(RANK, UNITS)))
        layer.attach_lora(lora)
    return layer


def _delta(layer):
    return ALPHA / RANK * layer.lora_kernel_a.numpy() @ layer.lora_kernel_b.numpy()


def _operations(layer, rows=ROWS):
    graph = tf.function(layer).get_concrete_function(tf.constant(rows)).graph
    return graph.get_operations()


def test_it_adds_the_product_of_both_matrices():
    layer = _projection(dropout=0.0)
    layer.bias.assign(RNG.normal(size=UNITS))
    whole = layer.base_kernel.numpy() + _delta(layer)
    np.testing.assert_allclose(layer(ROWS), ROWS @ whole + layer.bias, atol=1e-5)
    np.testing.assert_allclose(layer.kernel, whole, atol=1e-6)
    assert np.abs(_delta(layer)).max() > 0.1


def test_the_product_of_the_matrices_is_never_made():
    products = [
        tuple(op.outputs[0].shape)
        for op in _operations(_projection(dropout=0.0))
        if op.type == "MatMul"
    ]
    assert sorted(products) == [(10, RANK), (10, UNITS), (10, UNITS)]


def test_without_an_adapter_the_graph_is_that_of_keras_dense():
    ours, theirs = _projection(), keras.layers.Dense(UNITS)
    theirs.build((None, INPUTS))
    expected = [op.type for op in _operations(theirs)]
    assert [op.type for op in _operations(ours)] == expected
    lora = ours.new_lora(RANK, alpha=ALPHA, dropout=0.5)
    ours.attach_lora(lora)
    assert [op.type for op in _operations(ours)] != expected
    ours.detach_lora()
    assert [op.type for op in _operations(ours)] == expected
    assert ours.kernel is ours.base_kernel
    assert [weight.name for weight in ours.weights] == ["kernel", "bias"]
    assert not ours.drops and len(ours.variables) == 2


def test_a_new_adapter_is_he_normal_times_zero():
    layer = Projection(UNITS)
    layer.build((None, 500))
    lora = layer.new_lora(200, alpha=1.0)
    assert lora.kernel_a.numpy().std() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert not lora.kernel_b.numpy().any()


def test_dropout_is_for_the_adapter_alone_and_goes_by_text():
    layer = Projection(INPUTS)
    layer.build((None, INPUTS))
    lora = layer.new_lora(INPUTS, alpha=float(INPUTS), dropout=0.5)
    for variable in lora.variables:  # it adds its inputs, dropped
        variable.assign(np.eye(INPUTS))
    layer.attach_lora(lora)
    texts = RNG.normal(size=(4, 5, INPUTS)).astype(np.float32)

    def change(texts, first_row):
        noise = StepNoise(seed=1, step=tf.constant(2), first_row=tf.constant(first_row))
        rows = texts.reshape([-1, INPUTS])
        with step_noise(noise):
            outputs = layer(rows, training=True, batch=texts)
        return (outputs - rows @ layer.base_kernel.numpy()).numpy().reshape(texts.shape)

    whole = change(texts, 0)
    kept = np.abs(whole) > 1e-4
    np.testing.assert_allclose(whole, np.where(kept, 2.0 * texts, 0.0), atol=1e-4)
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(change(texts[1:3], 1), whole[1:3], atol=1e-5)
    still = texts @ (layer.base_kernel.numpy() + np.eye(INPUTS))
    np.testing.assert_allclose(layer(texts, training=False), still, atol=1e-5)


def test_mixed_precision_keeps_the_kernel_whole():
    layer = _projection(dropout=0.0, dtype="mixed_bfloat16")
    assert layer(ROWS).dtype == tf.bfloat16
    # Keras rounds it to the compute dtype, in which checkpoints then have it.
    assert layer.kernel.dtype == tf.float32
    whole = layer.base_kernel.numpy() + _delta(layer)
    np.testing.assert_allclose(layer.kernel, whole, atol=1e-6)
    np.testing.assert_allclose(
        tf.cast(layer(ROWS), tf.float32), ROWS @ whole, atol=0.2
    )
