"""Reading text files, with an error that says what is wrong and where."""

from __future__ import annotations

import os
from collections.abc import Iterable


def read_text_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Reads UTF-8 text files, byte for byte (no newline translation).

    Args:
        paths: iterable of paths, one document each, in training order.

    Returns:
        List of strings, one per path.

    Raises:
        ValueError: if there is no path, or a file is missing, no regular file,
            unreadable, empty or not UTF-8; the message names the file, and for bad
            bytes their offset.
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise ValueError(f"paths must be a list of text files, got {paths!r}.")
    documents = [_read_text_file(os.fspath(path)) for path in paths]
    if not documents:
        raise ValueError("paths must name at least one text file, got none.")
    return documents


def _read_text_file(path: str) -> str:
    if not os.path.exists(path):
        raise ValueError(f"Corpus file {path!r} does not exist.")
    if os.path.isdir(path):
        raise ValueError(f"Corpus file {path!r} is a directory, not a text file.")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(
            f"Corpus file {path!r} cannot be read: {error.strerror}."
        ) from error
    if not content:
        raise ValueError(f"Corpus file {path!r} is empty.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Corpus file {path!r} is not UTF-8: byte 0x{content[error.start]:02x} "
            f"at offset {error.start} ({error.reason})."
        ) from error
