"""Finding stop strings in the bytes of a text as it grows, across token borders."""

from __future__ import annotations

import tensorflow as tf

NOT_FOUND = -1


def find_stop_string(
    text: tf.Tensor, stop_strings: tf.Tensor, *, num_new_bytes: tf.Tensor
) -> tf.Tensor:
    """Finds where a stop string begins that has ended in the text's newest bytes.

    Args:
        text: string (B,). Everything generated so far.
        stop_strings: string (B, K), or (1, K) for the same in every row; empty
            strings stand for nothing.
        num_new_bytes: int32 (B,). Bytes at the text's end that have not been searched.

    Returns:
        int32 (B,). Byte where the earliest match begins; `NOT_FOUND` for none.
    """
    stop_lengths = tf.strings.length(stop_strings)
    longest = tf.reduce_max(tf.pad(stop_lengths, [[0, 0], [0, 1]]))
    text_lengths = tf.strings.length(text)
    # A match that ends in the new bytes begins in this many bytes or fewer.
    width = tf.minimum(tf.maximum(longest - 1, 0) + num_new_bytes, text_lengths)
    starts = text_lengths - width
    tail = string_bytes(tf.strings.substr(text, starts, width), tf.reduce_max(width))
    # Beginnings (B, S, L): the bytes that follow each place of the tail.
    padded = tf.pad(tail, [[0, 0], [0, longest]], constant_values=NOT_FOUND)
    windows = tf.gather(
        padded,
        tf.range(tf.shape(tail)[1])[:, None] + tf.range(longest)[None, :],
        axis=1,
    )
    wanted = string_bytes(stop_strings, longest)
    # (B', K, 1, L) against (B, 1, S, L); bytes behind a stop string's end match all.
    equal = (wanted[:, :, None] == NOT_FOUND) | (wanted[:, :, None] == windows[:, None])
    places = starts[:, None] + tf.range(tf.shape(tail)[1])[None, :]
    ends = places[:, None] + stop_lengths[:, :, None]
    is_new = ends > (text_lengths - num_new_bytes)[:, None, None]
    is_string = (stop_lengths > 0)[:, :, None]
    matches = tf.reduce_all(equal, axis=-1) & is_string & is_new
    found = tf.where(tf.reduce_any(matches, axis=1), places, tf.int32.max)
    first = tf.reduce_min(
        tf.pad(found, [[0, 0], [0, 1]], constant_values=tf.int32.max), axis=1
    )
    return tf.where(first < tf.int32.max, first, NOT_FOUND)


def grow_text(
    text: tf.Tensor,
    token_ids: tf.Tensor,
    *,
    token_text: tf.Tensor,
    stop_strings: tf.Tensor,
    rows: tf.Tensor,
    counts: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Appends the text of a token to each text, and looks for stop strings.

    Args:
        text: string (B,).
        token_ids: int32 (B,).
        token_text: string (V,). What each token adds to a text.
        stop_strings: string (B, K) or (1, K), as in `find_stop_string`.
        rows: bool (B,). Rows to append to.
        counts: bool (B,). Rows in which a stop string counts.

    Returns:
        The texts, and the byte of each where a stop string begins, or `NOT_FOUND`:
        string and int32 (B,).
    """

    def grow() -> tuple[tf.Tensor, tf.Tensor]:
        # Models may be padded with ids that the tokenizer lacks.
        known = tf.minimum(token_ids, tf.size(token_text) - 1)
        new = tf.where(rows, tf.gather(token_text, known), "")
        grown = tf.strings.join([text, new])
        found = find_stop_string(
            grown, stop_strings, num_new_bytes=tf.strings.length(new)
        )
        return grown, tf.where(rows & counts, found, NOT_FOUND)

    none = tf.fill(tf.shape(token_ids), NOT_FOUND)
    return tf.cond(tf.size(stop_strings) > 0, grow, lambda: (text, none))


def string_bytes(strings: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """int32 (..., width). The bytes of each string; `NOT_FOUND` behind its end."""
    # The op wants a length of at least 1.
    data = tf.io.decode_raw(strings, tf.uint8, fixed_length=tf.maximum(width, 1))
    places = tf.range(tf.maximum(width, 1))
    inside = places < tf.strings.length(strings)[..., None]
    return tf.where(inside, tf.cast(data, tf.int32), NOT_FOUND)[..., :width]
