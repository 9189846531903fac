"""Documents of text, JSONL and Parquet files, read in pieces that many can share."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keras_gpt.data import files

FORMATS = ("auto", "text", "jsonl", "parquet")
DOCUMENTS = ("file", "line", "blank_line")
_FORMAT_BY_ENDING = {
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BOM = b"\xef\xbb\xbf"


class Reading(NamedTuple):
    """How files become documents.

    Attributes:
        format: `"text"`, `"jsonl"`, `"parquet"`, or `"auto"`: by the file's name,
            text where it tells nothing.
        field: field of JSON objects, or column of tables, that holds the text.
        document: what one document of a text file is: `"file"`, `"line"` (without
            its end), or `"blank_line"`: lines up to one that is blank, without the
            last one's end.
    """

    format: str = "auto"
    field: str = "text"
    document: str = "file"


class Piece(NamedTuple):
    """A part of a file, for one process to read.

    Attributes:
        path: the file.
        file: int. Number of the file among all inputs.
        source: int. Number of its source.
        start: int. First byte, or first row group of a table.
        end: int. Byte or row group after the last; None for the file's end.
        num_bytes: int. Stored bytes of the part, for progress.
    """

    path: str
    file: int
    source: int
    start: int
    end: int | None
    num_bytes: int


def file_format(path: str, reading: Reading) -> str:
    """Returns `"text"`, `"jsonl"` or `"parquet"`."""
    if reading.format != "auto":
        return reading.format
    if ending := files.compression(path):
        path = path[: -len(ending)]
    return _FORMAT_BY_ENDING.get(os.path.splitext(path)[1].lower(), "text")


def split_file(
    path: str, *, file: int, source: int, reading: Reading, piece_bytes: int
) -> list[Piece]:
    """Cuts a file into pieces; together they give each document exactly once.

    Args:
        path: the file.
        file: int. Its number.
        source: int. Its source's number.
        reading: how it becomes documents.
        piece_bytes: int. Wanted size of a piece. A compressed file, and one that is
            a single document, stays whole.

    Raises:
        ValueError: if it is a table and no table, naming the file.
        OSError: if it cannot be read.
    """
    size = files.file_bytes(path)
    form = file_format(path, reading)
    whole = [Piece(path, file, source, 0, None, size)]
    if files.compression(path) or (form, reading.document) == ("text", "file"):
        return whole
    if form == "parquet":
        if not files.is_local(path):
            return whole
        groups = _open_table(path, name=path).num_row_groups
        count = min(-(-size // piece_bytes), groups)
        cuts = [groups * index // count for index in range(count + 1)] if count else []
        return [
            Piece(path, file, source, start, end, size // count)
            for start, end in zip(cuts, cuts[1:], strict=False)
        ]
    starts = range(0, size, piece_bytes)
    return [
        Piece(path, file, source, start, min(start + piece_bytes, size), piece_bytes)
        for start in starts
    ]


def read_documents(piece: Piece, reading: Reading) -> Iterator[bytes]:
    """Yields the documents of a piece, UTF-8, none of them empty.

    Raises:
        ValueError: if the file is not what its format says, naming it and the place:
            the byte that is not UTF-8, the line that is no JSON object with the
            field, the row without text.
        OSError: if it cannot be read.
    """
    form = file_format(piece.path, reading)
    if form == "parquet":
        documents = _table_rows(piece, reading.field)
    elif form == "jsonl":
        documents = _json_texts(piece, reading.field)
    elif reading.document == "file":
        documents = iter([_checked(b"".join(_content(piece)), piece.path, 0)])
    elif reading.document == "line":
        documents = (
            _checked(_without_end(line), piece.path, offset)
            for offset, line in _own_lines(piece)
        )
    else:
        documents = _paragraphs(piece)
    return (document for document in documents if document)


def _checked(text: bytes, path: str, offset: int) -> bytes:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path!r} must be UTF-8, got byte 0x{text[error.start]:02x} at offset "
            f"{offset + error.start} ({error.reason})."
        ) from error
    return text


def _content(piece: Piece) -> Iterable[bytes]:
    if files.compression(piece.path):
        return files.read_content(piece.path)
    return files.read_blocks(piece.path, max(piece.start - 1, 0))


def _lines(blocks: Iterable[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    """Yields lines with their ends, each after the offset of its first byte."""
    parts: list[bytes] = []  # of a line that goes on
    for block in blocks:
        lines = block.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join([*parts, lines[0]])
            parts = []
        rest = lines.pop()
        for line in lines:
            yield offset, line + b"\n"
            offset += len(line) + 1
        if rest:
            parts.append(rest)
    if parts:
        yield offset, b"".join(parts)


def _lines_from(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that begin in a piece, and those after it."""
    if not piece.start:
        yield from _lines(_content(piece), 0)
        return
    # The byte before tells whether a line begins with the piece's first byte.
    lines = _lines(_content(piece), piece.start - 1)
    next(lines, None)
    yield from lines


