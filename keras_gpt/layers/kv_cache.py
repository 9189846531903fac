"""The key/value cache of incremental decoding.

A cache holds, for each block, the keys and values of the tokens seen so far. The
token at position p of a row lies in slot p of that row, so rows of different
lengths share one cache and the causal rule `slot <= position` is the only mask
that decoding needs: whatever padding wrote into later slots is overwritten before
any query may look there.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class LayerCache(NamedTuple):
    """Cache of one block.

    Attributes:
        key: (B, N, S, H), the compute dtype.
        value: (B, N, S, H), the compute dtype.
    """

    key: tf.Tensor
    value: tf.Tensor


class KVCache(NamedTuple):
    """Cache of a whole model.

    Attributes:
        layers: one `LayerCache` per block, bottom first.
    """

    layers: tuple[LayerCache, ...]

    @property
    def num_slots(self) -> tf.Tensor:
        """int32 scalar. How many tokens of a row the cache can hold (S)."""
        return tf.shape(self.layers[0].key)[2]


def empty_cache(
    *,
    num_layers: int,
    batch_size: int | tf.Tensor,
    num_heads: int,
    num_slots: int | tf.Tensor,
    head_dim: int,
    dtype: str,
) -> KVCache:
    """Returns a cache of zeros.

    Args:
        num_layers: int. Number of blocks.
        batch_size: int or int32 scalar (B).
        num_heads: int (N).
        num_slots: int or int32 scalar (S). Capacity, in tokens per row.
        head_dim: int (H).
        dtype: string. The model's compute dtype.
    """

    def zeros() -> tf.Tensor:
        shape = tf.stack([batch_size, num_heads, num_slots, head_dim])
        tensor = tf.zeros(shape, dtype)
        return tf.ensure_shape(tensor, [None, num_heads, None, head_dim])

    return KVCache(tuple(LayerCache(zeros(), zeros()) for _ in range(num_layers)))


def write(
    cache: LayerCache, *, key: tf.Tensor, value: tf.Tensor, positions: tf.Tensor
) -> LayerCache:
    """Writes the keys and values of new tokens into their slots.

    A scatter rather than an XLA update, so that exported graphs run where XLA is
    off. TensorFlow runs it in place when nothing else holds the cache.

    Args:
        cache: `LayerCache` with S slots.
        key: (B, N, T, H). Keys of the new tokens.
        value: (B, N, T, H). Values of the new tokens.
        positions: int32 (B, T). Slot of each new token, below S, distinct in a row.

    Returns:
        The `LayerCache` after the write, of the same shape.
    """
    shape = tf.shape(cache.key)
    rows = tf.range(shape[0] * shape[1]) * shape[2]
    rows = tf.reshape(rows, [shape[0], shape[1], 1]) + positions[:, None, :]
    indices = tf.reshape(rows, [-1, 1])
    return LayerCache(
        _scatter_rows(cache.key, indices=indices, updates=key),
        _scatter_rows(cache.value, indices=indices, updates=value),
    )


def _scatter_rows(
    table: tf.Tensor, *, indices: tf.Tensor, updates: tf.Tensor
) -> tf.Tensor:
    """Updates rows of `table` (B, N, S, H), numbered through its first three axes."""
    head_dim = table.shape[-1]
    flat = tf.tensor_scatter_nd_update(
        tf.reshape(table, [-1, head_dim]),
        indices,
        tf.reshape(tf.cast(updates, table.dtype), [-1, head_dim]),
    )
    return tf.ensure_shape(tf.reshape(flat, tf.shape(table)), table.shape)
