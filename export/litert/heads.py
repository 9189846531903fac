"""A task with a head as a graph that LiteRT's own ops can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_gpt.export.litert.graphs import concrete
from keras_gpt.models import (
    GPTMultipleChoice,
    GPTQuestionAnswering,
    GPTSimilarity,
    GPTTextClassifier,
    GPTTokenClassifier,
)


def head_functions(task: Any, length: int) -> dict[str, Any]:
    """Returns what a task with a head does, by the name of its signature.

    It takes a row as the task's preprocessor makes it: `token_ids` and `padding_mask`,
    int32 (1, T); of a `GPTSimilarity` (1, 2, T), the texts in both orders; of a
    `GPTMultipleChoice` (1, 1, T), a context with one choice, of which it tells the
    score: the softmax of those of all are their probabilities.

    Args:
        task: `GPTTextClassifier`, `GPTSimilarity`, `GPTMultipleChoice`,
            `GPTTokenClassifier` or `GPTQuestionAnswering`.
        length: int (T).
    """
    name, _ = _head_of(task)
    inner = task.input["token_ids"].shape[1:-1]  # of the texts of a row
    row = tf.TensorSpec([1, *(size or 1 for size in inner), length], tf.int32)

    def run(**rows: Any) -> dict[str, tf.Tensor]:
        return head_outputs(task, task(rows, training=False))

    return {name: concrete(run, {"token_ids": row, "padding_mask": row})}


def head_outputs(task: Any, outputs: Any) -> dict[str, tf.Tensor]:
    """Returns what a task's signature tells, of what its network returns."""
    _, tell = _head_of(task)
    return tell(task, outputs)


def _head_of(task: Any) -> tuple[str, Callable[..., dict[str, tf.Tensor]]]:
    return next(head for cls, head in _HEADS.items() if isinstance(task, cls))


def _verdict(task: Any, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
    if task.labels is None:
        return _score(task, outputs)
    return {"probabilities": task.probabilities(outputs)}


def _score(task: Any, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"score": logits[:, 0]}


def _word_labels(task: Any, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"probabilities": tf.nn.softmax(logits)}


def _span(task: Any, logits: Any) -> dict[str, tf.Tensor]:
    return {"start_logits": logits["start"], "end_logits": logits["end"]}


# The more special first.
_HEADS: dict[Any, tuple[str, Callable[..., dict[str, tf.Tensor]]]] = {
    GPTSimilarity: ("compare", _verdict),
    GPTTextClassifier: ("classify", _verdict),
    GPTMultipleChoice: ("choose", _score),
    GPTTokenClassifier: ("tag", _word_labels),
    GPTQuestionAnswering: ("answer", _span),
}
HEAD_CLASSES: tuple[Any, ...] = tuple(_HEADS)
