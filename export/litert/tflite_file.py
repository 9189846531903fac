"""What a TFLite file says of itself."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

ABOUT = "about"  # the signature that returns a file's own description
_IN_MEMORY = ":memory"  # XNNPACK's name for a cache that is no file


def about_function(about: dict[str, Any]) -> Any:
    """Returns a concrete function that returns a description, as the bytes of JSON."""
    data = np.frombuffer(json.dumps(about).encode(), np.uint8)

    def tell() -> dict[str, tf.Tensor]:
        return {"json": tf.constant(data)}

    return tf.function(tell, autograph=False).get_concrete_function()


def ops_of(data: bytes) -> set[str]:
    """Returns the names of all ops in a TFLite file, after "custom" if they are."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(data, 0)
    ops = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        ops.add(f"custom {custom.decode()}" if custom else names[number])
    return ops


def interpreter_class() -> Any:
    """Returns LiteRT's interpreter.

    Raises:
        ImportError: if LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "LiteRT is not installed: pip install 'keras-gpt[litert]'."
        ) from error
    return Interpreter


def open_file(path: str | os.PathLike[str], *, num_threads: int | None = None) -> Any:
    """Returns the interpreter of a TFLite file.

    Raises:
        ImportError: if LiteRT is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TFLite file, or not a whole one.
    """
    interpreter = interpreter_class()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path must be a TFLite file, but {path} is none.")
    try:
        return interpreter(os.fspath(path), num_threads=num_threads)
    except ValueError as error:
        raise ValueError(
            f"path must be a whole TFLite file, got {path}: {error}"
        ) from error


def compile_file(
    path: str | os.PathLike[str], *, num_threads: int | None = None
) -> Any:
    """Returns a TFLite file that was opened before, ready to run: a `CompiledModel`.

    Its signatures share the weights that XNNPACK has laid out for itself: with 124M
    weights of `int8`, 109 MB in all rather than 830 MB.

    Args:
        path: string or path.
        num_threads: int. Defaults to the processor's cores.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.options import Options

    threads = num_threads or len(os.sched_getaffinity(0))
    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=_IN_MEMORY)
    return CompiledModel.from_file(os.fspath(path), options=Options(cpu_options=cpu))


def about(interpreter: Any) -> dict[str, Any]:
    """Returns the description in an open file."""
    data = interpreter.get_signature_runner(ABOUT)()["json"]
    return json.loads(data.tobytes())
