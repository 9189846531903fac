"""What calls return, made of the outputs of signatures."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.export.client.errors import RowError
from keras_gpt.export.client.transport import Arrays
from keras_gpt.scoring import TextScore

BEAMS = "beam_"  # begins the names of the outputs of a beam search
GOOD_ENDS = ("stop", "length")
OF_GENERATE = (
    *("generated_text", "generated_bytes", "token_ids", "token_log_probs"),
    *("num_tokens", "finish_reason"),
)


class GeneratedText(NamedTuple):
    """A generated text, without its prompt, and how it came to be.

    Attributes:
        text: string.
        bytes: bytes. The same, where it is no UTF-8 exact.
        token_ids: int32 (N,), a NumPy array.
        token_log_probs: float32 (N,), in nats.
        finish_reason: string. `"stop"` or `"length"`; `"prompt_too_long"`,
            `"invalid_input"` or `"invalid_logits"` of a row that the model refused.
        beams: dict of the outputs `beam_*` of this row, NumPy arrays by name. Empty
            unless the model was exported with a beam search.
    """

    text: str
    bytes: builtins.bytes
    token_ids: np.ndarray
    token_log_probs: np.ndarray
    finish_reason: str
    beams: dict[str, np.ndarray]


class Classification(NamedTuple):
    """How likely each label is.

    Attributes:
        labels: list of strings (C).
        probabilities: float32 (C,), a NumPy array.
    """

    labels: list[str]
    probabilities: np.ndarray


def generated_texts(outputs: Arrays) -> list[GeneratedText]:
    """Returns the rows of the outputs of `generate`."""
    beams = {
        name: value if name.endswith("_bytes") else _decoded(value)
        for name, value in outputs.items()
        if name.startswith(BEAMS)
    }
    return [
        GeneratedText(
            outputs["generated_text"][row].decode(),
            outputs["generated_bytes"][row],
            outputs["token_ids"][row, :count],
            outputs["token_log_probs"][row, :count],
            outputs["finish_reason"][row].decode(),
            {name: value[row] for name, value in beams.items()},
        )
        for row, count in enumerate(outputs["num_tokens"])
    ]


def text_scores(outputs: Arrays) -> list[TextScore]:
    """Returns the rows of the outputs of `score`."""
    return [
        TextScore(
            outputs["token_ids"][row, :count],
            outputs["token_log_probs"][row, :count],
            float(outputs["total_log_prob"][row]),
        )
        for row, count in enumerate(outputs["num_tokens"])
    ]


def classifications(outputs: Arrays) -> list[Classification]:
    """Returns the rows of the outputs of `classify`."""
    labels = _decoded(outputs["labels"])
    return [
        Classification(row.tolist(), probabilities)
        for row, probabilities in zip(labels, outputs["probabilities"], strict=True)
    ]


def errors_of(outputs: Arrays, *, rows: int) -> list[str]:
    """Returns what the output `error` says of each row, if there is any."""
    return [error.decode() for error in outputs.get("error", [b""] * rows)]


def check_rows(
    argument: str, inputs: Iterable[Any], reasons: Sequence[str], results: Any
) -> None:
    """Raises `RowError` if there is a reason for any row."""
    if any(reasons):
        raise RowError(argument, list(inputs), list(reasons), results)


def bad_ends(reasons: Sequence[str]) -> list[str]:
    """Returns finish reasons, "" for each that is a good one."""
    return ["" if reason in GOOD_ENDS else reason for reason in reasons]


def _decoded(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "O":
        return value
    texts = np.empty(value.shape, object)
    for index, item in np.ndenumerate(value):
        texts[index] = item.decode("utf-8", "replace")
    return texts
