"""Tests of the learning-rate schedules."""

import math

import keras
import pytest

from keras_gpt.training import WarmupConstantDecay, WarmupCosine, WarmupLinear


def test_values():
    schedule = WarmupCosine(1.0, minimum=0.1, warmup_steps=10, total_steps=110)
    expected = {
        0: 0.0,
        1: 0.1,
        5: 0.5,
        10: 1.0,
        35: 0.1 + 0.45 * (1 + math.cos(math.pi / 4)),
        60: 0.55,
        110: 0.1,
        1000: 0.1,
    }
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6), step


def test_values_of_a_straight_line():
    schedule = WarmupLinear(1.0, minimum=0.2, warmup_steps=10, total_steps=110)
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 35: 0.8, 60: 0.6, 110: 0.2, 1000: 0.2}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6), step


def test_values_of_a_constant_with_decay():
    schedule = WarmupConstantDecay(
        1.0, minimum=0.2, warmup_steps=10, total_steps=110, decay_fraction=0.25
    )
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 60: 1.0, 85: 1.0, 97.5: 0.6, 110: 0.2}
    for step, rate in {**expected, 1000: 0.2}.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-5), step
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"decay_fraction must be in \(0, 1\]"):
            WarmupConstantDecay(1.0, total_steps=5, decay_fraction=fraction)


def test_no_warmup_starts_at_the_peak():
    assert float(WarmupCosine(0.3, total_steps=5)(0)) == pytest.approx(0.3)
    assert float(WarmupCosine(0.3, total_steps=5)(5)) == 0.0


@pytest.mark.parametrize(
    "kind, more",
    [
        (WarmupCosine, {}),
        (WarmupLinear, {}),
        (WarmupConstantDecay, {"decay_fraction": 0.9}),
    ],
)
def test_serializes(kind, more):
    schedule = kind(1.0, minimum=0.1, warmup_steps=10, total_steps=110, **more)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert float(again(35)) == float(schedule(35))


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"peak": 0.0, "total_steps": 5}, "peak"),
        ({"peak": math.inf, "total_steps": 5}, "peak"),
        ({"peak": 1.0, "minimum": 2.0, "total_steps": 5}, "minimum"),
        ({"peak": 1.0, "minimum": -1.0, "total_steps": 5}, "minimum"),
        ({"peak": 1.0, "warmup_steps": 5, "total_steps": 5}, "warmup_steps"),
        ({"peak": 1.0, "warmup_steps": -1, "total_steps": 5}, "warmup_steps"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        WarmupCosine(arguments.pop("peak"), **arguments)
