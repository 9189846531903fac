"""Examples of tasks on the command line: their flags, and files of scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs
from keras_gpt.whole_files import write_whole

# Of `keras_gpt.training.TASK_KINDS`, which would need TensorFlow.
TASKS = (
    "text_classifier",
    "similarity",
    "multiple_choice",
    "token_classifier",
    "question_answering",
    "causal_lm",
)
# Fields of ExampleColumns: default and meaning.
COLUMNS: dict[str, tuple[str | None, str]] = {
    "text": ("text", "Column of the text, or of the context of choices"),
    "second_text": (None, "Column of a pair's second text; optional"),
    "label": ("label", "Column of the label, or of the right choice's number from 0"),
    "choices": ("choices", "Column of the choices"),
    "words": ("words", "Column of the words"),
    "prompt": (None, "Column of prompts, for causal_lm on responses; optional"),
    "response": (None, "Column of responses, for causal_lm on responses; optional"),
    "question": ("question", "Column of the question"),
    "context": ("context", "Column of the text that a question is about"),
    "answer_text": ("answer_text", "Column of the answer; empty for none"),
    "answer_start": ("answer_start", "Column of its first character, from 0"),
}


# All flags that tell what the examples of files are.
EXAMPLE_FLAGS = (
    *(f"{name}_column" for name in COLUMNS),
    *("multi_label", "regression", "separator", "format", "quotes"),
)
# Tasks whose labels may be several a text, or numbers.
LABELS_OF_TEXTS = ("text_classifier", "similarity")


def define_task_flag(flags: absl_flags.FlagValues) -> None:
    """Defines `--task`."""
    absl_flags.DEFINE_enum(
        "task", None, list(TASKS), "What to learn", flag_values=flags
    )


def define_column_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the flags that tell where in files the parts of examples are."""
    for name, (default, meaning) in COLUMNS.items():
        absl_flags.DEFINE_string(f"{name}_column", default, meaning, flag_values=flags)
    absl_flags.DEFINE_bool(
        "multi_label", False, "Whether a text has any number of labels",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "regression", False, "Whether labels are numbers", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "separator", "", "What splits lists in CSV and TSV; by default | between "
        "labels and choices, a space between words", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "format", "auto", ["auto", "csv", "tsv", "jsonl", "parquet"],
        "Of the files; auto goes by their names (.json is SQuAD's own)",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "quotes", None, "Whether a field of CSV and TSV may stand in double quotes; "
        "optional, in CSV alone", flag_values=flags,
    )  # fmt: skip


def check_labels(flags: absl_flags.FlagValues) -> None:
    """Checks the flags that tell what labels are.

    Raises:
        UsageError: if they are not for the task, or not for each other.
    """
    if flags.multi_label and flags.regression:
        raise command.UsageError(
            "flags --multi_label and --regression cannot be given together."
        )
    for name in ("multi_label", "regression"):
        if flags[name].value and flags.task not in LABELS_OF_TEXTS:
            raise command.UsageError(
                f"flag --{name} is for the tasks {' and '.join(LABELS_OF_TEXTS)} "
                f"alone, got --task={flags.task}."
            )


def read(
    flags: absl_flags.FlagValues,
    patterns: list[str],
    kind: str,
    *,
    problem: str | None = None,
) -> Any:
    """Reads `TaskExamples` of the files that patterns match.

    Args:
        flags: of the tool.
        patterns: strings.
        kind: string, one of `TASKS`.
        problem: string. As `GPTTextClassifier.problem`. Defaults to None: as the flags
            say.
    """
    from keras_gpt.training import TASK_KINDS, ExampleColumns

    is_many, is_number = problem == "multi_label", problem == "regression"
    names: dict[str, Any] = {n: flags[f"{n}_column"].value for n in COLUMNS}
    columns = ExampleColumns(
        **names,
        multi_label=is_many if problem else flags.multi_label,
        regression=is_number if problem else flags.regression,
        separator=flags.separator,
        format=flags.format,
        quotes=flags.quotes,
    )
    paths = [str(path) for path in inputs.text_paths(patterns)]
    return TASK_KINDS[kind].read(paths, columns)


def new_task(flags: absl_flags.FlagValues, train: Any) -> Any:
    """Makes the task that is to be trained on examples."""
    from keras_gpt.training import TASK_KINDS

    arguments: dict[str, Any] = {"load_weights": flags.pretrained}
    if train.label_names is not None:
        if len(train.label_names) < 2:
            raise ValueError(
                "there must be two labels or more in the examples to train on, got "
                f"{', '.join(train.label_names) or 'none'} alone."
            )
        arguments["label_names"] = train.label_names
    if flags.multi_label:
        arguments["multi_label"] = True
    if flags.regression:
        arguments["num_classes"] = 1
    if flags.dropout is not None:  # of the network and its head
        arguments |= dict.fromkeys(("embedding_dropout", "attention_dropout"), None)
        arguments["dropout"] = flags.dropout
    task = TASK_KINDS[flags.task].task_class.from_preset(
        flags.model, dtype=flags.dtype_policy, **arguments
    )
    if task.preprocessor is None:
        raise ValueError(f"model {flags.model!r} must have tokenizer files, got none.")
    return task


def fingerprints(flags: absl_flags.FlagValues) -> dict[str, list[str]]:
    """Returns the SHA-256 of each file of examples."""
    given = {"train": flags.train, "validation": flags.validation}
    return {
        name: [
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in inputs.text_paths(patterns)
        ]
        for name, patterns in given.items()
        if patterns
    }


def line(scores: Any) -> str:
    """Returns the metrics in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.metrics.items())


def write_scores(path: Path, scores: Any, *, label_names: list[str] | None) -> None:
    """Writes `metrics.json`, `predictions.jsonl` and `confusion.png` into a folder."""
    from keras_gpt.metrics import write_confusion_picture

    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "metrics.json", scores.metrics)
    if scores.predictions:
        rows = (json.dumps(row, ensure_ascii=False) for row in scores.predictions)
        write_whole(str(path / "predictions.jsonl"), "\n".join(rows) + "\n")
    if scores.confusion is not None:
        write_confusion_picture(
            path / "confusion.png", matrix=scores.confusion, names=label_names
        )


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole."""
    write_whole(str(path), json.dumps(content, indent=2) + "\n")

