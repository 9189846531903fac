"""The key/value cache of incremental decoding.

A cache holds, for each block, the keys and values of the tokens seen so far. The
token at position p of a row lies in slot p of that row, so rows of different
lengths share one cache and the causal rule `slot <= position` is the only mask
that decoding needs: whatever padding wrote into later slots is overwritten before
any query may look there.

New tokens are written into the memory that the cache has: TensorFlow's other ways,
`tensor_scatter_nd_update` and `where`, copy the whole table at each step. So a cache
that was written to is used up, and only the one that came back may be read; and its
tables come from ops that TensorFlow never merges, or those of two layers might become
one. `take_rows` makes a copy that is free to use.

Other runtimes have other ways. XLA has no `InplaceUpdate`, and itself turns a scatter
into a write in place. LiteRT writes in place by `DYNAMIC_UPDATE_SLICE` alone: there a
cache has one row, and new tokens take slots that follow each other.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from keras_gpt.layers.runtime import runtime

# A cache is copied each time it grows, and attention looks at up to so many slots more
# than are in use.
SLOTS_AT_ONCE = 128


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
        # Unlike tf.zeros, it is never one tensor for several uses.
        tensor = tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=True)
        return tf.ensure_shape(tensor, [None, num_heads, None, head_dim])

    return KVCache(tuple(LayerCache(zeros(), zeros()) for _ in range(num_layers)))


def grow(cache: KVCache, num_slots: tf.Tensor) -> KVCache:
    """Returns the cache with room for at least `num_slots` tokens a row.

    It grows by `SLOTS_AT_ONCE`, so that it is rarely copied, and attention never looks
    at many more slots than are in use.
    """
    size = (num_slots + SLOTS_AT_ONCE - 1) // SLOTS_AT_ONCE * SLOTS_AT_ONCE
    new_slots = size - cache.num_slots

    def pad() -> KVCache:
        padding = [[0, 0], [0, 0], [0, new_slots], [0, 0]]
        return tf.nest.map_structure(lambda table: tf.pad(table, padding), cache)

    grown = tf.cond(num_slots > cache.num_slots, pad, lambda: cache)
    return tf.nest.map_structure(
        lambda new, old: tf.ensure_shape(new, growing_shape(old.shape)), grown, cache
    )


def take_rows(cache: KVCache, rows: tf.Tensor) -> KVCache:
    """Returns a copy of the rows numbered `rows`, int32 (B',)."""
    return tf.nest.map_structure(lambda table: tf.gather(table, rows), cache)


def growing_shape(shape: tf.TensorShape) -> tf.TensorShape:
    """Static shape of a table of this shape after it may have grown."""
    return tf.TensorShape([shape[0], shape[1], None, shape[3]])


def growing_shapes(cache: KVCache) -> KVCache:
    """Returns the static shapes of a cache that may grow, in its structure."""
    return tf.nest.map_structure(lambda table: growing_shape(table.shape), cache)


def move(cache: KVCache, *, source: tf.Tensor, target: tf.Tensor) -> KVCache:
    """Copies one slot of each row to another, int32 (B,) each, in place."""
    num_heads, num_slots = cache.layers[0].key.shape[1], cache.num_slots
    old = cache_rows(source[:, None], num_heads=num_heads, num_slots=num_slots)
    new = cache_rows(target[:, None], num_heads=num_heads, num_slots=num_slots)

    def copy(table: tf.Tensor) -> tf.Tensor:
        moved = tf.gather(tf.reshape(table, [-1, table.shape[-1]]), old)
        return _write_rows(table, rows=new, updates=moved)

    return tf.nest.map_structure(copy, cache)


def cache_rows(slots: tf.Tensor, *, num_heads: int, num_slots: tf.Tensor) -> tf.Tensor:
    """Numbers the rows of a cache that new tokens take, once for all layers.

    Args:
        slots: int32 (B, T). Slot of each new token, below `num_slots`; distinct in a
            row, but for those that nobody reads.
        num_heads: int (N).
        num_slots: int32 scalar (S).

    Returns:
        int32 (B * N * T,). Rows of a table (B, N, S, H), numbered through its first
        three axes. For LiteRT int32 (4,), where in the table new tokens begin.
    """
    if runtime() == "litert":
        return tf.stack([0, 0, slots[0, 0], 0])
    batch_size = tf.shape(slots)[0]
    first = tf.range(batch_size * num_heads) * num_slots
    first = tf.reshape(first, [batch_size, num_heads, 1])
    return tf.reshape(first + slots[:, None, :], [-1])


def write(
    cache: LayerCache, *, key: tf.Tensor, value: tf.Tensor, rows: tf.Tensor
) -> LayerCache:
    """Writes the keys and values of new tokens into their slots, in place.

    Args:
        cache: `LayerCache` with S slots.
        key: (B, N, T, H). Keys of the new tokens.
        value: (B, N, T, H). Values of the new tokens.
        rows: `cache_rows` of the new tokens.

    Returns:
        The `LayerCache` after the write, of the same shape.
    """
    return LayerCache(
        _write_rows(cache.key, rows=rows, updates=key),
        _write_rows(cache.value, rows=rows, updates=value),
    )


def _write_rows(table: tf.Tensor, *, rows: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
    if runtime() == "litert":
        return keras.ops.slice_update(table, rows, tf.cast(updates, table.dtype))
    head_dim = table.shape[-1]
    flat = tf.reshape(table, [-1, head_dim])
    new = tf.reshape(tf.cast(updates, table.dtype), [-1, head_dim])
    if runtime() == "xla":
        flat = tf.tensor_scatter_nd_update(flat, rows[:, None], new)
    else:
        flat = tf.raw_ops.InplaceUpdate(x=flat, i=rows, v=new)
    return tf.ensure_shape(tf.reshape(flat, tf.shape(table)), table.shape)
