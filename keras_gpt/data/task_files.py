"""Tables of examples for fine-tuning, as columns of checked Python values."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_gpt.data.table_rows import (
    DELIMITERS,
    Place,
    is_unicode,
    read_rows,
    shown,
    table_format,
)

# What cells hold; of a list, what splits it in CSV and TSV.
KINDS = ("text", "label", "integer", "number", "labels", "choices", "words")
SEPARATORS = {"labels": "|", "choices": "|", "words": " "}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

# What a message says that a cell must hold.
_NAMES = {
    "text": "Unicode text",
    "label": "a label (text, an integer or a truth value)",
    "integer": "an integer",
    "number": "a finite number",
    "labels": "a list of labels, none empty,",
    "choices": "a list of texts, none empty,",
    "words": "a list of texts, none empty,",
}


class Column(NamedTuple):
    """A column to read.

    Attributes:
        source: string. Its name in the file.
        kind: string. What its cells hold. `"text"`: a string. `"label"`: a string;
            an integer or a truth value of JSONL and Parquet becomes the string that
            JSON writes, so that every format gives the same. `"integer"`: an int.
            `"number"`: a finite float; strings that are one count, too.
            `"labels"`, `"choices"`, `"words"`: a list of labels or of texts.
        separator: string. Splits lists in CSV and TSV, exactly: spaces around it stay.
            Defaults to `"|"` for labels and choices, `" "` for words. An empty cell
            is an empty list; no item may be empty.
        is_optional: bool. Whether the column, its field in a JSON object or its value
            (null, or empty in CSV and TSV) may be missing; the cell is then None.
    """

    source: str
    kind: str = "text"
    separator: str = ""
    is_optional: bool = False


class TaskTable(NamedTuple):
    """Examples, column by column.

    Attributes:
        columns: dict of the caller's names to lists, one value a row.
        places: list of `Place`. The file and line of each row, for messages.
    """

    columns: dict[str, list[Any]]
    places: list[Place]


def read_table(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    columns: Mapping[str, str | Column],
    format: str = "auto",
    quotes: bool | None = None,
) -> TaskTable:
    r"""Reads examples of CSV, TSV, JSONL and Parquet files.

    CSV is read as RFC 4180 has it; TSV as IANA registered it: no quoting, and no tab
    or line end in a field. Both begin with a header. All are UTF-8; empty lines are
    skipped. Files may be compressed, as their names say (`a.csv.gz`).

    Args:
        paths: path or list of paths, read one after the other; local, or any that
            `tf.io.gfile` opens.
        columns: dict of names in the result to columns of the files. A string is the
            name of a column of text.
        format: string: `"csv"`, `"tsv"`, `"jsonl"`, `"parquet"`. Defaults to `"auto"`:
            by each file's name.
        quotes: bool. Whether a field of CSV or TSV may stand in double quotes, its
            own doubled. Defaults to None: in CSV, not in TSV.

    Returns:
        A `TaskTable`.

    Raises:
        ValueError: if an argument breaks a rule, a file is not what its format says, a
            column is missing, a value is of another kind or a file has no row; naming
            the file and the line.
        OSError: if a file cannot be read (here), or tf.errors.OpError (elsewhere).
    """
    wanted = {name: _checked_column(name, column) for name, column in columns.items()}
    if not wanted:
        raise ValueError("columns must name at least one column, got none.")
    required = [c.source for c in wanted.values() if not c.is_optional]
    optional = [c.source for c in wanted.values() if c.is_optional]
    table = TaskTable({name: [] for name in wanted}, [])
    for path in _path_list(paths):
        splits = table_format(path, format=format) in DELIMITERS
        for row in read_rows(
            path, required=required, optional=optional, format=format, quotes=quotes
        ):
            table.places.append(row.place)
            for name, column in wanted.items():
                cell = row.cells.get(column.source)
                value = _value(cell, column, place=row.place, splits=splits)
                table.columns[name].append(value)
    return table


def _path_list(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str]:
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if not paths:
        raise ValueError("paths must name at least one file, got none.")
    return [os.fspath(path) for path in paths]


def _checked_column(name: str, column: str | Column) -> Column:
    column = Column(column) if isinstance(column, str) else column
    if column.kind not in KINDS:
        raise ValueError(
            f"columns[{name!r}].kind must be one of {', '.join(map(repr, KINDS))}, got "
            f"{column.kind!r}."
        )
    if column.separator and column.kind not in SEPARATORS:
        raise ValueError(
            f"columns[{name!r}].separator must be empty for the kind {column.kind!r}, "
            f"got {column.separator!r}."
        )
    return column


def _value(cell: Any, column: Column, *, place: Place, splits: bool) -> Any:
    """Turns a cell into a value of its column's kind."""
    if column.is_optional and (cell is None or (splits and cell == "")):
        return None
    parsed = _parsed(cell, column) if splits else cell
    value: Any = None
    if column.kind not in SEPARATORS:
        value = _scalar(parsed, column.kind)
    elif isinstance(parsed, list):
        kind = "label" if column.kind == "labels" else "text"
        items = [_scalar(item, kind) for item in parsed]
        value = items if all(items) else None  # neither None nor empty
    if value is None:
        raise ValueError(
            f"{place} must have {_NAMES[column.kind]} in the column "
            f"{column.source!r}, got {shown(cell)}."
        )
    return value


def _number(value: Any) -> float | None:
    """Returns a finite float, of a number or of a string that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _parsed(cell: str, column: Column) -> Any:
    """Turns the string of a CSV cell into what JSON would hold."""
    if column.kind == "integer":
        return int(cell) if _INTEGER.fullmatch(cell) else cell
    if column.kind not in SEPARATORS:
        return cell
    return cell.split(column.separator or SEPARATORS[column.kind]) if cell else []


def _scalar(value: Any, kind: str) -> Any:
    """Returns a text, label or number; None where the value is none."""
    if kind == "integer":
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return value if is_integer else None
    if kind == "number":
        return _number(value)
    if kind == "label" and isinstance(value, bool):
        return str(value).lower()
    if kind == "label" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or (kind == "label" and not value):
        return None
    return value if is_unicode(value) else None