def _own_lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    for offset, line in _lines_from(piece):
        if piece.end is not None and offset >= piece.end:
            return
        yield offset, line


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _paragraphs(piece: Piece) -> Iterator[bytes]:
    # A paragraph belongs to the piece in which the last blank line before it begins
    # (the first to the first), which a reader knows without looking back.
    lines: list[bytes] = []
    is_own, first = piece.start == 0, 0
    for offset, line in _lines_from(piece):
        if line.strip():
            if is_own:
                first = first if lines else offset
                lines.append(line)
            elif piece.end is not None and offset >= piece.end:
                return
            continue
        if lines:
            yield _checked(_without_end(b"".join(lines)), piece.path, first)
            lines = []
        if piece.end is not None and offset >= piece.end:
            return
        is_own = True
    if lines:
        yield _checked(_without_end(b"".join(lines)), piece.path, first)


def _json_texts(piece: Piece, field: str) -> Iterator[bytes]:
    for number, (offset, line) in enumerate(_own_lines(piece), start=1):
        if not line.strip():
            continue
        line = line.removeprefix(_BOM) if not offset else line
        _checked(line, piece.path, offset)
        try:
            yield _field_of(json.loads(line.decode("utf-8")), field)
        except (ValueError, RecursionError) as error:
            number += _lines_before(piece)
            raise ValueError(f"{piece.path!r} line {number} {_told(error)}.") from error


class _FieldError(ValueError):
    """What is wrong with a JSON object; the caller knows where it stands."""


def _field_of(value: Any, field: str) -> bytes:
    if not isinstance(value, dict):
        raise _FieldError(f"must be a JSON object, got {json.dumps(value)[:80]}")
    if field not in value:
        keys = ", ".join(repr(key) for key in list(value)[:10]) or "none"
        raise _FieldError(f"must have the field {field!r}, got {keys}")
    if not isinstance(value[field], str):
        shown = json.dumps(value[field])[:80]
        raise _FieldError(f"must have text in the field {field!r}, got {shown}")
    try:
        return value[field].encode("utf-8")
    except UnicodeEncodeError as error:
        raise _FieldError(
            f"must have Unicode text in the field {field!r}, got half of a surrogate "
            f"pair, {value[field][error.start]!a}"
        ) from error


def _told(error: Exception) -> str:
    if isinstance(error, _FieldError):
        return str(error)
    return f"must be a JSON object: {error}"


def _lines_before(piece: Piece) -> int:
    """Number of lines that begin before a piece."""
    if not piece.start:
        return 0
    left, count, last = piece.start, 0, b""
    for block in files.read_blocks(piece.path):
        block = block[:left]
        left -= len(block)
        count += block.count(b"\n")
        last = block[-1:] or last
        if not left:
            break
    return count + (last != b"\n")


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            "Parquet files need the package pyarrow: pip install 'keras-gpt[parquet]'."
        ) from error


def _open_table(path: str, *, name: str) -> Any:
    parquet = _parquet()
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's errors share no class.
        if isinstance(error, OSError) and not os.path.exists(path):
            raise
        raise ValueError(f"{name!r} must be a Parquet file: {error}.") from error


@contextlib.contextmanager
def open_table(path: str) -> Iterator[Any]:
    """Opens a Parquet file, wherever it is and however compressed, while in use.

    Args:
        path: the file. Local and not compressed, it is read in place; any other has
            a local copy meanwhile.

    Yields:
        A `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if it is no Parquet file, or pyarrow is not installed.
        OSError: if it cannot be read.
    """
    if files.is_local(path) and not files.compression(path):
        yield _open_table(path, name=path)
        return
    with tempfile.TemporaryDirectory(prefix="keras_gpt-") as folder:
        copy = os.path.join(folder, "table.parquet")
        files.copy_content(path, copy)
        yield _open_table(copy, name=path)


def _table_rows(piece: Piece, field: str) -> Iterator[bytes]:
    with open_table(piece.path) as table:
        yield from _rows_of(table, piece, field)


def _rows_of(table: Any, piece: Piece, field: str) -> Iterator[bytes]:
    names = table.schema_arrow.names
    if field not in names:
        raise ValueError(
            f"{piece.path!r} must have the column {field!r}, got "
            f"{', '.join(map(repr, names[:10]))}."
        )
    kind = str(table.schema_arrow.field(field).type)
    if "string" not in kind:
        raise ValueError(
            f"{piece.path!r} must have text in the column {field!r}, got {kind}."
        )
    groups = range(
        piece.start, table.num_row_groups if piece.end is None else piece.end
    )
    row = sum(table.metadata.row_group(g).num_rows for g in range(piece.start))
    for texts in _batches(table, groups, field, name=piece.path):
        for text in texts:
            yield _row_text(text, piece.path, field, row)
            row += 1


def _batches(
    table: Any, groups: range, field: str, *, name: str
) -> Iterator[list[bytes | None]]:
    try:
        for batch in table.iter_batches(
            batch_size=1024, row_groups=list(groups), columns=[field]
        ):
            # As bytes: pyarrow lets text be anything, and `_row_text` names the place.
            yield batch.column(0).cast("string").cast("binary").to_pylist()
    except Exception as error:  # pyarrow's errors share no class.
        raise ValueError(f"{name!r} must be a Parquet file: {error}.") from error


def _row_text(text: bytes | None, path: str, field: str, row: int) -> bytes:
    if text is None:
        raise ValueError(
            f"{path!r} row {row} must have text in the column {field!r}, got null."
        )
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path!r} row {row} must be UTF-8 in the column {field!r}, got byte "
            f"0x{text[error.start]:02x} at offset {error.start} ({error.reason})."
        ) from error
    return text
