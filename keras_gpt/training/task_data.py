"""Examples of each task out of files, as `fit` takes them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt import models, presets
from keras_gpt.data import (
    Column,
    QuestionExample,
    TaskTable,
    read_questions,
    read_squad,
    read_table,
)
from keras_gpt.data import files as data_files
from keras_gpt.models.fit_checks import CutTexts, plain_errors


class TaskExamples(NamedTuple):
    """Examples of a task.

    Attributes:
        x: inputs, as `fit` takes them.
        y: targets, as `fit` takes them; None where the inputs are also the targets.
        label_names: list of strings, all labels there are, sorted; None for tasks
            without names of labels.
        questions: list of `QuestionExample`, for question answering; else None.
    """

    x: Any
    y: Any
    label_names: list[str] | None = None
    questions: list[QuestionExample] | None = None

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        x = self.x
        while isinstance(x, tuple | dict):
            x = next(iter(x.values() if isinstance(x, dict) else x))
        return len(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleColumns:
    """Where the parts of examples are in files, and what labels are.

    Args:
        text, second_text, label, choices, words, prompt, response, question, context,
            answer_text, answer_start: strings. Names of columns. `second_text`,
            `prompt` and `response` default to None: there are none.
        multi_label: bool. Whether a text has any number of labels. Defaults to False.
        regression: bool. Whether labels are numbers. Defaults to False.
        separator: string. Splits lists in CSV and TSV. Defaults to `"|"`, and to a
            space between words.
        format: string. As in `keras_gpt.data.read_table`. Defaults to `"auto"`.
        quotes: bool. As there. Defaults to None: in CSV, not in TSV.

    Raises:
        ValueError: if labels are to be many and numbers.
    """

    text: str = "text"
    second_text: str | None = None
    label: str = "label"
    choices: str = "choices"
    words: str = "words"
    prompt: str | None = None
    response: str | None = None
    question: str = "question"
    context: str = "context"
    answer_text: str = "answer_text"
    answer_start: str = "answer_start"
    multi_label: bool = False
    regression: bool = False
    separator: str = ""
    format: str = "auto"
    quotes: bool | None = None

    def __post_init__(self) -> None:
        if self.multi_label and self.regression:
            raise ValueError("multi_label must be False for a regression, got True.")


class TaskKind(NamedTuple):
    """A kind of task.

    Attributes:
        task_class: class of the model.
        meaning: string. What it is for.
        read: function of paths and `ExampleColumns` to `TaskExamples`.
    """

    task_class: Any
    meaning: str
    read: Callable[[Sequence[str], ExampleColumns], TaskExamples]


def _read(
    paths: Sequence[str], where: ExampleColumns, columns: Mapping[str, Column]
) -> TaskTable:
    return read_table(
        list(paths), columns=columns, format=where.format, quotes=where.quotes
    )


def _text_classifier(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    columns = {"text": Column(where.text), "label": _label_column(where)}
    if where.second_text is not None:
        columns["second_text"] = Column(where.second_text)
    table = _read(paths, where, columns)
    x: Any = table.columns["text"]
    if where.second_text is not None:
        x = (x, table.columns["second_text"])
    return _labelled(x, table, where)


def _similarity(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    second = where.second_text or "second_text"
    return _text_classifier(paths, dataclasses.replace(where, second_text=second))


def _label_column(where: ExampleColumns) -> Column:
    if where.multi_label:
        return Column(where.label, "labels", where.separator)
    return Column(where.label, "number" if where.regression else "label")


def _labelled(x: Any, table: TaskTable, where: ExampleColumns) -> TaskExamples:
    labels = table.columns["label"]
    if where.regression:
        return TaskExamples(x, labels)
    each = [name for row in labels for name in row] if where.multi_label else labels
    return TaskExamples(x, labels, sorted(set(each)))


def _multiple_choice(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    table = _read(
        paths,
        where,
        {
            "text": Column(where.text),
            "choices": Column(where.choices, "choices", where.separator),
            "label": Column(where.label, "integer"),
        },
    )
    texts, choices, labels = (table.columns[n] for n in ("text", "choices", "label"))
    for row, label, place in zip(choices, labels, table.places, strict=True):
        if not 0 <= label < len(row):
            raise ValueError(
                f"{place}: a label must be the number of one of the {len(row)} "
                f"choices, from 0, got {label}."
            )
    return TaskExamples((texts, choices), labels)


def _token_classifier(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    table = _read(
        paths,
        where,
        {
            "words": Column(where.words, "words", where.separator),
            "labels": Column(where.label, "labels", where.separator or " "),
        },
    )
    words, labels = table.columns["words"], table.columns["labels"]
    for row, own, place in zip(words, labels, table.places, strict=True):
        if len(row) != len(own):
            raise ValueError(
                f"{place}: there must be a label for each of the {len(row)} words, "
                f"got {len(own)}."
            )
    names = {name for row in labels for name in row}
    return TaskExamples(words, labels, sorted(names))


def _question_answering(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    questions = _questions(paths, where)
    answers = [question.answers[:1] for question in questions]
    return TaskExamples(
        {
            "question": [question.question for question in questions],
            "context": [question.context for question in questions],
        },
        {
            "answer_start": [found[0].start if found else 0 for found in answers],
            "answer_text": [found[0].text if found else "" for found in answers],
        },
        questions=questions,
    )


def _questions(paths: Sequence[str], where: ExampleColumns) -> list[QuestionExample]:
    """Reads questions of SQuAD's own files, then of all tables."""
    squad = [path for path in paths if where.format == "auto" and _is_json(path)]
    tables = [path for path in paths if path not in squad]
    questions = [question for path in squad for question in read_squad(path)]
    if tables:
        names = ("question", "context", "answer_text", "answer_start")
        columns = {name: getattr(where, name) for name in names}
        questions += read_questions(
            tables, columns=columns, format=where.format, quotes=where.quotes
        )
    counts = collections.Counter(question.id for question in questions)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(
            f"{', '.join(map(repr, paths))} must have each question's id once, got "
            f"{twice[0]!r} twice."
        )
    return questions


