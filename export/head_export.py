"""A task with a head as it is exported."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export.serving_files import Guide
from keras_gpt.export.signatures.heads import head_signatures
from keras_gpt.export.signatures.inputs import Outputs, Signature
from keras_gpt.export.task_export import TaskExport
from keras_gpt.export.verify import Check, check_equal
from keras_gpt.export.weights import ServedWeights

TEXTS = ("", "The king", " a\n\nb", "caf\u00e9 \u4e2d")
OTHERS = ("one", "", "caf\u00e9", "The king is dead")
# Logits of a batch differ in their last bits with its size.
TOLERANCE = 1e-3


def head_export(
    task: Any,
    options: dict[str, Any],
    *,
    storage_dtype: str | None,
    batch_sizes: Sequence[int],
) -> TaskExport:
    """Returns the task as it is to be exported; arguments: `export_saved_model`'s.

    Raises:
        ValueError: if the task has no signature, or an option is set.
    """
    for name, value in options.items():
        if value:
            raise ValueError(
                f"{name} must be left out for {type(task).__name__}, which generates "
                f"nothing, got {value!r}."
            )
    weights = ServedWeights(task, storage_dtype=storage_dtype)
    module = tf.Module()
    module.weights = weights.state
    module.tables = list(task.preprocessor.tokenizer.trackables)

    def network(rows: dict[str, tf.Tensor]) -> Any:
        with weights.in_use(task):
            return _without_padding(task, rows)

    signatures = head_signatures(task, network)
    name = next(name for name in signatures if name != "serving_default")
    return TaskExport(
        module=module,
        signatures=signatures,
        requests=functools.partial(_requests, signatures, name, batch_sizes),
        checks=lambda: [_check(task, signatures[name], name)],
        card={"label_names": getattr(task, "label_names", None)},
        guide=_guide(signatures, name),
    )


def _without_padding(task: Any, rows: dict[str, tf.Tensor]) -> Any:
    """Runs a task on rows as long as the longest of them, not as the context."""
    mask = rows["padding_mask"]
    length = tf.shape(mask)[-1]
    used = tf.reduce_max(tf.reduce_sum(tf.cast(mask, tf.int32), axis=-1))
    used = tf.maximum(used, 1)
    outputs = task({key: row[..., :used] for key, row in rows.items()}, training=False)
    if task.head_kind not in ("token_classifier", "question_answering"):
        return outputs

    def padded(of_tokens: tf.Tensor) -> tf.Tensor:
        others = [[0, 0]] * (of_tokens.shape.rank - 2)
        return tf.pad(of_tokens, [[0, 0], [0, length - used], *others])

    return tf.nest.map_structure(padded, outputs)


def _example(one: Signature, row: int) -> dict[str, Any]:
    """Returns inputs of a row."""
    texts = iter((TEXTS[row], OTHERS[row]))
    return {
        name: next(texts) if not spec.shape else ["The", "king", OTHERS[row]]
        for name, spec in one.inputs.items()
    }


def _requests(
    signatures: dict[str, Signature], name: str, batch_sizes: Sequence[int]
) -> Iterator[tuple[str, Outputs]]:
    one = {key: [value] for key, value in _example(signatures[name], 1).items()}
    required = signatures["serving_default"].inputs
    default = {key: value for key, value in one.items() if key in required}
    yield "serving_default", signatures["serving_default"].full_inputs(default, rows=1)
    for rows in batch_sizes:
        yield name, signatures[name].full_inputs(one, rows=rows)


def _check(task: Any, one: Signature, name: str) -> Check:
    rows = [_example(one, row) for row in range(len(TEXTS))]
    inputs = {key: [row[key] for row in rows] for key in one.inputs}

    def compare(outputs: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that long texts are cut
            answers = _answers(task, name, inputs)
        for key, want in answers.items():
            got = outputs[key]
            if isinstance(want, np.ndarray):
                is_equal = np.allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
                want, got = (want.tolist(), want.tolist() if is_equal else got)
            check_equal(f"{key} of {name}", str(inputs), want, got)

    return Check({"signature": name, "inputs": inputs}, compare)


def _answers(task: Any, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns what the task itself says, by the names of the signature's outputs."""
    if name == "choose":
        chosen = task.choose(inputs["text"], inputs["choices"])
        return {"choice": chosen.choices, "probabilities": chosen.probabilities}
    if name == "tag":
        labels = task.tag(inputs["words"])
        return {"labels": [[label or "" for label in row] for row in labels]}
    if name == "answer":
        answers = task.answer(inputs["question"], inputs["context"])
        found = {
            key: [getattr(answer, key) for answer in answers]
            for key in ("text", "start", "end")
        }
        return {**found, "score": np.array([answer.score for answer in answers])}
    if name == "compare":
        given: Any = (inputs["text"], inputs["second_text"])
    else:  # the row without a second text stands for a text alone
        given = inputs["text"]
    if name == "classify" and "second_text" in inputs:
        return _of_pairs(task, inputs["text"], inputs["second_text"])
    return _verdict(task, given)


def _of_pairs(task: Any, texts: list[str], others: list[str]) -> dict[str, Any]:
    rows = [
        _verdict(task, ([text], [other]) if other else [text])
        for text, other in zip(texts, others, strict=True)
    ]
    return {
        key: np.concatenate([row[key] for row in rows])
        if isinstance(rows[0][key], np.ndarray)
        else [label for row in rows for label in row[key]]
        for key in rows[0]
    }


def _verdict(task: Any, given: Any) -> dict[str, Any]:
    if task.labels is None:
        return {"score": task.predict(given, verbose=0)[:, 0]}
    found = task.classify(given)
    labels = {} if task.multi_label else {"label": found.labels}
    return {**labels, "probabilities": found.probabilities}


_WHAT = {
    "classify": "A text classifier",
    "compare": "A judge of pairs of texts",
    "choose": "A chooser among answers",
    "tag": "A classifier of words",
    "answer": "A reader that answers questions",
}


def _guide(signatures: dict[str, Signature], name: str) -> Guide:
    required = signatures["serving_default"].inputs
    example = _example(signatures[name], 1)
    instance: Any = {key: example[key] for key in required}
    if list(instance) == ["text"]:
        instance = instance["text"]
    filled = ", ".join(f"{key}=tf.constant([{example[key]!r}])" for key in required)
    return Guide(
        what=_WHAT[name],
        holds="tokenizer, weights and labels",
        instances=json.dumps([instance]),
        python=f"""import tensorflow as tf

model = tf.saved_model.load("1")  # in this folder, without a server
model.signatures["serving_default"]({filled})""",
        default_inputs=f"those inputs of `{name}` that have no default",
        knobs={},
        knobs_text="",
        notes=(
            "`error` is `invalid_input` for text that is not UTF-8, else empty. A bad "
            "row never\n  fails its neighbours.",
            "A text that is too long is cut as in training.",
        ),
    )
