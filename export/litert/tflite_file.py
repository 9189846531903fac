"""What a TFLite file says of itself."""

from __future__ import annotations

import json
import mmap
import os
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from keras_gpt.cores import usable_cores
from keras_gpt.export.litert.extra import package

ABOUT = "about"  # the signature that returns a file's own description
MOST_THREADS = 1024
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


def interpreter_library() -> Any:
    """Returns the module of LiteRT's interpreter.

    Raises:
        ImportError: if LiteRT is not installed.
    """
    return package("ai_edge_litert.interpreter", "LiteRT")


def open_file(path: str | os.PathLike[str], *, by_xnnpack: bool = False) -> Any:
    """Returns the interpreter of a TFLite file, of one thread.

    Args:
        path: string or path.
        by_xnnpack: bool. Whether to compute by XNNPACK, which keeps a copy of the
            weights for each graph of the file that has them. Defaults to False.

    Raises:
        ImportError: if LiteRT is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TFLite file, or not a whole one.
    """
    library = interpreter_library()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path must be a TFLite file, but {path} is none.")
    kinds = library.OpResolverType
    kind = kinds.AUTO if by_xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        opened = library.Interpreter(
            os.fspath(path), experimental_op_resolver_type=kind
        )
    except ValueError as error:
        raise ValueError(
            f"path must be a whole TFLite file, got {path}: {error}"
        ) from error
    # LiteRT looks only where weights behind the graphs begin.
    size, end = os.path.getsize(path), _end_of_weights(path)
    if end > size:
        raise ValueError(
            f"path must be a whole TFLite file, of {end} bytes, got {size} in {path}."
        )
    return opened


def _end_of_weights(path: str | os.PathLike[str]) -> int:
    """Returns where the last weights end that stand behind the graphs, or 0."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        model = schema.Model.GetRootAs(data, 0)
        buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
        end = max((one.Offset() + one.Size() for one in buffers), default=0)
        del model, buffers  # they point into the file
        return end


def compile_file(
    path: str | os.PathLike[str], *, num_threads: int | None = None
) -> Any:
    """Returns a TFLite file that was opened before, ready to run: a `CompiledModel`.

    Its signatures share the weights that XNNPACK has laid out for itself: with 124M
    weights of `int8`, 109 MB in all rather than 830 MB.

    Args:
        path: string or path.
        num_threads: int. Defaults to the cores that this process may use.

    Raises:
        ValueError: if `num_threads` is out of range, or LiteRT cannot load the file.
    """
    if num_threads is None:
        num_threads = usable_cores()
    if not isinstance(num_threads, int) or not 1 <= num_threads <= MOST_THREADS:
        raise ValueError(
            f"num_threads must be an integer in [1, {MOST_THREADS}], "
            f"got {num_threads!r}."
        )
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.options import Options

    cpu = CpuOptions(num_threads=num_threads, xnnpack_weight_cache_path=_IN_MEMORY)
    try:
        return CompiledModel.from_file(
            os.fspath(path), options=Options(cpu_options=cpu)
        )
    except RuntimeError as error:
        raise ValueError(
            f"path must be a TFLite file that LiteRT runs, got {path}: {error}"
        ) from error


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a file says of itself.

    Raises:
        ImportError, FileNotFoundError, ValueError: as in `open_file`; and if the file
            says nothing.
    """
    interpreter = open_file(path)
    if ABOUT not in interpreter.get_signature_list():
        raise ValueError(
            f"path must be a file of export_tflite, got {path}, which does not say "
            "what it is."
        )
    data = interpreter.get_signature_runner(ABOUT)()["json"]
    return json.loads(data.tobytes())
