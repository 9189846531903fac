"""Rows of CSV, TSV, JSONL and Parquet files, each with its place for messages."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from keras_gpt.data import documents, files

FORMATS = ("auto", "csv", "tsv", "jsonl", "parquet")
DELIMITERS = {"csv": ",", "tsv": "\t"}
_BOM = "\ufeff"
_BY_NAME = documents.Reading()
_SHOWN = 80  # characters of a value in a message


class Place(NamedTuple):
    """Where a row stands; as a string, for messages: `'a.csv' line 3`.

    Attributes:
        path: string. The file.
        number: int. Of its first physical line, from 1; in Parquet of the row, from 0.
        unit: `"line"` or `"row"`.
    """

    path: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path!r} {self.unit} {self.number}"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        place: its `Place`.
        cells: dict of column names in the file to values; strings in CSV and TSV. A
            column that is not required and not there is left out.
    """

    place: Place
    cells: dict[str, Any]


def shown(value: Any) -> str:
    """Returns a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def is_unicode(text: str) -> bool:
    """Returns whether a string can be UTF-8; one of JSON may hold half a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def table_format(path: str, *, format: str = "auto") -> str:
    """Returns `"csv"`, `"tsv"`, `"jsonl"` or `"parquet"`.

    Args:
        path: string. Tells the format by its ending, before that of a compression.
        format: string, one of `FORMATS`. Defaults to `"auto"`: by the name.

    Raises:
        ValueError: if there is no such format, or the name tells none.
    """
    if format not in FORMATS:
        raise ValueError(
            f"format must be one of {', '.join(map(repr, FORMATS))}, got {format!r}."
        )
    if format != "auto":
        return format
    name = path[: -len(ending)] if (ending := files.compression(path)) else path
    form = os.path.splitext(name)[1].lower().removeprefix(".")
    form = form if form in DELIMITERS else documents.file_format(path, _BY_NAME)
    if form not in FORMATS:
        raise ValueError(
            f"format must be given where a file's name does not tell it, got {path!r}."
        )
    return form


def read_content_text(path: str) -> str:
    """Returns the text of a UTF-8 file, decompressed, without a byte-order mark.

    Raises:
        ValueError: if it is not UTF-8, naming file and line, or its compressed data
            are damaged.
        OSError: if it cannot be read (here), or tf.errors.OpError (elsewhere).
    """
    content = b"".join(files.read_content(path))
    try:
        return content.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        place = Place(path, content.count(b"\n", 0, error.start) + 1)
        raise ValueError(
            f"{place} must be UTF-8, got byte 0x{content[error.start]:02x} "
            f"({error.reason})."
        ) from error


def read_rows(
    path: str,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    format: str = "auto",
    quotes: bool | None = None,
) -> Iterator[Row]:
    r"""Yields the rows of a table, in order.

    CSV is read as RFC 4180 has it; TSV as IANA registered it: no quoting, and no tab
    or line end in a field. Both begin with a header, and their empty lines are skipped.

    Args:
        path: string. A local file, or any that `tf.io.gfile` opens; compressed as its
            name says.
        required: strings. Names of columns that must be there.
        optional: strings. Names of columns that may be. Others are not read.
        format: string, one of `FORMATS`. Defaults to `"auto"`: by the file's name.
        quotes: bool. Whether a field of CSV or TSV may stand in double quotes, its
            own doubled. Defaults to None: in CSV, not in TSV.

    Raises:
        ValueError: if the file is not what its format says or lacks a required column,
            naming the file and the line; or if it has no row.
        OSError: if it cannot be read (here), or tf.errors.OpError (elsewhere).
    """
    form = table_format(path, format=format)
    if form == "jsonl":
        rows = _json_rows(path, required, optional)
    elif form == "parquet":
        rows = _parquet_rows(path, required, optional)
    else:
        quotes = form == "csv" if quotes is None else quotes
        rows = _csv_rows(path, required, optional, DELIMITERS[form], quotes)
    row = None
    for row in rows:
        yield row
    if row is None:
        raise ValueError(f"{path!r} must have at least one row, got none.")


def _check_names(
    where: object, required: Sequence[str], present: Collection[str], kind: str
) -> None:
    if not set(required) <= set(present):
        wanted = ", ".join(map(repr, required))
        got = ", ".join(map(repr, list(present)[:20])) or "none"
        raise ValueError(f"{where} must have the {kind} {wanted}, got {got}.")


