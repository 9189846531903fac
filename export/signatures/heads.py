"""Signatures of the tasks with heads: texts in, labels, choices or answers out.

A row that is no UTF-8 has its `error`, and the outputs of an empty text; one that is
too long is cut as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_gpt.export.signatures.generate import reason_names, valid_utf8
from keras_gpt.export.signatures.inputs import (
    TEXT,
    Input,
    Outputs,
    Signature,
    signature,
    spread,
)
from keras_gpt.generation import INVALID_INPUT, UNFINISHED
from keras_gpt.models import (
    GPTMultipleChoice,
    GPTQuestionAnswering,
    GPTSimilarity,
    GPTTextClassifier,
    GPTTokenClassifier,
)
from keras_gpt.models.question_windows import span_texts

# What runs the network: the inputs of the model to its outputs.
Network = Callable[[dict[str, tf.Tensor]], Any]


def head_signatures(task: Any, network: Network) -> dict[str, Signature]:
    """Returns the signatures of a task with a head, its own and `serving_default`.

    Args:
        task: of one of the classes here.
        network: what runs it.

    Raises:
        ValueError: if the task is none of them.
    """
    for cls, make in _MAKERS.items():
        if isinstance(task, cls):
            name, meaning, function, inputs = make(task, network)
            one = signature(name, meaning, function, inputs)
            required = {key: x for key, x in inputs.items() if x.default is None}

            def serving_default(one: Signature = one, **given: tf.Tensor) -> Outputs:
                return one.function(**given)

            return {
                "serving_default": signature(
                    "serving_default", meaning, serving_default, required
                ),
                name: one,
            }
    raise ValueError(
        f"task must be of {', '.join(cls.__name__ for cls in _MAKERS)} or GPTCausalLM, "
        f"got {type(task).__name__}."
    )


_Parts = tuple[str, str, Callable[..., Outputs], dict[str, Input]]


def _similarity(task: GPTSimilarity, network: Network) -> _Parts:
    def compare(text: tf.Tensor, second_text: tf.Tensor) -> Outputs:
        (text, second_text), error = _checked(text, second_text)
        rows = task.preprocessor.rows(text, second_text, count=False)
        return {**_verdict(task, network(rows)), "error": error}

    return (
        "compare",
        "tells how two texts relate, in either order",
        compare,
        {**TEXT, "second_text": Input(tf.string)},
    )


def _classifier(task: GPTTextClassifier, network: Network) -> _Parts:
    def classify(text: tf.Tensor, second_text: tf.Tensor) -> Outputs:
        second_text = spread(second_text, tf.size(text))
        (text, second_text), error = _checked(text, second_text)
        rows = task.preprocessor.rows(text, second_text, count=False)
        return {**_verdict(task, network(rows)), "error": error}

    def classify_single(text: tf.Tensor) -> Outputs:
        (text,), error = _checked(text)
        rows = task.preprocessor.rows(text, count=False)
        return {**_verdict(task, network(rows)), "error": error}

    meaning = _MEANING[task.problem]
    if not task.preprocessor.joins_texts:
        return "classify", meaning, classify_single, TEXT
    inputs = {**TEXT, "second_text": Input(tf.string, default=b"")}
    return "classify", meaning + ", or pairs of texts", classify, inputs


_MEANING = {
    "single_label": "tells the most probable label of texts",
    "multi_label": "tells the labels of texts",
    "regression": "gives texts a number",
}


def _verdict(task: GPTTextClassifier, outputs: tf.Tensor) -> Outputs:
    """Returns the labels, or the number, of outputs (B, L)."""
    if task.labels is None:
        return {"score": outputs[:, 0]}
    names = tf.constant(task.labels.names)
    probabilities = task.probabilities(outputs)
    rows = tf.shape(probabilities)[0]
    found: Outputs = {
        "labels": tf.repeat(names[None], rows, axis=0),
        "probabilities": probabilities,
    }
    if not task.multi_label:
        found["label"] = tf.gather(names, tf.argmax(probabilities, axis=1))
    return found


def _choice(task: GPTMultipleChoice, network: Network) -> _Parts:
    def choose(text: tf.Tensor, choices: tf.Tensor) -> Outputs:
        (text, choices), error = _checked(text, choices)
        rows = task.preprocessor.rows(text, choices, count=False)
        logits = network(rows)
        best = tf.argmax(logits, axis=1)
        return {
            "choice": tf.gather(choices, best, batch_dims=1),
            "index": tf.cast(best, tf.int32),
            "probabilities": tf.nn.softmax(logits),
            "error": error,
        }

    return (
        "choose",
        'chooses among answers to texts; "" is no choice',
        choose,
        {**TEXT, "choices": Input(tf.string, (None,))},
    )


def _tokens(task: GPTTokenClassifier, network: Network) -> _Parts:
    def tag(words: tf.Tensor) -> Outputs:
        (words,), error = _checked(words)
        rows = task.preprocessor.rows(words, count=False)
        logits = network(
            {"token_ids": rows.token_ids, "padding_mask": rows.padding_mask}
        )
        is_there = rows.places >= 0
        by_word = tf.gather(logits, tf.maximum(rows.places, 0), batch_dims=1)
        probabilities = tf.nn.softmax(by_word)
        labels = tf.gather(
            tf.constant(task.labels.names), tf.argmax(probabilities, axis=-1)
        )
        return {
            "labels": tf.where(is_there, labels, ""),
            "probabilities": tf.where(is_there[..., None], probabilities, 0.0),
            "error": error,
        }

    return (
        "tag",
        'labels the words of texts; "" is no word, and its label is ""',
        tag,
        {"words": Input(tf.string, (None,))},
    )


def _reader(task: GPTQuestionAnswering, network: Network) -> _Parts:
    def answer(question: tf.Tensor, context: tf.Tensor) -> Outputs:
        (question, context), error = _checked(question, context)
        windows = task.preprocessor.windows(question, context, count=False)
        logits = network(
            {"token_ids": windows.token_ids, "padding_mask": windows.padding_mask}
        )
        spans = task.spans(logits, windows, num_questions=tf.size(question))
        text, start, end = span_texts(context, spans.start, spans.end)
        return {
            "text": text,
            "start": start,
            "end": end,
            "score": spans.score,
            "error": error,
        }

    return (
        "answer",
        'answers questions by spans of their contexts; "" is no answer',
        answer,
        {"question": Input(tf.string), "context": Input(tf.string)},
    )


# The more special first.
_MAKERS: dict[type, Callable[[Any, Network], _Parts]] = {
    GPTSimilarity: _similarity,
    GPTTextClassifier: _classifier,
    GPTMultipleChoice: _choice,
    GPTTokenClassifier: _tokens,
    GPTQuestionAnswering: _reader,
}


def _checked(*texts: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Returns texts, empty in rows that are no UTF-8, and the errors of the rows."""
    is_text = tf.constant(True)
    for text in texts:
        equal = valid_utf8(text) == text
        is_text &= equal if len(text.shape) == 1 else tf.reduce_all(equal, axis=1)
    safe = [tf.where(_like(is_text, text), text, "") for text in texts]
    return safe, reason_names(tf.where(is_text, UNFINISHED, INVALID_INPUT))


def _like(rows: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """Returns (B,) with as many dimensions as a tensor has."""
    return rows if len(tensor.shape) == 1 else rows[:, None]
