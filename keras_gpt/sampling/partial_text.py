"""How much of a text that still grows can be given away, never to be taken back."""

from __future__ import annotations

import tensorflow as tf

from keras_gpt.sampling.stop_strings import NOT_FOUND, string_bytes

# First bytes of characters of 2, 3 and 4 bytes are at least these (RFC 3629, 3).
_LEADS = (0xC0, 0xE0, 0xF0)
_FIRST_CONTINUATION = 0x80


def num_bytes_held_back(text: tf.Tensor, stop_strings: tf.Tensor) -> tf.Tensor:
    """Counts the bytes at a text's end that may become something else.

    Args:
        text: string (B,).
        stop_strings: string (B, K), or (1, K) for the same in every row; empty strings
            stand for nothing.

    Returns:
        int32 (B,). Bytes with which a stop string, or a character, may begin.
    """
    return tf.maximum(
        _beginning_of_stop(text, stop_strings), _beginning_of_character(text)
    )


def num_tokens_held_back(
    token_ids: tf.Tensor, lengths: tf.Tensor, sequences: tf.Tensor
) -> tf.Tensor:
    """Counts the tokens at a text's end with which a stop sequence may begin.

    Args:
        token_ids: int32 (B, N). New tokens.
        lengths: int32 (B,).
        sequences: int32 (B', Q, L), padded in front with -1.

    Returns:
        int32 (B,).
    """
    longest = tf.shape(sequences)[2]
    sizes = tf.reduce_sum(tf.cast(sequences >= 0, tf.int32), axis=-1)
    # From their first token on: (B', Q, L), -1 behind the end.
    places = longest - sizes[:, :, None] + tf.range(longest)
    padded = tf.pad(sequences, [[0, 0], [0, 0], [0, longest]], constant_values=-1)
    wanted = tf.gather(padded, places, batch_dims=2)
    starts = tf.maximum(lengths - (longest - 1), 0)
    tail_places = starts[:, None] + tf.range(tf.maximum(longest - 1, 0))
    is_there = tail_places < lengths[:, None]
    inside = tf.minimum(tail_places, tf.maximum(tf.shape(token_ids)[1] - 1, 0))
    ids = tf.pad(token_ids, [[0, 0], [0, 1]])
    tail = tf.where(is_there, tf.gather(ids, inside, batch_dims=1), NOT_FOUND)
    return _longest_beginning(tail, lengths - starts, wanted)


def _beginning_of_stop(text: tf.Tensor, stop_strings: tf.Tensor) -> tf.Tensor:
    lengths = tf.strings.length(text)
    longest = tf.reduce_max(tf.pad(tf.strings.length(stop_strings), [[0, 0], [0, 1]]))
    width = tf.minimum(tf.maximum(longest - 1, 0), lengths)
    tail = tf.strings.substr(text, lengths - width, width)
    return _longest_beginning(
        string_bytes(tail, tf.maximum(longest - 1, 0)),
        width,
        string_bytes(stop_strings, longest),
    )


def _longest_beginning(
    tail: tf.Tensor, sizes: tf.Tensor, wanted: tf.Tensor
) -> tf.Tensor:
    """Counts the items at a row's end that some wanted row begins with.

    Args:
        tail: int32 (B, W). The last items of each row, less than negative ones.
        sizes: int32 (B,). How many of them there are.
        wanted: int32 (B', K, M), M at least W. Negative behind its end.

    Returns:
        int32 (B,). 0 for none.
    """
    width = tf.shape(tail)[1]
    offsets = tf.range(width)
    padded = tf.pad(tail, [[0, 0], [0, width]], constant_values=NOT_FOUND)
    # (B, W, W): what follows each place, to the end.
    windows = tf.gather(padded, offsets[:, None] + offsets[None, :], axis=1)
    beginnings = wanted[:, :, None, :width]
    equal = (windows[:, None] == NOT_FOUND) | (windows[:, None] == beginnings)
    is_beginning = tf.reduce_all(equal, axis=-1) & (offsets < sizes[:, None, None])
    counts = tf.where(is_beginning, (sizes[:, None] - offsets)[:, None], 0)
    return tf.reduce_max(tf.pad(counts, [[0, 0], [0, 1], [0, 1]]), axis=[1, 2])


def _beginning_of_character(text: tf.Tensor) -> tf.Tensor:
    lengths = tf.strings.length(text)
    width = tf.minimum(lengths, len(_LEADS))
    tail = string_bytes(
        tf.strings.substr(text, lengths - width, width), tf.constant(len(_LEADS))
    )
    held = tf.zeros_like(lengths)
    is_open = tf.ones_like(lengths, tf.bool)
    for back, lead in enumerate(_LEADS, start=1):
        place = tf.maximum(width - back, 0)
        byte = tf.gather(tail, place, batch_dims=1)
        is_there = is_open & (width >= back)
        held = tf.where(is_there & (byte >= lead), back, held)
        is_open = is_there & (byte >= _FIRST_CONTINUATION) & (byte < _LEADS[0])
    return held