def _check_columns(
    path: str, required: Sequence[str], optional: Sequence[str], header: Sequence[str]
) -> list[str]:
    """Returns the columns to read, once each."""
    _check_names(repr(path), required, header, "columns")
    wanted = [name for name in dict.fromkeys([*required, *optional]) if name in header]
    for name in wanted:
        if header.count(name) > 1:
            raise ValueError(
                f"{path!r} must have the column {name!r} once, got it "
                f"{header.count(name)} times."
            )
    return wanted


def _csv_rows(
    path: str,
    required: Sequence[str],
    optional: Sequence[str],
    delimiter: str,
    quotes: bool,
) -> Iterator[Row]:
    records = _records(path, delimiter, quotes)
    _, header = next(records, (None, None))
    if header is None:
        raise ValueError(f"{path!r} must have a header line, but it is empty.")
    wanted = _check_columns(path, required, optional, header)
    indices = {name: header.index(name) for name in wanted}
    for place, fields in records:
        if len(fields) != len(header):
            raise ValueError(
                f"{place} must have {len(header)} fields as its header, got "
                f"{len(fields)}."
            )
        yield Row(place, {name: fields[index] for name, index in indices.items()})


def _records(
    path: str, delimiter: str, quotes: bool
) -> Iterator[tuple[Place, list[str]]]:
    text = read_content_text(path)
    if "\0" in text:
        place = Place(path, text.count("\n", 0, text.index("\0")) + 1)
        raise ValueError(f"{place} must be text, got a NUL byte.")
    # The whole process has one limit, too low for long texts: read to the end, so
    # that it is as it was when anyone else reads.
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text) + 1))
    try:
        return iter(list(_parsed_records(path, text, delimiter, quotes)))
    finally:
        csv.field_size_limit(limit)


def _parsed_records(
    path: str, text: str, delimiter: str, quotes: bool
) -> Iterator[tuple[Place, list[str]]]:
    lines: list[str] = []  # of the record being read

    def taken() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(
        taken(),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    field = f'(?:"[^"]*(?:""[^"]*)*"|[^"{delimiter}]*)'
    well_quoted = re.compile(f"{field}(?:{delimiter}{field})*")
    while True:
        lines.clear()
        place = Place(path, reader.line_num + 1)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{place} must be well-formed CSV: {error}.") from error
        if fields is None:
            return
        record = "".join(lines).rstrip("\r\n")
        # The csv module lets a quote stand within an unquoted field.
        if quotes and '"' in record and not well_quoted.fullmatch(record):
            raise ValueError(
                f"{place} must have a field with a double quote in double quotes, its "
                f"own doubled, got {shown(record)}."
            )
        if fields:
            yield place, fields


def _json_rows(
    path: str, required: Sequence[str], optional: Sequence[str]
) -> Iterator[Row]:
    names = dict.fromkeys([*required, *optional])
    for number, line in enumerate(read_content_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(path, number)
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} must be a JSON object: {error}.") from error
        if not isinstance(value, dict):
            raise ValueError(f"{place} must be a JSON object, got {shown(value)}.")
        _check_names(place, required, value, "fields")
        yield Row(place, {name: value[name] for name in names if name in value})


def _parquet_rows(
    path: str, required: Sequence[str], optional: Sequence[str]
) -> Iterator[Row]:
    with documents.open_table(path) as table:
        header = table.schema_arrow.names
        names = _check_columns(path, required, optional, header)
        number = 0
        for batch in _batches(table, names, path):
            for index in range(batch.num_rows):
                place = Place(path, number, "row")
                yield Row(place, {n: _cell(batch, n, index, place) for n in names})
                number += 1


def _batches(table: Any, names: list[str], path: str) -> Iterator[Any]:
    try:
        yield from table.iter_batches(batch_size=1024, columns=names)
    except Exception as error:  # pyarrow's errors share no class.
        raise ValueError(f"{path!r} must be a Parquet file: {error}.") from error


def _cell(batch: Any, name: str, index: int, place: Place) -> Any:
    try:
        return batch.column(name)[index].as_py()
    except UnicodeDecodeError as error:  # pyarrow lets text be anything.
        raise ValueError(
            f"{place} must be UTF-8 in the column {name!r}: {error}."
        ) from error
