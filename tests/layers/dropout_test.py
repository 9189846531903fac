"""Dropout whose noise is a function of seed, step, draw and row."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout, StepNoise, step_noise

RATE = 0.3


def _dropped(rows, *, seed=3, step=5, first_row=0, draws=1, jit=False, x=None):
    layer = Dropout(RATE)
    inputs = tf.ones([rows, 7, 11]) if x is None else x

    @tf.function(jit_compile=jit)
    def run(step, first_row):
        noise = StepNoise(seed=seed, step=step, first_row=first_row)
        with step_noise(noise):
            return [layer(inputs, training=True) for _ in range(draws)]

    results = run(tf.constant(step, tf.int64), tf.constant(first_row, tf.int64))
    return [result.numpy() for result in results]


def test_a_part_of_the_rows_gets_the_noise_of_its_rows():
    (whole,) = _dropped(8)
    np.testing.assert_array_equal(_dropped(3, first_row=2)[0], whole[2:5])
    np.testing.assert_array_equal(_dropped(8, jit=True)[0], whole)


def test_every_seed_step_draw_and_row_has_noise_of_its_own():
    first, second = _dropped(8, draws=2)
    others = [second, _dropped(8, seed=4)[0], _dropped(8, step=6)[0]]
    for other in others:
        # Independent masks of rate 0.3 agree on 0.7^2 + 0.3^2 = 58 % of elements.
        assert 0.5 < np.mean(first == other) < 0.66
    assert len({row.tobytes() for row in first}) == 8
    columns = np.moveaxis(first, 2, 0)
    assert len({column.tobytes() for column in columns}) == 11


def test_the_share_that_stays_and_its_scale():
    (dropped,) = _dropped(400)
    kept = dropped != 0.0
    assert np.mean(kept) == pytest.approx(1.0 - RATE, abs=0.01)
    np.testing.assert_allclose(dropped[kept], 1.0 / (1.0 - RATE), rtol=1e-6)
    # Neighbours are not correlated, along any axis.
    centred = kept - kept.mean()
    for axis in range(3):
        product = np.delete(centred, -1, axis) * np.delete(centred, 0, axis)
        assert abs(product.mean() / centred.var()) < 0.03


def test_what_is_not_finite_is_dropped_whole():
    (clean,) = _dropped(8)
    (dropped,) = _dropped(8, x=tf.fill([8, 7, 11], np.inf))
    assert (dropped[clean == 0.0] == 0.0).all()


def test_without_training_or_noise_it_is_keras_own():
    layer = Dropout(RATE, seed=1)
    x = tf.ones([4, 5])
    with step_noise(StepNoise(seed=0, step=tf.constant(0), first_row=tf.constant(0))):
        np.testing.assert_array_equal(layer(x, training=False), x)
    first, second = layer(x, training=True), layer(x, training=True)
    assert not np.array_equal(first, second)
