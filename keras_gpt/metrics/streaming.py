"""Keras metrics of classifiers for `compile` and `fit`, over integer labels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_gpt.metrics.classification import AVERAGES


class _ConfusionMetric(keras.metrics.Metric):
    """Sums a confusion matrix, of which a subclass makes its result.

    The state is a sum, so that replicas and batches add exactly; float64, as float32
    counts only to 2^24.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.confusion = self.add_weight(
            shape=(num_classes, num_classes),
            initializer="zeros",
            dtype="float64",
            name="confusion",
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: int (B, ...) or (B, ..., 1). Labels; one that is `ignore_class` or
                not in [0, num_classes) is not counted.
            y_pred: float (B, ..., C). Logits or probabilities; the first of the
                highest is the prediction.
            sample_weight: float (B,), (B, ...) or (B, ..., 1). Weight of each label.
                Defaults to 1.

        Raises:
            ValueError: if the last axis of `y_pred` is not of `num_classes`.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        if y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                f"y_pred must have num_classes = {self.num_classes} on its last axis, "
                f"got {tuple(y_pred.shape)}."
            )
        predictions = ops.argmax(y_pred, axis=-1)
        labels = ops.reshape(ops.cast(y_true, "int32"), ops.shape(predictions))
        weights = ops.ones_like(labels, dtype="float32")
        if sample_weight is not None:
            weights = weights * self._weights_like(sample_weight, labels)
        if self.ignore_class is not None:
            weights = weights * ops.cast(labels != self.ignore_class, "float32")
        actual = self._one_hot(labels) * ops.reshape(weights, (-1, 1))
        added = ops.matmul(ops.transpose(actual), self._one_hot(predictions))
        self.confusion.assign(self.confusion + ops.cast(added, "float64"))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
        }

    def _one_hot(self, classes: Any) -> Any:
        # Of a class out of range, zeros.
        flat = ops.reshape(classes, (-1,))
        return ops.one_hot(flat, self.num_classes, dtype="float32")

    def _weights_like(self, sample_weight: Any, labels: Any) -> Any:
        weights = ops.cast(sample_weight, "float32")
        while len(weights.shape) < len(labels.shape):
            weights = ops.expand_dims(weights, -1)
        if len(weights.shape) > len(labels.shape):
            weights = ops.squeeze(weights, -1)
        return weights

    def _counts(self) -> tuple[Any, Any, Any]:
        """Returns float64 (C,) each: rightly predicted, predicted, there are."""
        confusion = ops.convert_to_tensor(self.confusion)
        right = ops.diagonal(confusion)
        return right, ops.sum(confusion, axis=0), ops.sum(confusion, axis=1)


@keras.saving.register_keras_serializable(package="keras_gpt")
class SparseF1(_ConfusionMetric):
    """F1 over integer labels, which `keras.metrics.F1Score` does not take.

    Equal to `keras_gpt.metrics.average_scores(...).f1`: a class that is neither label
    nor prediction does not count, and without any row the result is 0.

    Args:
        num_classes: int, at least 2.
        average: string: `"macro"`, the default, `"weighted"` or `"micro"`.
        ignore_class: int. Label that is not counted, such as padding's. Defaults to
            None. Labels out of [0, num_classes), such as -100, never are.
        name: string. Defaults to `"f1"`.
        dtype: of the result. Defaults to Keras' own.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        average: str = "macro",
        ignore_class: int | None = None,
        name: str | None = "f1",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_classes, ignore_class=ignore_class, name=name, dtype=dtype)
        if average not in AVERAGES:
            raise ValueError(
                f"average must be one of {', '.join(map(repr, AVERAGES))}, got "
                f"{average!r}."
            )
        self.average = average

    def result(self) -> Any:
        """Returns the F1 of what was added, a scalar in [0, 1]."""
        right, predicted, support = self._counts()
        if self.average == "micro":
            right, predicted, support = map(ops.sum, (right, predicted, support))
        f1 = _divided(2.0 * right, predicted + support)
        if self.average == "weighted":
            weights = support
        else:
            weights = ops.cast(predicted + support > 0.0, "float64")
        mean = _divided(ops.sum(weights * f1), ops.sum(weights))
        return ops.cast(mean, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "average": self.average}


@keras.saving.register_keras_serializable(package="keras_gpt")
class MatthewsCorrelation(_ConfusionMetric):
    """Matthews' correlation over integer labels, for two classes or more.

    Equal to `keras_gpt.metrics.matthews_correlation`.

    Args:
        num_classes: int, at least 2.
        ignore_class: int. Label that is not counted, such as padding's. Defaults to
            None. Labels out of [0, num_classes), such as -100, never are.
        name: string. Defaults to `"matthews_correlation"`.
        dtype: of the result. Defaults to Keras' own.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Gorodkin 2004.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_class: int | None = None,
        name: str | None = "matthews_correlation",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_classes, ignore_class=ignore_class, name=name, dtype=dtype)

    def result(self) -> Any:
        """Returns the correlation of what was added, a scalar in [-1, 1]."""
        right, predicted, support = self._counts()
        total = ops.sum(support)
        covariance = ops.sum(right) * total - ops.sum(support * predicted)
        spreads = [
            ops.where(
                ops.count_nonzero(counts) < 2, 0.0, total**2 - ops.sum(counts**2)
            )
            for counts in (support, predicted)
        ]
        correlation = _divided(covariance, ops.sqrt(spreads[0]) * ops.sqrt(spreads[1]))
        return ops.cast(correlation, self.dtype)


def _divided(above: Any, below: Any) -> Any:
    """Divides; by 0 gives 0."""
    is_zero = below == 0.0
    return ops.where(is_zero, 0.0, above / ops.where(is_zero, 1.0, below))
