"""Questions with answers in a context: SQuAD's own JSON, and flat tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from keras_gpt.data.table_rows import is_unicode, read_content_text, shown
from keras_gpt.data.task_files import Column, read_table

# The columns of the flat form, by the names they have unless the caller renames them.
_FLAT_COLUMNS = {
    "id": Column("id", "label", is_optional=True),
    "question": Column("question"),
    "context": Column("context"),
    "answer_text": Column("answer_text"),
    "answer_start": Column("answer_start", "integer", is_optional=True),
}
_TYPE_NAMES = {str: "text", list: "a list", int: "an integer", bool: "true or false"}


class Answer(NamedTuple):
    """A part of a context that answers a question.

    Attributes:
        text: string.
        start: int. Its first character in the context, counted in code points.
    """

    text: str
    start: int


class QuestionExample(NamedTuple):
    """A question about a context.

    Attributes:
        id: string. No two of a data set are the same.
        question: string.
        context: string.
        answers: tuple of `Answer`, each found in the context at its start; for
            evaluation often several, empty where `is_impossible`.
        is_impossible: bool. Whether the context does not answer the question.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    is_impossible: bool


def read_squad(path: str | os.PathLike[str]) -> list[QuestionExample]:
    """Reads SQuAD's own JSON, version 1.1 or 2.0.

    Args:
        path: path. A local file, or any that `tf.io.gfile` opens; compressed as its
            name says.

    Returns:
        List of `QuestionExample`, in the file's order.

    Raises:
        ValueError: if the file is not of this form; if an answer is not in its
            context at its start, an answerable question has none or two questions
            have one id, naming the file and the question's id.
        OSError: if it cannot be read (here), or tf.errors.OpError (elsewhere).

    Reference: Rajpurkar et al. 2016 (1.1); Rajpurkar et al. 2018 (2.0).
    """
    path = os.fspath(path)
    text = read_content_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} must be JSON: {error}.") from error
    examples = []
    for at, context, entry in _squad_entries(content, path):
        name = _field(entry, "id", str, at)
        where = f"{path!r} question {name!r}"
        examples.append((where, _squad_example(entry, name, context, where)))
    return _checked(examples, path)


def read_questions(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
    quotes: bool | None = None,
) -> list[QuestionExample]:
    """Reads questions from tables: one question and one answer a row.

    Args:
        paths: path or list of paths, as in `read_table`.
        columns: dict of the names `"question"`, `"context"`, `"answer_text"`,
            `"answer_start"` and `"id"` to columns of the files. Defaults to the same
            names. An empty `answer_text` says that the context has no answer;
            `answer_start` counts code points, and where it is missing the answer's
            first occurrence counts; where `id` is missing it is the row's number,
            from 0.
        format: string, as in `read_table`. Defaults to `"auto"`: by the name.
        quotes: bool, as in `read_table`. Defaults to None: in CSV, not in TSV.

    Returns:
        List of `QuestionExample`, in the files' order.

    Raises:
        ValueError: as `read_table` does; and if an answer is not in its context, or
            two questions have one id, naming file, line and id.
        OSError: if a file cannot be read (here), or tf.errors.OpError (elsewhere).
    """
    renamed = dict(columns or {})
    if unknown := sorted(set(renamed) - set(_FLAT_COLUMNS)):
        raise ValueError(
            f"columns must name some of {', '.join(_FLAT_COLUMNS)}, got {unknown[0]!r}."
        )
    wanted: dict[str, str | Column] = {
        name: column._replace(source=renamed.get(name, name))
        for name, column in _FLAT_COLUMNS.items()
    }
    table = read_table(paths, columns=wanted, format=format, quotes=quotes)
    examples = []
    for index, place in enumerate(table.places):
        cells = {name: cells[index] for name, cells in table.columns.items()}
        name = cells["id"] or str(index)
        where = f"{place} (question {name!r})"
        answers = _flat_answers(cells, where)
        example = QuestionExample(
            name, cells["question"], cells["context"], answers, not answers
        )
        examples.append((where, example))
    return _checked(examples, str(paths))


def _field(value: Any, name: str, kind: type, where: str) -> Any:
    """Returns a field of a JSON object, of the type that it must have."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, got {shown(value)}.")
    field = value.get(name)
    # In Python a truth value is an integer.
    is_right = isinstance(field, kind) and isinstance(field, bool) == (kind is bool)
    if not is_right or (isinstance(field, str) and not is_unicode(field)):
        raise ValueError(
            f"{where} must have {_TYPE_NAMES[kind]} in the field {name!r}, got "
            f"{shown(field) if name in value else 'no such field'}."
        )
    return field


def _squad_entries(content: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yields the place, the context and the JSON of each question."""
    for a, article in enumerate(_field(content, "data", list, repr(path))):
        at = f"{path!r} data[{a}]"
        for p, paragraph in enumerate(_field(article, "paragraphs", list, at)):
            at = f"{path!r} data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, at)
            for q, entry in enumerate(_field(paragraph, "qas", list, at)):
                yield f"{at}.qas[{q}]", context, entry


def _squad_example(
    entry: Any, name: str, context: str, where: str
) -> QuestionExample:
    question = _field(entry, "question", str, where)
    is_impossible = "is_impossible" in entry and _field(
        entry, "is_impossible", bool, where
    )
    answers = []
    for value in _field(entry, "answers", list, where):
        text = _field(value, "text", str, where)
        start = _field(value, "answer_start", int, where)
        answers.append(_checked_answer(text, start, context, where))
    if is_impossible and answers:
        raise ValueError(
            f"{where} must have no answer, as it is impossible, got "
            f"{shown(answers[0].text)}."
        )
    if not is_impossible and not answers:
        raise ValueError(
            f"{where} must have an answer, as it is not impossible, got none."
        )
    return QuestionExample(name, question, context, tuple(answers), is_impossible)


def _flat_answers(cells: Mapping[str, Any], where: str) -> tuple[Answer, ...]:
    text, start = cells["answer_text"], cells["answer_start"]
    if not text:
        if start is not None:
            raise ValueError(
                f"{where} must have an answer_text where it has an answer_start, got "
                f"{start} and an empty text."
            )
        return ()
    if start is None:
        start = cells["context"].find(text)
        if start < 0:
            raise ValueError(
                f"{where} must have its answer in its context, got {shown(text)}."
            )
    return (_checked_answer(text, start, cells["context"], where),)


def _checked_answer(text: str, start: int, context: str, where: str) -> Answer:
    if not text:
        raise ValueError(f"{where} must have text in its answers, got ''.")
    found = context[start : start + len(text)] if start >= 0 else ""
    if found != text:
        raise ValueError(
            f"{where} must have its answer {shown(text)} in its context at character "
            f"{start}, got {shown(found)}."
        )
    return Answer(text, start)


def _checked(
    examples: Iterable[tuple[str, QuestionExample]], source: str
) -> list[QuestionExample]:
    """Checks that ids are unique and that there is a question."""
    by_id: dict[str, QuestionExample] = {}
    for where, example in examples:
        if example.id in by_id:
            raise ValueError(f"{where} must have an id of its own, got it twice.")
        by_id[example.id] = example
    if not by_id:
        raise ValueError(f"{source!r} must have at least one question, got none.")
    return list(by_id.values())
