"""Files that have their old content or all of the new one, on this machine's disks."""

from __future__ import annotations

import os

TEMPORARY = ".tmp-"  # begins the names of what is being written


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file under a temporary name, flushes it to the disk and renames it.

    Args:
        path: path. Its folder must be there.
        content: bytes, or a string to write as UTF-8, line feeds as they are.

    Raises:
        OSError: if it cannot be written; the old file stays.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f"{TEMPORARY}{name}-{os.getpid()}")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        # The name that the caller knows.
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
    flush(folder)


def flush_directory(directory: str) -> None:
    """Flushes a directory and the files in it and below to the disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            flush(os.path.join(parent, name))
        flush(parent)


def flush(path: str) -> None:
    """Flushes one file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