def _is_json(path: str) -> bool:
    """Returns whether a file, compressed or not, is JSON by its name."""
    name = path.lower()
    return name.removesuffix(data_files.compression(path)).endswith(".json")


def _causal_lm(paths: Sequence[str], where: ExampleColumns) -> TaskExamples:
    if where.prompt is None and where.response is None:
        table = _read(paths, where, {"text": Column(where.text)})
        return TaskExamples(table.columns["text"], None)
    table = _read(
        paths,
        where,
        {
            "prompts": Column(where.prompt or "prompt"),
            "responses": Column(where.response or "response"),
        },
    )
    return TaskExamples(table.columns, None)


TASK_KINDS: dict[str, TaskKind] = {
    "text_classifier": TaskKind(
        models.GPTTextClassifier, "labels of texts, or of pairs", _text_classifier
    ),
    "similarity": TaskKind(
        models.GPTSimilarity, "labels of pairs in either order", _similarity
    ),
    "multiple_choice": TaskKind(
        models.GPTMultipleChoice, "one of several answers", _multiple_choice
    ),
    "token_classifier": TaskKind(
        models.GPTTokenClassifier, "labels of words", _token_classifier
    ),
    "question_answering": TaskKind(
        models.GPTQuestionAnswering, "answers in contexts", _question_answering
    ),
    "causal_lm": TaskKind(
        models.GPTCausalLM, "texts, or responses to prompts", _causal_lm
    ),
}


def find_kind(preset: str) -> str:
    """Returns the kind of task of a preset or checkpoint, a key of `TASK_KINDS`.

    Args:
        preset: string. As in `GPTBackbone.from_preset`.

    Raises:
        ValueError: if it holds no task.
        OSError: if there is none.
    """
    found = presets.find(preset)
    if found.checkpoint is not None:
        head = found.checkpoint.head
        return "causal_lm" if head is None else head.kind
    saved = presets.task_class(found.location)
    for kind, one in TASK_KINDS.items():
        if one.task_class is saved:
            return kind
    raise ValueError(f"{preset} must hold a task of keras_gpt, got a network alone.")


def split_examples(
    examples: TaskExamples, *, fraction: float, seed: int
) -> tuple[TaskExamples, TaskExamples]:
    """Holds some examples out, drawn by the seed.

    Args:
        examples: `TaskExamples`.
        fraction: float in (0, 1). Share to hold out; at least one example is.
        seed: int.

    Returns:
        Those to train on, and those held out.

    Raises:
        ValueError: if the fraction is out of its range, or there is one example alone.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"validation_fraction must be in (0, 1), got {fraction}.")
    count = examples.num_examples
    held = max(round(count * fraction), 1)
    if held >= count:
        raise ValueError(f"there must be examples to train on, got {count} in all.")
    order = np.random.default_rng(seed).permutation(count)
    parts = (order[held:], order[:held])
    kept, held_out = (_taken(examples, sorted(part.tolist())) for part in parts)
    return kept, held_out


def _taken(examples: TaskExamples, rows: list[int]) -> TaskExamples:
    def of(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: of(value) for name, value in part.items()}
        if isinstance(part, tuple):
            return tuple(map(of, part))
        return None if part is None else [part[row] for row in rows]

    return examples._replace(
        x=of(examples.x), y=of(examples.y), questions=of(examples.questions)
    )


def longest_row(task: Any, *examples: TaskExamples, multiple: int = 16) -> int:
    """Returns the length of rows that holds all examples, in tokens.

    Args:
        task: `GPTTask` with a preprocessor, whose rows are the most, as is the
            context. A warning tells how many texts were longer.
        *examples: `TaskExamples` of its kind.
        multiple: int. What the length is rounded up to. Defaults to 16.

    Raises:
        ValueError: if an example is bad.
    """
    context = task.backbone.config.max_sequence_length
    most = min(task.preprocessor.sequence_length, context)
    cut_texts = CutTexts(task.preprocessor)
    longest = 1
    with task.rows_of(most):
        for part in examples:
            used = task.tokenized(part.x, part.y).map(_num_tokens)
            with plain_errors():
                longest = int(used.reduce(longest, tf.maximum))
        cut_texts.warn()
    return min(-(-longest // multiple) * multiple, most)


def _num_tokens(x: dict[str, tf.Tensor], *_: Any) -> tf.Tensor:
    """Returns int32, the tokens of a row, or of the longest of several."""
    used = tf.reduce_sum(tf.cast(x["padding_mask"], tf.int32), axis=-1)
    return tf.reduce_max(used)
