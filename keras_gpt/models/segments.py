"""One or two texts as one row of tokens, in graph code of core ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

ROUND_ROBIN = "round_robin"
WATERFALL = "waterfall"
TRUNCATIONS = (ROUND_ROBIN, WATERFALL)


class PackedRows(NamedTuple):
    """Rows of tokens.

    Attributes:
        token_ids: int32 (B, T), 0 where there is no token.
        padding_mask: bool (B, T), true at tokens, which come first.
        is_cut: bool (B,). Whether a row had no room for all its tokens.
    """

    token_ids: tf.Tensor
    padding_mask: tf.Tensor
    is_cut: tf.Tensor


def pack_segments(
    segments: Sequence[tf.RaggedTensor],
    *,
    sequence_length: int,
    start: Sequence[int] = (),
    separator: Sequence[int] = (),
    end: Sequence[int] = (),
    truncate: str = ROUND_ROBIN,
) -> PackedRows:
    """Joins the segments of each row: start, first, separator, second, end.

    Args:
        segments: one or two int32 (B, ragged). Cut at their ends to make room.
        sequence_length: int (T), which the special tokens must leave room in.
        start: ids before the first segment. Defaults to none.
        separator: ids between two segments. Defaults to none.
        end: ids after the last segment. Defaults to none.
        truncate: `"round_robin"` gives the segments turns, token by token, until the
            row is full; `"waterfall"` gives the first all the room it needs. As in
            `keras_nlp.layers.MultiSegmentPacker`. Defaults to `"round_robin"`.
    """
    room = sequence_length - len(start) - len(end)
    room -= len(separator) * (len(segments) - 1)
    lengths = [segment.row_lengths() for segment in segments]
    kept = _kept(lengths, room=room, truncate=truncate)
    columns = [same_tokens(start, segments[0])]
    for index, (segment, length) in enumerate(zip(segments, kept, strict=True)):
        columns += [same_tokens(separator, segment)] if index else []
        columns.append(first_tokens(segment, length))
    joined = tf.concat([*columns, same_tokens(end, segments[0])], axis=1)
    token_ids = joined.to_tensor(shape=[None, sequence_length])
    padding_mask = tf.sequence_mask(joined.row_lengths(), sequence_length)
    is_cut = sum(kept) < sum(lengths)
    return PackedRows(token_ids, padding_mask, is_cut)


def _kept(lengths: list[tf.Tensor], *, room: int, truncate: str) -> list[tf.Tensor]:
    """Returns how many tokens of each segment stay."""
    first = tf.minimum(lengths[0], room)
    if len(lengths) == 1:
        return [first]
    if truncate == ROUND_ROBIN:
        # It has the first turn, hence the odd token.
        own = tf.maximum(room - lengths[1], (room + 1) // 2)
        first = tf.minimum(lengths[0], own)
    return [first, tf.minimum(lengths[1], room - first)]


def first_tokens(rows: tf.RaggedTensor, count: tf.Tensor) -> tf.RaggedTensor:
    """Returns the first `count`, int64 (B,), of each of the rows (B, ragged)."""
    places = tf.ragged.range(rows.row_lengths())
    return _selected(rows, places.flat_values < tf.repeat(count, rows.row_lengths()))


def last_tokens(rows: tf.RaggedTensor, count: tf.Tensor) -> tf.RaggedTensor:
    """Returns the last `count`, int64 (B,), of each of the rows (B, ragged)."""
    lengths = rows.row_lengths()
    places = tf.ragged.range(lengths)
    return _selected(rows, places.flat_values >= tf.repeat(lengths - count, lengths))


def same_tokens(ids: Sequence[int], like: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns the same int32 ids in as many rows as there are in another tensor."""
    rows = like.nrows()
    values = tf.tile(tf.constant(list(ids), tf.int32), [rows])
    lengths = tf.fill([rows], tf.constant(len(ids), tf.int64))
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def _selected(rows: tf.RaggedTensor, stays: tf.Tensor) -> tf.RaggedTensor:
    kept = rows.with_flat_values(tf.cast(stays, tf.int64))
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(rows.flat_values, stays),
        tf.reduce_sum(kept, axis=1),
        validate=False,
    )
