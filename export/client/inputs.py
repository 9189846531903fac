"""Arguments of calls as the full rows that servers take.

TF Serving joins requests along their rows, so each input has one entry for each row,
and its REST API wants every input that a signature has.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from keras_gpt.export.client.transport import Arrays, is_text, numpy_dtype
from keras_gpt.generation import SETTINGS
from keras_gpt.models.option_values import (
    by_row,
    check_setting,
    is_id,
    is_string,
    one_or_each,
)

NO_ID = -1
SEED = "seed"
# One knob, although two inputs.
BIAS, BIAS_IDS, BIAS_VALUES = "logit_bias", "logit_bias_ids", "logit_bias_values"


def strings(name: str, values: Sequence[Any]) -> np.ndarray:
    """Returns texts as an array of bytes (B,).

    Raises:
        ValueError: if one is no string, or none that UTF-8 can write.
    """
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = _string(f"{name}[{index}]", value)
    return array


def batch_of(name: str, given: Any) -> tuple[np.ndarray, bool]:
    """Returns one text, or a list of them, as an array (B,), and whether it is one."""
    if is_string(given):
        return strings(name, [given]), True
    texts = _items(name, given, rule="a string or a list of strings")
    return strings(name, texts), False


def conversations(given: Any) -> tuple[Arrays, bool]:
    """Returns the inputs of messages, or of a list of them, and whether it is one.

    Args:
        given: list (M) of dicts with `role` and `content`, or a list of such lists.
    """
    rows = list(given) if isinstance(given, Sequence) else [given]
    is_single = all(isinstance(message, Mapping) for message in rows)
    rows = [rows] if is_single else rows
    most = max([1, *(len(row) for row in rows if isinstance(row, Sequence))])
    arrays = {
        name: np.full([len(rows), most], b"", object) for name in ("role", "content")
    }
    for index, row in enumerate(rows):
        if not row or is_string(row) or not isinstance(row, Sequence):
            raise ValueError(
                f"messages must be a list of dicts, or of such lists, got {row!r:.80}."
            )
        for place, message in enumerate(row):
            for name, array in arrays.items():
                value = message.get(name) if isinstance(message, Mapping) else None
                array[index, place] = _string(f"{name} of a message", value)
    # Servers that join requests fill up what is behind with what they hold.
    counts = np.array([len(row) for row in rows], np.int32)
    return {**arrays, "num_messages": counts}, is_single


def id_rows(given: Any) -> tuple[list[Any], bool]:
    """Returns a list of ids, or a list of such, as a list of them, and whether one."""
    rows = _items("token_ids", given, rule="a list of ids or a list of such lists")
    is_single = all(map(is_id, rows))
    return [rows] if is_single else rows, is_single


def id_table(rows: list[Any]) -> Arrays:
    """Returns lists of ids as the inputs of `detokenize`."""
    table = _filled("token_ids", by_row("token_ids", rows, len(rows), is_item=is_id), 0)
    counts = np.array([len(row) for row in rows], np.int32)
    return {"token_ids": table, "num_tokens": counts}


def knob_names(definition: SignatureDef, mains: Mapping[str, Any]) -> list[str]:
    """Returns the names of a signature's knobs, sorted."""
    names = set(definition.inputs) - set(mains)
    if {BIAS_IDS, BIAS_VALUES} <= names:
        names = (names - {BIAS_IDS, BIAS_VALUES}) | {BIAS}
    return sorted(names)


def full_inputs(
    definition: SignatureDef, mains: Arrays, knobs: Mapping[str, Any]
) -> Arrays:
    """Returns every input of a signature whose value is known, with one entry per row.

    Args:
        definition: `SignatureDef`. Its defaults stand for knobs that are not given,
            but for `seed`, of which each row gets a fresh one.
        mains: inputs (B, ...) that are no knobs, by name.
        knobs: values by name: one, or one for each row. None is as if not given.

    Raises:
        ValueError: if there is no knob of that name, or a value cannot be one.
    """
    rows = len(next(iter(mains.values())))
    known = knob_names(definition, mains)
    given = {name: value for name, value in knobs.items() if value is not None}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"knobs of the served model must be of {', '.join(known) or 'none'}, "
            f"got {', '.join(unknown)}."
        )
    values = _defaults(definition, rows) | mains
    if SEED in known:
        given[SEED] = _seeds(given.get(SEED), rows)
    if BIAS in given:
        ids, weights = _biases(given.pop(BIAS), rows)
        values[BIAS_IDS] = _table(BIAS, ids, definition.inputs[BIAS_IDS], rows)
        values[BIAS_VALUES] = _table(
            BIAS, weights, definition.inputs[BIAS_VALUES], rows
        )
    for name, value in given.items():
        values[name] = _knob(name, value, definition.inputs[name], rows)
    return values


