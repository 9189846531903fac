"""Tests of how speed and waiting are told."""

import itertools
import time

import pytest
import tensorflow as tf

from keras_gpt.training import speed
from keras_gpt.training.speed import Speed, measure_peak_flops


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_only_training_counts(clock):
    meter = Speed(tokens_per_step=100)
    assert meter.tokens_per_second is None and meter.data_wait is None
    clock.now = 50.0
    meter.count(tf.constant(1.0))  # compiles
    for _ in range(4):
        clock.now += 2.0
        meter.count(tf.constant(1.0))
    meter.mark()
    clock.now += 1000.0  # an evaluation
    meter.pause()
    clock.now += 2.0
    meter.count(tf.constant(1.0))
    meter.mark()
    assert meter.tokens_per_second == pytest.approx(50.0)
    assert meter.seconds_for(7) == pytest.approx(14.0)


def test_waiting_is_a_share_of_the_time(clock):
    def slow():
        for index in itertools.count():
            clock.now += 1.0
            yield index

    meter = Speed(tokens_per_step=1)
    batches = meter.timed(slow())
    next(batches)
    meter.count(tf.constant(1.0))
    for _ in range(3):
        next(batches)
        clock.now += 3.0
        meter.count(tf.constant(1.0))
    meter.mark()
    assert meter.data_wait == pytest.approx(0.25)
    assert list(meter.timed(iter([]))) == []


def test_the_peak_is_that_of_matrix_products():
    peak = measure_peak_flops()
    matrix = tf.random.stateless_normal([1024, 1024], [0, 1])
    float(tf.reduce_sum(tf.matmul(matrix, matrix)))
    started = time.monotonic()
    for _ in range(5):
        float(tf.reduce_sum(tf.matmul(matrix, matrix)))
    alone = 5 * 2 * 1024**3 / (time.monotonic() - started)
    # The machine may be busy with other tests: of one order of magnitude.
    assert 0.1 < peak / alone < 10.0
