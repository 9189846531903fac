"""Requests and replies in the JSON of TF Serving's REST API."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export.server.errors import RequestError, invalid
from keras_gpt.export.server.signature import Arrays, Signature, Spec

# Outputs whose names end so are base64; others are text.
BYTES = "_bytes"
MAX_DEPTH = 32  # of lists in lists; NumPy's iterators take no more dimensions


def parsed(body: bytes) -> dict[str, Any]:
    """Returns the object in a body.

    Raises:
        RequestError: if there is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"body must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid(f"body must be a JSON object, got {type(value).__name__}.")
    return value


def string_field(body: dict[str, Any], name: str) -> str:
    """Returns a field that may be absent."""
    value = body.get(name, "")
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string, got {_shown(value)}.")
    return value


def check_fields(body: dict[str, Any], known: set[str]) -> None:
    """Raises `RequestError` for fields that nobody would read."""
    unknown = sorted(set(body) - known)
    if unknown:
        raise invalid(
            f"body must have fields of {', '.join(sorted(known))}, "
            f"got {', '.join(unknown)}."
        )


def is_row_format(body: dict[str, Any]) -> bool:
    """Tells row format, `instances`, from column format, `inputs`.

    Raises:
        RequestError: unless it is one of them.
    """
    check_fields(body, {"instances", "inputs", "signature_name"})
    if ("instances" in body) == ("inputs" in body):
        raise invalid("body must have either instances or inputs.")
    return "instances" in body


def inputs_of(body: dict[str, Any], signature: Signature) -> Arrays:
    """Returns the inputs that a request gives.

    Raises:
        RequestError: if they are none of the signature.
    """
    columns = _columns(body, signature)
    signature.check_names(columns)
    return {
        name: _array(name, value, signature.inputs[name])
        for name, value in columns.items()
    }


def row_of(fields: Any, signature: Signature) -> Arrays:
    """Returns the inputs of a single row, given without the batch.

    Raises:
        RequestError: if they are none of the signature.
    """
    if not isinstance(fields, dict):
        raise invalid(f"inputs must be an object, got {_shown(fields)}.")
    signature.check_names(fields)
    return {
        name: _array(name, [value], signature.inputs[name])
        for name, value in fields.items()
    }


def reply(outputs: Arrays, signature: Signature, *, by_row: bool) -> dict[str, Any]:
    """Returns outputs in the format of the request."""
    plain = {
        name: as_json(name, array, signature.outputs[name].dtype)
        for name, array in outputs.items()
    }
    is_single = len(plain) == 1
    if not by_row:
        return {"outputs": next(iter(plain.values())) if is_single else plain}
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values())]  # noqa: B905
    return {
        "predictions": [next(iter(r.values())) for r in rows] if is_single else rows
    }


def as_json(name: str, array: np.ndarray, dtype: tf.DType) -> Any:
    """Returns an output as plain data."""
    if dtype == tf.string:
        write = _base64 if name.endswith(BYTES) else _text
        return _mapped(np.asarray(array, object).tolist(), write)
    if not dtype.is_floating or array.dtype.kind == "f":
        return array.tolist()
    return array.astype(np.float32).tolist()  # bfloat16, which NumPy has not


def _columns(body: dict[str, Any], signature: Signature) -> dict[str, Any]:
    if "inputs" in body:
        given = body["inputs"]
        if isinstance(given, dict) and not _is_base64(given):
            return given
        return {_only_input(signature): given}
    rows = body["instances"]
    if not isinstance(rows, list) or not rows:
        raise invalid(f"instances must be a list of rows, got {_shown(rows)}.")
    if not isinstance(rows[0], dict) or _is_base64(rows[0]):
        return {_only_input(signature): rows}
    names = set(rows[0])
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != names:
            raise invalid(
                f"instances must all have the fields {', '.join(sorted(names))}, "
                f"got {_shown(row)} in row {index}."
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _only_input(signature: Signature) -> str:
    """Returns the input that a bare value is meant for."""
    needed = [name for name in signature.inputs if name not in signature.defaults]
    if len(needed) != 1:
        raise invalid(
            f"inputs of signature {signature.name!r} must be named: "
            f"{', '.join(sorted(signature.inputs))}."
        )
    return needed[0]


def _array(name: str, value: Any, spec: Spec) -> np.ndarray:
    """Returns JSON as an array of an input's dtype."""
    try:
        if spec.dtype == tf.string:
            strings = np.array(_strings(value), object)
            if any(isinstance(item, list) for item in strings.flat):
                raise ValueError(f"got {_shown(value)}")
            return _checked(strings, spec)
        array = np.array(value)
        kinds = "b" if spec.dtype.is_bool else "iu" if spec.dtype.is_integer else "iuf"
        # NumPy makes numbers of bools that stand beside numbers.
        is_mixed = array.dtype.kind != "b" and _has_bool(value)
        if array.size and (is_mixed or array.dtype.kind not in kinds):
            raise ValueError(f"got {_shown(value)}")
        with np.errstate(over="ignore"):
            exact = array.astype(spec.dtype.as_numpy_dtype)
        is_whole = np.array_equal if spec.dtype.is_integer else _is_as_finite
        if array.size and not is_whole(exact, array):
            raise ValueError(f"got {_shown(value)}")
        return _checked(exact, spec)
    except RequestError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(
            f"input {name!r} must be {spec.describe()}, each row alike: {error}."
        ) from error


def _has_bool(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, bool)
    kinds = set(map(type, value))
    return bool in kinds or (list in kinds and any(map(_has_bool, value)))


def _is_as_finite(exact: np.ndarray, given: np.ndarray) -> bool:
    """Whether no number has become infinite."""
    return bool(np.array_equal(np.isinf(exact.astype(np.float64)), np.isinf(given)))


def _checked(array: np.ndarray, spec: Spec) -> np.ndarray:
    # An empty list has lost the sizes behind it.
    if not array.size and spec.shape and array.ndim < len(spec.shape):
        missing = [size or 0 for size in spec.shape[array.ndim :]]
        return array.reshape([*array.shape, *missing])
    return array


def _strings(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Returns nested lists with strings as bytes."""
    if isinstance(value, list):
        if not depth:
            raise ValueError(f"got lists nested more than {MAX_DEPTH} deep")
        return [_strings(item, depth - 1) for item in value]
    if isinstance(value, str):
        # Lone surrogates are no text, but are what some clients make of bytes.
        return value.encode("utf-8", "surrogatepass")
    if _is_base64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"got no base64 in {_shown(value)}") from error
    raise ValueError(f"got {_shown(value)}")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"}


def _mapped(value: Any, write: Any) -> Any:
    if isinstance(value, list):
        return [_mapped(item, write) for item in value]
    return write(value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _base64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "what is nested too deep to be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."
