"""Attention against a naive NumPy oracle."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.layers.attention import attend
from keras_gpt.layers.kv_cache import (
    SLOTS_AT_ONCE,
    KVCache,
    LayerCache,
    cache_rows,
    empty_cache,
    grow,
    move,
    take_rows,
    write,
)
from keras_gpt.layers.masks import AttentionMask
from keras_gpt.layers.mlp import gelu_approximate
from keras_gpt.zero_copy import as_array

RNG = np.random.default_rng(0)


def oracle_attend(query, key, value, mask):
    """Attention with loops over every axis."""
    batch, heads, length, size = query.shape
    out = np.zeros_like(query)
    for b in range(batch):
        for n in range(heads):
            for t in range(length):
                allowed = [s for s in range(key.shape[2]) if mask[b, 0, t, s]]
                scores = [query[b, n, t] @ key[b, n, s] / size**0.5 for s in allowed]
                weights = np.exp(scores) / np.sum(np.exp(scores))
                for weight, s in zip(weights, allowed, strict=True):
                    out[b, n, t] += weight * value[b, n, s]
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attend_matches_the_oracle(dtype):
    query, key, value = (RNG.normal(size=(2, 3, 5, 4)) for _ in range(3))
    mask = AttentionMask()(tf.zeros((2, 5)), tf.constant([[1] * 5, [1, 1, 1, 0, 0]]))
    got = attend(
        tf.cast(query, dtype),
        key=tf.cast(key, dtype),
        value=tf.cast(value, dtype),
        mask=mask,
    )
    expected = oracle_attend(query, key, value, mask.numpy())
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(tf.cast(got, tf.float64), expected, atol=tolerance)


def test_mask_is_causal_and_hides_padded_keys():
    mask = AttentionMask()(tf.zeros((2, 3)), tf.constant([[1, 1, 1], [1, 0, 0]]))
    assert mask.shape == (2, 1, 3, 3)
    assert mask.numpy()[0, 0].tolist() == np.tril(np.ones((3, 3), bool)).tolist()
    assert mask.numpy()[1, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [True, False, True],
    ]


def test_mask_over_a_cache_follows_slots():
    mask = AttentionMask()(
        tf.zeros((2, 1)), slots=tf.constant([[2], [0]]), num_keys=tf.constant(4)
    )
    assert mask.numpy()[:, 0, 0].tolist() == [
        [True, True, True, False],
        [True, False, False, False],
    ]


def test_cache_write_puts_each_token_in_its_slot():
    cache = empty_cache(
        num_layers=1,
        batch_size=2,
        num_heads=2,
        num_slots=4,
        head_dim=3,
        dtype="float32",
    ).layers[0]
    new = RNG.normal(size=(2, 2, 2, 3)).astype(np.float32)
    rows = cache_rows(tf.constant([[0, 1], [3, 2]]), num_heads=2, num_slots=4)
    got = write(LayerCache(*cache), key=new, value=-new, rows=rows)
    expected = np.zeros((2, 2, 4, 3), np.float32)
    expected[0, :, [0, 1]] = new[0].transpose(1, 0, 2)
    expected[1, :, [3, 2]] = new[1].transpose(1, 0, 2)
    np.testing.assert_array_equal(got.key, expected)
    np.testing.assert_array_equal(got.value, -expected)


def random_cache(num_slots):
    def table():
        return tf.constant(RNG.normal(size=(2, 2, num_slots, 3)), tf.float32)

    return KVCache(tuple(LayerCache(table(), table()) for _ in range(2)))


@pytest.mark.parametrize("wanted", [4, 5, 128, 129])
def test_a_cache_grows_and_keeps_what_it_holds(wanted):
    cache = random_cache(4)
    grown = grow(cache, tf.constant(wanted))
    size = 4 if wanted <= 4 else -(-wanted // SLOTS_AT_ONCE) * SLOTS_AT_ONCE
    assert int(grown.num_slots) == size
    for old, new in zip(tf.nest.flatten(cache), tf.nest.flatten(grown), strict=True):
        np.testing.assert_array_equal(new[:, :, :4], old)
        assert not new[:, :, 4:].numpy().any()


def test_slots_move_within_their_rows():
    cache = random_cache(5)
    source, target = np.array([4, 2], np.int32), np.array([1, 2], np.int32)
    moved = move(cache, source=tf.constant(source), target=tf.constant(target))
    for old, new in zip(tf.nest.flatten(cache), tf.nest.flatten(moved), strict=True):
        expected = old.numpy().copy()
        for row in range(2):
            expected[row, :, target[row]] = old[row, :, source[row]]
        np.testing.assert_array_equal(new, expected)


def test_writes_take_the_memory_that_the_cache_has():
    cache = random_cache(4)
    kept = take_rows(cache, tf.constant([0, 1]))
    old = [as_array(table).ctypes.data for table in tf.nest.flatten(cache)]
    before = [table.numpy().copy() for table in tf.nest.flatten(cache)]
    rows = cache_rows(tf.constant([[1], [3]]), num_heads=2, num_slots=4)
    new = tf.ones([2, 2, 1, 3])
    written = [write(layer, key=new, value=-new, rows=rows) for layer in cache.layers]
    for address, table in zip(old, tf.nest.flatten(written), strict=True):
        assert as_array(table).ctypes.data == address
    # A copy of the rows is another's.
    for table, values in zip(tf.nest.flatten(kept), before, strict=True):
        np.testing.assert_array_equal(table, values)


def test_empty_tables_are_never_one_tensor():
    @tf.function
    def fill(num_slots):
        cache = empty_cache(
            num_layers=2,
            batch_size=1,
            num_heads=1,
            num_slots=num_slots,
            head_dim=1,
            dtype="float32",
        )
        cache = grow(cache, tf.constant(3))
        rows = cache_rows(tf.constant([[1]]), num_heads=1, num_slots=cache.num_slots)
        return [
            table[0, 0, :3, 0]
            for index, layer in enumerate(cache.layers)
            for table in write(
                layer,
                key=tf.fill([1, 1, 1, 1], 1.0 + index),
                value=tf.fill([1, 1, 1, 1], 3.0 + index),
                rows=rows,
            )
        ]

    for num_slots in (0, 3):
        got = [table.numpy().tolist() for table in fill(num_slots)]
        assert got == [[0, 1, 0], [0, 3, 0], [0, 2, 0], [0, 4, 0]]


def test_gelu_is_tensorflows_tanh_gelu():
    x = np.linspace(-6, 6, 101).astype(np.float32)
    np.testing.assert_allclose(
        gelu_approximate(tf.constant(x)), tf.nn.gelu(x, approximate=True), atol=1e-6
    )
