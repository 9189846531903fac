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
from keras_gpt.tokenizer.unicode_classes import LETTER, NUMBER, SPACE

APOSTROPHE = ord("'")
BLANK = ord(" ")
NO_CHARACTER = -1


class Words(NamedTuple):
    """Words of a batch of texts.

    Attributes:
        words: string (W,). UTF-8, in order.
        counts: int64 (B,). Number of words in each text.
        is_special: bool (W,). Whether the word is a special token.
    """

    words: tf.Tensor
    counts: tf.Tensor
    is_special: tf.Tensor


def split_words(texts: tf.Tensor, *, special_token: str | None = None) -> Words:
    """Splits texts into GPT-2's words.

    Args:
        texts: string (B,). Bytes that are not UTF-8 become U+FFFD.
        special_token: string to cut out whole wherever it stands, with the text
            around it split as if it ended and began there. Defaults to none.

    Returns:
        `Words`.
    """
    code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
    flat = code_points.flat_values
    is_first = _row_starts(code_points)
    is_special = tf.zeros_like(is_first)
    if special_token:
        opens, inside = _find(flat, is_first, special_token)
        is_special = opens | inside
        is_first = is_first | opens | (_shift(is_special, 1, False) & ~inside)
        starts = _word_starts(flat, is_first) & ~inside
    else:
        starts = _word_starts(flat, is_first)
    positions = tf.where(starts)[:, 0]
    ragged = tf.RaggedTensor.from_row_starts(flat, positions, validate=False)
    number = tf.cumsum(tf.cast(starts, tf.int64))
    ends = tf.concat([[tf.constant(0, tf.int64)], number], axis=0)
    row_ends = tf.gather(ends, code_points.row_splits)
    return Words(
        words=tf.strings.unicode_encode(ragged, "UTF-8"),
        counts=row_ends[1:] - row_ends[:-1],
        is_special=tf.gather(is_special, positions),
    )


def _row_starts(ragged: tf.RaggedTensor) -> tf.Tensor:
    """Bool (C,). True at the first value of each row that is not empty."""
    size = tf.size(ragged.flat_values)
    starts = tf.boolean_mask(ragged.row_starts(), ragged.row_lengths() > 0)
    return tf.scatter_nd(
        starts[:, None], tf.ones_like(starts, tf.bool), tf.cast([size], tf.int64)
    )


def _word_starts(code_points: tf.Tensor, is_first: tf.Tensor) -> tf.Tensor:
    """Bool (C,). True where a word starts; `is_first` marks the texts' beginnings."""
    page, pages = unicode_classes.class_pages()
    block = tf.gather(tf.constant(page), code_points // unicode_classes.PAGE_SIZE)
    within = code_points % unicode_classes.PAGE_SIZE
    classes = tf.gather(tf.constant(pages), block * unicode_classes.PAGE_SIZE + within)
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


def _find(
    code_points: tf.Tensor, is_first: tf.Tensor, token: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bool (C,) each: where `token` opens, and its other characters."""
    opens = tf.ones_like(is_first)
    for offset, character in enumerate(token):
        opens &= _shift(code_points, -offset, NO_CHARACTER) == ord(character)
        if offset:
            opens &= ~_shift(is_first, -offset, True)
    inside = tf.zeros_like(is_first)
    for offset in range(1, len(token)):
        inside |= _shift(opens, offset, False)
    return opens, inside


def _shift(values: tf.Tensor, count: int, fill: bool | int) -> tf.Tensor:
    """Moves a vector by `count` places, to the right if positive."""
    if count == 0:
        return values
    edge = tf.fill([tf.minimum(abs(count), tf.size(values))], fill)
    if count > 0:
        return tf.concat([edge, values[:-count]], axis=0)
    return tf.concat([values[-count:], edge], axis=0)
