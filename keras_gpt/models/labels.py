"""Names of labels and their numbers, in graph code."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from keras_gpt.models.fit_data import as_tensors

SHOWN = 10  # names in a message
NO_LABEL = ""  # of a place that has none


class LabelNames:
    """The labels of a classifier, in order.

    Args:
        names: strings, each once. At least two.

    Raises:
        ValueError: if one is no string, empty or there twice, or there are too few.
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise ValueError(f"label_names must be a list of texts, got {names!r}.")
        self.names = list(names)
        for name in self.names:
            if not isinstance(name, str) or name == NO_LABEL:
                raise ValueError(f"label_names must be non-empty texts, got {name!r}.")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"label_names must differ, got {twice!r} twice.")
        if len(self.names) < 2:
            raise ValueError(f"label_names must be two or more, got {self.names}.")

    def encoded(self, y: Any) -> Any:
        """Returns int32 numbers of labels given by name; numbers as they are.

        Args:
            y: labels (B,) or (B, W), also ragged, or lists of them; or None. In a
                tensor (B, W) "" is none, and gets the number 0.

        Raises:
            ValueError: if one is none of the names or numbers; inside a graph,
                `tf.errors.InvalidArgumentError`.
        """
        if y is None or isinstance(y, Mapping):
            return y
        labels = as_tensors(y, "y")
        flat = labels.flat_values if isinstance(labels, tf.RaggedTensor) else labels
        is_text = flat.dtype == tf.string
        flat = self._numbers(flat) if is_text else self._checked(flat)
        if isinstance(labels, tf.RaggedTensor):
            return labels.with_flat_values(flat)
        return flat

    def indicators(self, y: Any) -> Any:
        """Returns float32 (B, L), 1 where a row has the label.

        Args:
            y: labels by name (B, K), also ragged, or lists of them; "" for none; or
                (B,), one a row. Indicators, numbers (B, L) in [0, 1], stay as they are.

        Raises:
            ValueError: as `encoded`.
        """
        if y is None:
            return None
        labels = as_tensors(y, "y")
        if labels.dtype != tf.string:
            return self._checked_indicators(labels)
        if isinstance(labels, tf.RaggedTensor):
            labels = labels.to_tensor(NO_LABEL)
        if labels.shape.rank == 1:
            labels = labels[:, None]
        return tf.cast(tf.reduce_any(self._equal(labels), axis=-2), tf.float32)

    def weights(self, given: Mapping[Any, float]) -> dict[int, float]:
        """Returns the weights of all labels by number.

        Args:
            given: dict of names or numbers to finite floats, at least 0. Labels that
                it leaves out have 1.

        Raises:
            ValueError: if one is none of the labels, is there twice or has no such
                weight.
        """
        if not isinstance(given, Mapping):
            raise ValueError(
                f"class_weight must be a dict of labels to numbers, got {given!r}."
            )
        weights: dict[int, float] = {}
        for label, weight in given.items():
            number = self.names.index(label) if label in self.names else label
            is_number = isinstance(number, numbers.Integral)
            if not is_number or not 0 <= number < len(self.names):
                raise ValueError(
                    f"class_weight must have {self._told()} or their numbers as keys, "
                    f"got {label!r}."
                )
            if number in weights:
                raise ValueError(
                    f"class_weight must have each label once, got {label!r} twice, by "
                    "name and by number."
                )
            if not isinstance(weight, numbers.Real) or not 0.0 <= weight < math.inf:
                raise ValueError(
                    "class_weight must have finite numbers of at least 0 as values, "
                    f"got {weight!r} for {label!r}."
                )
            weights[int(number)] = float(weight)
        return {number: weights.get(number, 1.0) for number in range(len(self.names))}

    def _told(self) -> str:
        """Returns the labels, or the first of many, for a message."""
        names = ", ".join(self.names[:SHOWN])
        more = ", ..." if len(self.names) > SHOWN else ""
        return f"the {len(self.names)} labels of the model ({names}{more})"

    def _checked_indicators(self, labels: Any) -> tf.Tensor:
        """Returns indicators as they are, after a check of their form."""
        if labels.shape[1:] == [0]:  # no row of the lists has any label
            return tf.zeros([tf.shape(labels)[0], len(self.names)])
        rule = "y must be lists of labels by name, or numbers in [0, 1] of the shape "
        rule += f"(B, {len(self.names)})"
        is_ragged = isinstance(labels, tf.RaggedTensor)
        if is_ragged or not labels.shape.is_compatible_with([None, len(self.names)]):
            raise ValueError(f"{rule}, got the shape {labels.shape}.")
        is_known = (labels >= 0) & (labels <= 1)
        return _where_right(labels, labels, is_known, rule)

    def _numbers(self, labels: tf.Tensor) -> tf.Tensor:
        return tf.argmax(self._equal(labels), axis=-1, output_type=tf.int32)

    def _equal(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns bool (..., L), true at the name of each label."""
        equal = labels[..., None] == tf.constant(self.names)
        is_known = tf.reduce_any(equal, axis=-1)
        if labels.shape.rank != 1:
            is_known |= labels == NO_LABEL
        return _where_right(equal, labels, is_known, f"y must be of {self._told()}")

    def _checked(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns labels as they are; they must be the numbers of names."""
        is_known = (labels >= 0) & (labels < len(self.names))
        if labels.dtype.is_floating:  # as of a column that has had gaps
            is_known &= labels == tf.round(labels)
        rule = f"y must be in [0, {len(self.names)}), the numbers of labels"
        return _where_right(labels, labels, is_known, rule)


def _where_right(
    value: tf.Tensor, labels: tf.Tensor, is_right: tf.Tensor, rule: str
) -> tf.Tensor:
    """Returns a value after a check of labels."""
    wrong = tf.boolean_mask(labels, ~is_right)
    if tf.executing_eagerly():
        if len(wrong):
            shown = wrong[0].numpy()
            shown = shown.decode() if isinstance(shown, bytes) else shown.item()
            raise ValueError(f"{rule}, got {shown!r}.")
        return value
    check = tf.debugging.Assert(tf.reduce_all(is_right), [f"{rule}, got", wrong[:1]])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def labels_of(
    num_classes: int | None, label_names: Iterable[str] | None
) -> LabelNames | None:
    """Returns the labels that a classifier's arguments stand for; None for one class.

    Raises:
        ValueError: if they do not fit together, or neither is given.
    """
    if label_names is not None:
        labels = LabelNames(label_names)
        if num_classes not in (None, len(labels.names)):
            raise ValueError(
                f"num_classes must be the number of label_names, {len(labels.names)}, "
                f"got {num_classes}."
            )
        return labels
    if num_classes is None:
        raise ValueError("num_classes or label_names must be given, got neither.")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if num_classes == 1:
        return None
    return LabelNames(str(number) for number in range(num_classes))


def with_new_labels(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments in which number and names of labels are given together.

    Args:
        kwargs: of `from_preset`. With one of the two, a preset's own other one does not
            count, and its head is not loaded.
    """
    if kwargs.get("label_names") is not None:
        names = LabelNames(kwargs["label_names"]).names
        return {"num_classes": len(names), **kwargs, "label_names": names}
    return {**kwargs, "label_names": None} if "num_classes" in kwargs else kwargs


def is_named(y: Any) -> bool:
    """Returns whether labels are given by name."""
    return y is not None and as_tensors(y).dtype == tf.string
