r"""GPT-2's splitting of text into words, without a regular expression.

The pattern of Radford et al. 2019,
`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
starts a word at a character that its neighbours determine. So all characters of all
texts are decided at once, with shifts of flat vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.tokenizer import unicode_classes
from keras_gpt.tokenizer.special_tokens import NO_CHARACTER, SpecialTokenFinder
from keras_gpt.tokenizer.unicode_classes import LETTER, NUMBER, SPACE

APOSTROPHE = ord("'")
BLANK = ord(" ")


class Words(NamedTuple):
    """Words of a batch of texts.

    Attributes:
        words: string (W,). UTF-8, in order.
        counts: int64 (B,). Number of words in each text.
        special: int32 (W,). Number of the special token that the word is, else -1;
            or None if none was looked for.
    """

    words: tf.Tensor
    counts: tf.Tensor
    special: tf.Tensor | None


def split_words(
    texts: tf.Tensor, *, special_tokens: SpecialTokenFinder | None = None
) -> Words:
    """Splits texts into GPT-2's words.

    Args:
        texts: string (B,). Bytes that are not UTF-8 become U+FFFD.
        special_tokens: finder of strings to cut out whole wherever they stand, with
            the text around them split as if it ended and began there. Defaults to
            none.

    Returns:
        `Words`.
    """
    code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
    flat = code_points.flat_values
    is_first = row_starts(code_points)
    special = None
    if special_tokens is None:
        starts = _word_starts(flat, is_first)
    else:
        special, inside = special_tokens.find(flat, is_first=is_first)
        is_special = (special >= 0) | inside
        is_first |= (special >= 0) | (_shift(is_special, 1, False) & ~inside)
        starts = _word_starts(flat, is_first) & ~inside
    positions = tf.where(starts)[:, 0]
    ragged = tf.RaggedTensor.from_row_starts(flat, positions, validate=False)
    number = tf.cumsum(tf.cast(starts, tf.int64))
    ends = tf.concat([[tf.constant(0, tf.int64)], number], axis=0)
    row_ends = tf.gather(ends, code_points.row_splits)
    return Words(
        words=tf.strings.unicode_encode(ragged, "UTF-8"),
        counts=row_ends[1:] - row_ends[:-1],
        special=None if special is None else tf.gather(special, positions),
    )


def row_starts(ragged: tf.RaggedTensor) -> tf.Tensor:
    """Bool (C,). True at the first value of each row that is not empty."""
    size = tf.size(ragged.flat_values)
    starts = tf.boolean_mask(ragged.row_starts(), ragged.row_lengths() > 0)
    return tf.scatter_nd(
        starts[:, None], tf.ones_like(starts, tf.bool), tf.cast([size], tf.int64)
    )


def _word_starts(code_points: tf.Tensor, is_first: tf.Tensor) -> tf.Tensor:
    """Bool (C,). True where a word starts; `is_first` marks the texts' beginnings."""
    classes = unicode_classes.class_pages().look_up(code_points)
    before = tf.where(is_first, NO_CHARACTER, _shift(code_points, 1, NO_CHARACTER))
    class_before = tf.where(is_first, NO_CHARACTER, _shift(classes, 1, NO_CHARACTER))
    is_last = _shift(is_first, -1, True)
    is_space = classes == SPACE
    space_before = class_before == SPACE

    may_open = (
        is_first
        | (class_before == LETTER)
        | (class_before == NUMBER)
        | (space_before & (before != BLANK))
    )
    short, long = _contractions(code_points, is_last)
    short, long = short & may_open, long & may_open
    inside = _shift(short | long, 1, False) | _shift(long, 2, False)
    after = _shift(short, 2, False) | _shift(long, 3, False)

    class_after = tf.where(is_last, SPACE, _shift(classes, -1, SPACE))
    starts_space = is_space & (~space_before | (class_after != SPACE))
    starts_other = ~is_space & tf.where(
        space_before, before != BLANK, class_before != classes
    )
    return ~inside & (is_first | short | long | after | starts_space | starts_other)


def _contractions(
    code_points: tf.Tensor, is_last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bool (C,) each: apostrophes before s t m d, and before re ve ll."""
    ends_next = is_last | _shift(is_last, -1, True)
    next1 = tf.where(is_last, NO_CHARACTER, _shift(code_points, -1, NO_CHARACTER))
    next2 = tf.where(ends_next, NO_CHARACTER, _shift(code_points, -2, NO_CHARACTER))
    is_apostrophe = code_points == APOSTROPHE

    def matches(first: str, second: str | None = None) -> tf.Tensor:
        found = is_apostrophe & (next1 == ord(first))
        return found if second is None else found & (next2 == ord(second))

    short = matches("s") | matches("t") | matches("m") | matches("d")
    return short, matches("r", "e") | matches("v", "e") | matches("l", "l")


def _shift(values: tf.Tensor, count: int, fill: bool | int) -> tf.Tensor:
    """Moves a vector by `count` places, to the right if positive."""
    if count == 0:
        return values
    edge = tf.fill([tf.minimum(abs(count), tf.size(values))], fill)
    if count > 0:
        return tf.concat([edge, values[:-count]], axis=0)
    return tf.concat([values[-count:], edge], axis=0)