def _items(name: str, given: Any, *, rule: str) -> list[Any]:
    try:
        if isinstance(given, Mapping):  # whose keys are not what is meant
            raise TypeError
        return list(given)
    except TypeError:
        raise ValueError(f"{name} must be {rule}, got {given!r:.80}.") from None


def _string(name: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {value!r:.80}.")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} must be a text that UTF-8 can write, got {value!r:.80}."
        ) from None


def _defaults(definition: SignatureDef, rows: int) -> Arrays:
    defaults = {}
    for name, proto in definition.defaults.items():
        value = tf.make_ndarray(proto)
        if value.ndim and value.shape[0] == 1 and name in definition.inputs:
            defaults[name] = np.repeat(value, rows, axis=0)
    return defaults


def _seeds(given: Any, rows: int) -> Any:
    """Returns seeds, in which a fresh one stands for each None."""
    if given is None:
        return [secrets.randbits(63) for _ in range(rows)]
    if not isinstance(given, list | tuple):
        return given
    return [secrets.randbits(63) if seed is None else seed for seed in given]


def _knob(name: str, value: Any, info: TensorInfo, rows: int) -> np.ndarray:
    if len(info.tensor_shape.dim) < 2:
        return _numbers(name, value, numpy_dtype(info), rows)
    if not is_text(info):
        return _table(name, by_row(name, value, rows, is_item=is_id), info, rows)
    items = by_row(
        name, [value] if is_string(value) else value, rows, is_item=is_string
    )
    texts = [
        [_string(f"{name}[{index}]", text) for text in row]
        for index, row in enumerate(items)
    ]
    return _table(name, texts, info, rows)


def _numbers(name: str, value: Any, dtype: np.dtype, rows: int) -> np.ndarray:
    """Returns a number for each row."""
    if name in SETTINGS:
        return check_setting(name, value, rows=rows).astype(dtype)
    array = one_or_each(name, value, rows)
    kinds, meaning = {
        "b": ("b", "True or False"),
        "i": ("iu", "a whole number"),
    }.get(dtype.kind, ("iuf", "a real number"))
    if array.dtype.kind not in kinds or (
        dtype.kind == "i" and np.any(array.astype(dtype) != array)
    ):
        raise ValueError(f"{name} must be {meaning}, got {value!r:.80}.")
    return np.broadcast_to(array.astype(dtype), [rows])


def _biases(given: Any, rows: int) -> tuple[list[list[int]], list[list[float]]]:
    """Returns the ids and the values of a dict for all rows, or one for each."""
    rule = f"one dict or one per prompt ({rows})"
    is_one = isinstance(given, Mapping)
    tables = [given] if is_one else _items(BIAS, given, rule=rule)
    if len(tables) not in (1, rows) or not all(isinstance(t, Mapping) for t in tables):
        raise ValueError(f"{BIAS} must be {rule}, got {given!r:.80}.")
    for table in tables:
        for token, value in table.items():
            if not is_id(token):
                raise ValueError(f"{BIAS} must be of token ids, got {token!r:.80}.")
            is_number = isinstance(value, int | float | np.floating | np.integer)
            if not is_number or not abs(value) <= np.finfo(np.float32).max:
                raise ValueError(f"{BIAS} must be finite, got {value!r:.80}.")
    return [list(table) for table in tables], [list(t.values()) for t in tables]


def _table(
    name: str, items: list[list[Any]], info: TensorInfo, rows: int
) -> np.ndarray:
    """Returns lists as an array (B, K), padded with what stands for nothing."""
    dtype = numpy_dtype(info)
    table = _filled(name, items, {"O": b"", "i": NO_ID}.get(dtype.kind, 0.0), dtype)
    return np.broadcast_to(table, [rows, table.shape[1]])


def _filled(
    name: str, items: list[list[Any]], fill: Any, dtype: Any = np.int32
) -> np.ndarray:
    table = np.full([len(items), max([1, *map(len, items)])], fill, dtype)
    for index, row in enumerate(items):
        try:
            table[index, : len(row)] = row
        except OverflowError:
            raise ValueError(
                f"{name} must be of {table.dtype} numbers, got {row!r:.80}."
            ) from None
    return table
