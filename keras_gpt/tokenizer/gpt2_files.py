"""GPT-2's file format: vocabulary as JSON, merges as lines, bytes as characters.

Bytes that print in Latin-1 stand for themselves; the other 68 are moved to U+0100
and above (Radford et al. 2019, encoder.py of the release).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

from keras_gpt.whole_files import write_whole

PathLike = str | os.PathLike[str]
MERGES_HEADER = "#version: 0.2"


@functools.cache
def byte_characters() -> dict[int, str]:
    """Returns the character of each byte, in the order of GPT-2's first 256 ids."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    table = {byte: chr(byte) for byte in printing}
    table.update({byte: chr(0x100 + index) for index, byte in enumerate(others)})
    return table


@functools.cache
def _character_bytes() -> dict[str, int]:
    return {character: byte for byte, character in byte_characters().items()}


def to_characters(data: bytes) -> str:
    """Writes bytes as the format does."""
    table = byte_characters()
    return "".join(table[byte] for byte in data)


def to_bytes(token: str) -> bytes:
    """Reads a token of the format; one with foreign characters is plain text."""
    table = _character_bytes()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode("utf-8")


def read_vocabulary(path: PathLike) -> dict[str, int]:
    """Reads a vocabulary file, such as vocab.json or encoder.json.

    Raises:
        ValueError: if the file is no JSON object of ids by token.
        OSError: if it cannot be read.
    """
    try:
        vocabulary = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"vocabulary {path} must be a JSON file: {error}.") from error
    if not isinstance(vocabulary, dict):
        kind = type(vocabulary).__name__
        raise ValueError(
            f"vocabulary {path} must be a JSON object of ids by token, got a {kind}."
        )
    return vocabulary


def read_merges(path: PathLike) -> list[str]:
    """Reads a merges file, such as merges.txt or vocab.bpe.

    Raises:
        ValueError: if the file is not UTF-8.
        OSError: if it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"merges {path} must be UTF-8: {error}.") from error
    return parse_merges(lines)


def parse_merges(lines: Iterable[str]) -> list[str]:
    """Drops the header and empty lines."""
    stripped = [line.rstrip("\r\n") for line in lines]
    return [
        line
        for index, line in enumerate(stripped)
        if line and not (index == 0 and line.startswith("#version"))
    ]


def write_vocabulary(path: PathLike, vocabulary: dict[str, int]) -> None:
    """Writes a vocabulary file, whole or not at all."""
    write_whole(path, json.dumps(vocabulary, ensure_ascii=False))


def write_merges(path: PathLike, merges: list[str]) -> None:
    """Writes a merges file, whole or not at all."""
    write_whole(path, "\n".join([MERGES_HEADER, *merges]) + "\n")
