"""Running a model over the tokens of a text that its cache does not hold yet."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.generation.state import LanguageModel
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache


class Fed(NamedTuple):
    """What a model makes of tokens.

    Attributes:
        hidden: (B, K, D). After the last token of each text, and after each draft.
        all_hidden: (B, T, D). After each token that was fed.
        cache: `KVCache` that holds all of them.
    """

    hidden: tf.Tensor
    all_hidden: tf.Tensor
    cache: KVCache


def feed(
    model: LanguageModel,
    *,
    token_ids: tf.Tensor,
    lengths: tf.Tensor,
    num_cached: tf.Tensor,
    cache: KVCache,
    num_hidden: tf.Tensor | int,
    starts: tf.Tensor | None = None,
    rows: tf.Tensor | None = None,
    num_drafts: tf.Tensor | None = None,
    width: tf.Tensor | None = None,
) -> Fed:
    """Feeds the tokens that are not in the cache, however many each row has.

    Args:
        model: a `LanguageModel`.
        token_ids: int32 (B, S). Texts, with drafts behind them.
        lengths: int32 (B,). Tokens of each text.
        num_cached: int32 (B,). Tokens from `starts` on that the cache holds.
        cache: `KVCache`; it grows if need be.
        num_hidden: int32 scalar (K). Hidden states to return of each row: one, and one
            for each place that drafts may take.
        starts: int32 (B,). First token of each text that the model sees, at position
            0. Defaults to the first of all.
        rows: bool (B,). Rows to feed; of the others, nothing is returned that has a
            meaning. Defaults to all.
        num_drafts: int32 (B,). Drafts to feed behind the text. Defaults to none.
        width: int32 scalar. Tokens to feed in each row, at least those of the longest;
            for compilers, which want to know it beforehand. The cache then does not
            grow. Defaults to as many as there are.
    """
    starts = tf.zeros_like(lengths) if starts is None else starts
    rows = tf.ones_like(lengths, tf.bool) if rows is None else rows
    in_window = lengths - starts
    until = in_window if num_drafts is None else in_window + num_drafts
    if width is None:
        longest = tf.reduce_max(tf.where(rows, in_window - num_cached, 1))
        columns = tf.range(tf.maximum(longest, 1) + num_hidden - 1)
        slots_used = tf.reduce_max(tf.where(rows, in_window, 0)) + num_hidden - 1
        cache = kv_cache.grow(cache, 1 + slots_used)
    else:
        columns = tf.range(width)
    slots = num_cached[:, None] + columns
    # What a row has too few tokens for goes to the last slot, which nobody reads.
    is_own = rows[:, None] & (slots < until[:, None])
    last_position = model.config.max_sequence_length - 1
    places = tf.where(is_own, starts[:, None] + slots, 0)
    output = model.forward(
        tf.gather(token_ids, places, batch_dims=1),
        positions=tf.where(is_own, tf.minimum(slots, last_position), 0),
        slots=tf.where(is_own, slots, cache.num_slots - 1),
        cache=cache,
        training=False,
    )
    last = (in_window - num_cached - 1)[:, None] + tf.range(num_hidden)
    last = tf.clip_by_value(last, 0, tf.shape(slots)[1] - 1)
    hidden = tf.gather(output.hidden, last, batch_dims=1)
    return Fed(hidden, output.hidden, output.cache)
