"""Values of options: their checks, and the arrays that they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.generation import SETTINGS


def check_setting(name: str, value: Any, *, rows: int) -> np.ndarray:
    """Returns a generation setting as one entry per row.

    Args:
        name: string. A key of `keras_gpt.generation.SETTINGS`.
        value: a number, or one per row.
        rows: int. Number of rows (B).

    Raises:
        ValueError: if the value has another shape or kind, or is out of range.
    """
    dtype, _, rule, holds = SETTINGS[name]
    array = one_or_each(name, value, rows)
    if array.dtype.kind not in ("iu" if dtype.is_integer else "iuf"):
        kind = "whole" if dtype.is_integer else "real"
        raise ValueError(f"{name} must be a {kind} number, got {value!r}.")
    if not dtype.is_integer:
        with np.errstate(over="ignore"):  # infinity is out of every range
            array = array.astype(np.float32)
    if not np.all(holds(array)):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")
    limit = np.iinfo(dtype.as_numpy_dtype).max if dtype.is_integer else None
    if limit is not None and np.any(array > limit):
        raise ValueError(f"{name} must be at most {limit}, got {value!r}.")
    return np.broadcast_to(array, [rows])


def pad_sequences(rows: Sequence[Sequence[Sequence[int]]]) -> tf.Tensor:
    """Returns rows of sequences as int32 (B', W, L), padded in front with -1."""
    width = max(map(len, rows))
    longest = max([1, *(len(sequence) for row in rows for sequence in row)])
    table = np.full([len(rows), width, longest], -1, np.int32)
    for index, row in enumerate(rows):
        for place, sequence in enumerate(row):
            table[index, place, longest - len(sequence) :] = sequence
    return tf.constant(table)


def check_count(name: str, value: Any, *, least: int) -> None:
    """Raises `ValueError` unless a value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        kind = "a positive integer" if least else "an integer of at least 0"
        raise ValueError(f"{name} must be {kind}, got {value!r}.")


def one_or_each(name: str, value: Any, rows: int) -> np.ndarray:
    """Returns one value, or one for each row, as an array."""
    array = np.asarray(value)
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] not in (1, rows)):
        raise ValueError(
            f"{name} must be one value or one per prompt ({rows}), got {value!r}."
        )
    return array


def numbers(name: str, value: Any, rows: int) -> np.ndarray:
    """Returns finite float32 numbers (B,)."""
    array = one_or_each(name, value, rows)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return np.broadcast_to(array.astype(np.float32), [rows])


def is_id(item: Any) -> bool:
    """Tells whether an item is a token id."""
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def is_string(item: Any) -> bool:
    """Tells whether an item is a string."""
    return isinstance(item, str | bytes)


def is_word(item: Any) -> bool:
    """Tells whether an item is a word: a string, or ids in a row."""
    return is_string(item) or (len(item) > 0 and all(map(is_id, item)))


def by_row(
    name: str, given: Any, rows: int, *, is_item: Callable[[Any], bool]
) -> list[list[Any]]:
    """Returns a list for all rows, or one for each, as a list of lists."""
    if given is None:
        return [[]]
    try:
        items = [list(given)] if all(map(is_item, given)) else list(map(list, given))
        is_whole = all(is_item(item) for row in items for item in row)
    except TypeError:
        items, is_whole = [], False
    if not is_whole or len(items) not in (1, rows):
        raise ValueError(
            f"{name} must be one list or one per prompt ({rows}), got {given!r}."
        )
    return items


def forms_of_word(
    word: Any, tokenize: Callable[[str], list[int]] | None
) -> list[list[int]]:
    """Returns the sequences of ids that a bad word may take."""
    if not is_string(word):
        return [[int(token) for token in word]]
    if tokenize is None:
        raise ValueError(
            f"bad_words must be ids for a model without a tokenizer, got {word!r}."
        )
    if not word:
        raise ValueError("bad_words must not be empty, got ''.")
    text = word.decode() if isinstance(word, bytes) else word
    forms = [tokenize(text), tokenize(f" {text}")]
    return [form for form in forms if form]


def check_ids(name: str, ids: Iterable[int], vocabulary_size: int) -> None:
    """Raises `ValueError` unless all ids are of the vocabulary."""
    for token in ids:
        if not 0 <= token < vocabulary_size:
            raise ValueError(
                f"{name} must be of ids in [0, {vocabulary_size}), got {token}."
            )


def pad_rows(rows: list[list[Any]], dtype: Any) -> tf.Tensor:
    """Returns rows of numbers (B', M): ids padded with -1, others with 0."""
    width = max(map(len, rows))
    fill = -1 if np.issubdtype(dtype, np.integer) else 0
    padded = [row + [fill] * (width - len(row)) for row in rows]
    return tf.constant(np.array(padded, dtype).reshape([len(rows), width]))
