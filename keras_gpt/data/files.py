"""Files here and wherever `tf.io.gfile` reaches: found, read, decompressed, written."""

from __future__ import annotations

import bz2
import glob
import hashlib
import importlib
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_gpt import whole_files

BLOCK_BYTES = 1 << 20
# Packed bytes handed to a decompressor at once: little, as they may grow a
# thousandfold.
_PACKED_BYTES = 1 << 16
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say that a gzip header stands first


def _zstandard() -> Any:
    try:
        module = importlib.import_module("zstandard")
    except ImportError as error:
        raise ValueError(
            "Files that end in .zst need the package zstandard: "
            "pip install 'keras-gpt[zstd]'."
        ) from error
    return module.ZstdDecompressor().decompressobj()


# Ending of a file's name to what makes a decompressor.
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(_GZIP_WINDOW),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": _zstandard,
}


def is_local(path: str) -> bool:
    """Returns whether a path is one of the operating system's own."""
    return "://" not in path


def compression(path: str) -> str:
    """Returns the ending that tells a file's compression; "" for none."""
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in DECOMPRESSORS else ""


def find_files(pattern: str) -> list[str]:
    """Returns the files that a glob pattern matches, sorted.

    Raises:
        FileNotFoundError: if there is none.
    """
    if is_local(pattern):
        found = [p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p)]
    else:
        found = [p for p in tf.io.gfile.glob(pattern) if not tf.io.gfile.isdir(p)]
    if not found:
        raise FileNotFoundError(f"no file matches {pattern!r}.")
    return sorted(found)


def read_blocks(path: str, start: int = 0) -> Iterator[bytes]:
    """Yields the content of a file from a byte on, as it is stored."""
    with _open(path) as file:
        file.seek(start)
        while block := file.read(BLOCK_BYTES):
            yield block


def read_content(path: str) -> Iterator[bytes]:
    """Yields the content of a file, decompressed as its name says.

    Raises:
        ValueError: if the compressed data are damaged or cut short, naming the file.
    """
    ending = compression(path)
    if not ending:
        yield from read_blocks(path)
        return
    make = DECOMPRESSORS[ending]
    make()  # Says what is not installed, before the file is blamed.
    decompressor = None
    for block in read_blocks(path):
        for start in range(0, len(block), _PACKED_BYTES):
            packed = block[start : start + _PACKED_BYTES]
            while packed:
                decompressor = decompressor or make()
                try:
                    content = decompressor.decompress(packed)
                except Exception as error:  # Each library raises its own.
                    raise ValueError(
                        f"{path!r} must be a whole {ending} file, but its data are "
                        f"damaged ({error})."
                    ) from error
                if content:
                    yield content
                packed = b""
                if decompressor.eof:
                    # Another file may follow, or a tape's zeros.
                    packed = decompressor.unused_data.lstrip(b"\0")
                    decompressor = None
    if decompressor is not None:
        raise ValueError(
            f"{path!r} must be a whole {ending} file, but it is cut short."
        )


def _open(path: str) -> Any:
    return open(path, "rb") if is_local(path) else tf.io.gfile.GFile(path, "rb")


def file_bytes(path: str) -> int:
    """Returns the size of a file.

    Raises:
        OSError: if it is missing (here), or tf.errors.OpError (elsewhere).
    """
    if is_local(path):
        return os.path.getsize(path)
    return tf.io.gfile.stat(path).length


def checksum(path: str) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def copy_content(path: str, target: str) -> None:
    """Writes the content of a file, decompressed, into a local one."""
    with open(target, "wb") as file:
        for block in read_content(path):
            file.write(block)


def write_whole(path: str, content: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    if is_local(path):
        whole_files.write_whole(path, content)
        return
    temporary = temporary_name(path)
    with tf.io.gfile.GFile(temporary, "wb") as file:
        file.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)


def move(local: str, path: str) -> None:
    """Gives a local file its final name, which shows only when it is whole."""
    temporary = temporary_name(path)
    if is_local(path):
        os.replace(local, path)
        return
    tf.io.gfile.copy(local, temporary, overwrite=True)
    tf.io.gfile.rename(temporary, path, overwrite=True)
    os.remove(local)


def temporary_name(path: str) -> str:
    """Returns a name beside a path that no other process writes."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{whole_files.TEMPORARY}{name}-{os.getpid()}")


def local_folder(folder: str) -> str:
    """Returns a folder's path, or that of a local copy of its files."""
    if is_local(folder):
        return folder
    copy = tempfile.mkdtemp(prefix="keras_gpt-")
    for name in tf.io.gfile.listdir(folder):
        copy_path = os.path.join(copy, name)
        tf.io.gfile.copy(os.path.join(folder, name), copy_path, overwrite=True)
    return copy
