"""Reading and writing of safetensors, tensor by tensor.

Format: https://huggingface.co/docs/safetensors. Eight bytes give the length of a JSON
header, which gives the type, shape and place of each tensor; their data follow.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from keras_gpt.zero_copy import aligned_array

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# Key of our own in the file's metadata: CRC-32 of each tensor's bytes, as hex.
CHECKSUMS = "crc32"

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class SafetensorsFolder:
    """The tensors of a folder's safetensors files, read one at a time.

    Args:
        folder: path. It holds `model.safetensors`, or shards with
            `model.safetensors.index.json`, or other `*.safetensors`.

    Attributes:
        shapes: dict. Shape of each tensor by its name.

    Raises:
        FileNotFoundError: if there is no such file, or a shard is missing.
        ValueError: if a file is broken or the index does not fit, naming the file.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self._offsets: dict[str, int] = {}
        self._checksums: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._codes: dict[str, str] = {}
        index = _read_index(folder)
        for path in _files(folder, index):
            self._add_file(path)
        for name, path in index.items():
            if self._files.get(name) != path:
                raise ValueError(
                    f"{path} must hold the tensor {name!r}, as {folder / INDEX_FILE} "
                    "says, but does not."
                )

    def dtype(self, name: str) -> np.dtype:
        """Returns the dtype of a tensor.

        Raises:
            ValueError: if it is not one of `DTYPES`.
        """
        code = self._codes[name]
        if code not in DTYPES:
            raise ValueError(
                f"{self._files[name]}: tensor {name!r} must be of type "
                f"{', '.join(DTYPES)}, got {code}."
            )
        return DTYPES[code]

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor.

        Raises:
            ValueError: if its bytes are not those that were written, for files that
                hold checksums.
        """
        dtype, path, shape = self.dtype(name), self._files[name], self.shapes[name]
        # Not by the library: it maps the file, whose pages then stay in memory.
        value = aligned_array(shape, dtype)
        with open(path, "rb") as file:
            file.seek(self._offsets[name])
            size = file.readinto(value.view(np.uint8).reshape(-1).data)
        if size != value.nbytes:
            raise ValueError(
                f"{path}: tensor {name!r} must have {value.nbytes} bytes, got {size}: "
                "the file has changed since it was opened."
            )
        if name in self._checksums and checksum(value) != self._checksums[name]:
            raise ValueError(
                f"{path}: tensor {name!r} must have the CRC-32 "
                f"{self._checksums[name]}, got {checksum(value)}: the file is damaged."
            )
        return value

    def _add_file(self, path: Path) -> None:
        header, data_start = _read_header(path)
        self._checksums |= _checksums(path, header.pop("__metadata__", {}))
        for name, entry in header.items():
            if name in self._files:
                raise ValueError(
                    f"tensor {name!r} must stand in one file, but is in "
                    f"{self._files[name]} and {path}."
                )
            self._files[name] = path
            self.shapes[name] = tuple(entry["shape"])
            self._codes[name] = entry["dtype"]
            self._offsets[name] = data_start + entry["data_offsets"][0]


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Returns a file's header and where its data start, once the library passed it."""
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file: {error}."
        ) from error
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)), 8 + size


def _checksums(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    try:
        return dict(json.loads(metadata.get(CHECKSUMS, "{}")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: {CHECKSUMS} in its metadata must be a JSON object: {error}."
        ) from error


def _read_index(folder: Path) -> dict[str, Path]:
    """Returns the file of each tensor as the index has it; nothing without one."""
    path = folder / INDEX_FILE
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be a JSON object with a 'weight_map' of files by tensor: "
            f"{error!r}."
        ) from error
    for name, file in names.items():
        if Path(file).name != file:
            raise ValueError(
                f"{path} must name files of its own folder, got {file!r} for {name!r}."
            )
        if not (folder / file).exists():
            raise FileNotFoundError(
                f"{folder / file} is missing; {path} names it for {name!r}."
            )
    return {name: folder / file for name, file in names.items()}


def _files(folder: Path, index: dict[str, Path]) -> list[Path]:
    if index:
        return sorted(set(index.values()))
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no *.safetensors.")
    return found


class TensorToWrite(NamedTuple):
    """A tensor of a file to write.

    Attributes:
        name: string.
        shape: ints.
        dtype: NumPy dtype, one of `DTYPES`.
        read: function without arguments that returns it; called once, in order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def write_safetensors(path: Path, tensors: Iterable[TensorToWrite]) -> None:
    """Writes a file with one tensor in memory at a time, and their checksums.

    The metadata says `format: pt`, without which transformers refuses a file.

    Args:
        path: of the new file. Written whole or not at all.
        tensors: `TensorToWrite` each.

    Raises:
        ValueError: if a tensor's dtype or shape is not what it was said to be.
        OSError: if the file cannot be written.
    """
    tensors = list(tensors)
    header = _header(tensors, checksums={t.name: "0" * 8 for t in tensors})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(header)
            checksums = {}
            for tensor in tensors:
                value = _checked(tensor)
                checksums[tensor.name] = checksum(value)
                file.write(value.data.cast("B") if value.size else b"")
            # Of the same length: only the digits changed.
            file.seek(0)
            file.write(_header(tensors, checksums=checksums))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(value: np.ndarray) -> str:
    """Returns the CRC-32 of an array's bytes as eight hexadecimal digits."""
    contiguous = np.ascontiguousarray(value)
    return f"{zlib.crc32(contiguous.view(np.uint8).reshape(-1).data):08x}"


def _checked(tensor: TensorToWrite) -> np.ndarray:
    value = np.ascontiguousarray(tensor.read()).reshape(tensor.shape)
    if value.dtype != tensor.dtype:
        raise ValueError(
            f"tensor {tensor.name!r} must be {tensor.dtype}, got {value.dtype}."
        )
    return value.view(np.uint8) if value.size else value


def _header(tensors: list[TensorToWrite], *, checksums: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {
        "__metadata__": {"format": "pt", CHECKSUMS: json.dumps(checksums)}
    }
    offset = 0
    for tensor in tensors:
        if tensor.dtype not in _CODES:
            raise ValueError(
                f"dtype must be one of {', '.join(map(str, _CODES))}, "
                f"got {tensor.dtype} for {tensor.name!r}."
            )
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        entries[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    data = json.dumps(entries, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data
