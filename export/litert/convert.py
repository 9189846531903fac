"""Turns graphs into a TFLite file of LiteRT's own ops."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from keras_gpt.export.litert.compact import compact
from keras_gpt.export.litert.quantize import RECIPES, quantize
from keras_gpt.export.verify import ExportError

# A flatbuffer's offsets have 31 bits; graphs and padding need some room, too.
MOST_BYTES = 2_000_000_000
# What can be done to weights: here by TensorFlow's converter, with its optimizations
# and their dtypes, or after it.
_OF_CONVERTER: dict[str, tuple[list[Any], list[tf.DType]]] = {
    "none": ([], []),
    "float16": ([tf.lite.Optimize.DEFAULT], [tf.float16]),
    "dynamic_int8": ([tf.lite.Optimize.DEFAULT], []),
}
QUANTIZATIONS = (*_OF_CONVERTER, *RECIPES)


def convert(
    functions: Mapping[str, Any],
    *,
    variables: Sequence[tf.Variable],
    quantization: str = "none",
) -> bytes:
    """Returns a TFLite file with a signature for each function.

    Args:
        functions: concrete functions of named tensors, by the names of signatures.
        variables: all that they read.
        quantization: string, one of `QUANTIZATIONS`. Defaults to `"none"`.

    Raises:
        ExportError: if LiteRT lacks an op; the message names it and where it is.
    """
    data = _converted(functions, variables, _OF_CONVERTER.get(quantization, ([], [])))
    if quantization in RECIPES:
        data = quantize(data, quantization)
    return compact(data)


def _converted(
    functions: Mapping[str, Any],
    variables: Sequence[tf.Variable],
    quantization: tuple[list[Any], list[tf.DType]],
) -> bytes:
    """Returns what TensorFlow's converter makes of functions."""
    module = tf.Module()
    module.weights = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=dict(functions))
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations, converter.target_spec.supported_types = quantization
        try:
            return converter.convert()
        except ConverterError as error:
            missing = _missing_ops(str(error), functions)
            if not missing:
                raise
            raise ExportError(
                f"all ops must be LiteRT's own, got {', '.join(missing)}."
            ) from error


def check_size(variables: Iterable[Any]) -> None:
    """Raises `ValueError` if weights are too large for a TFLite file."""
    size = num_bytes(variables)
    if size > MOST_BYTES:
        raise ValueError(
            f"weights must have at most {MOST_BYTES:,} bytes in float32, before any "
            f"quantization, for a TFLite file, got {size:,}: choose a smaller network, "
            "or serve this one by export_saved_model."
        )


def num_bytes(variables: Iterable[Any]) -> int:
    """Returns what variables, of Keras or TensorFlow, take in memory."""
    return sum(tf.as_dtype(v.dtype).size * math.prod(v.shape) for v in variables)


def _missing_ops(message: str, functions: Mapping[str, Any]) -> list[str]:
    """Returns the ops that a converter's error names, each with its place."""
    names = set(re.findall(r"'?tf\.(\w+)'? op is neither", message))
    found = re.findall(r"(?:Flex|Custom) ops: ([\w, ]+)", message)
    names |= {name.removeprefix("Flex") for part in found for name in part.split(", ")}
    places = {
        op.type: op.name
        for function in functions.values()
        for graph in _graphs(function.graph)
        for op in graph.get_operations()
        if op.type in names
    }
    return [f"{name} in {places.get(name, 'the graph')}" for name in sorted(names)]


def _graphs(graph: Any) -> Iterator[Any]:
    """Yields a graph and those of the functions that it calls."""
    yield graph
    for name in graph._functions:
        yield graph._get_function(name).graph
