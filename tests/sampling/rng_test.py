"""Threefry against Random123's published known answers."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling.rng import threefry2x32, uniform

# Random123, tests/kat_vectors, lines "threefry2x32 20": counter, key, answer.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def as_int32(words):
    return tuple(tf.constant(np.array([w], np.uint32).view(np.int32)) for w in words)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer, jit_compile):
    function = tf.function(threefry2x32, jit_compile=jit_compile)
    words = function(as_int32(key), as_int32(counter))
    got = tuple(int(word.numpy().view(np.uint32)[0]) for word in words)
    assert got == answer


def test_uniform_is_flat_and_open():
    seeds = tf.range(20_000, dtype=tf.int64)
    numbers = uniform(seeds, tf.constant(3)).numpy()
    assert numbers.dtype == np.float32
    assert 0.0 < numbers.min() and numbers.max() < 1.0
    counts, _ = np.histogram(numbers, bins=20, range=(0.0, 1.0))
    chi_square = np.sum((counts - 1000.0) ** 2 / 1000.0)
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001


def test_uniform_uses_both_halves_of_the_seed_and_the_step():
    seeds = tf.constant([7, 7 + 2**32, -7], tf.int64)
    first = uniform(seeds, tf.constant(0)).numpy()
    second = uniform(seeds, tf.constant(1)).numpy()
    assert len(set(first) | set(second)) == 6
