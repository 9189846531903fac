"""Scores of classifiers over NumPy arrays: one label a row, or many.

Axes: B rows (texts, or words), C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

AVERAGES = ("micro", "macro", "weighted")


class ClassScores(NamedTuple):
    """Scores of each class.

    Attributes:
        precision: float64 (C,). Share of the rows predicted as the class that are it.
        recall: float64 (C,). Share of the rows of the class predicted as it.
        f1: float64 (C,). Harmonic mean of both.
        support: int64 (C,). Number of rows of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


class AverageScores(NamedTuple):
    """Scores over all classes.

    Attributes:
        precision: float.
        recall: float.
        f1: float. Of `"macro"` and `"weighted"` the mean of the classes' F1, not that
            of the mean precision and recall.
    """

    precision: float
    recall: float
    f1: float


class _Counts(NamedTuple):
    """int64 (C,) each: rows rightly predicted, rows predicted, rows there are."""

    right: np.ndarray
    predicted: np.ndarray
    support: np.ndarray


def confusion_matrix(
    labels: Any, *, predictions: Any, num_classes: int | None = None
) -> np.ndarray:
    """Counts the rows of each pair of label and prediction.

    Args:
        labels: int (B,), B at least 1. True class of each row, from 0.
        predictions: int (B,). Predicted class of each row.
        num_classes: int. Defaults to None: up to the highest class that occurs.

    Returns:
        int64 (C, C). Row: label; column: prediction.

    Raises:
        ValueError: if the arrays are not integers of one shape (B,), or a class is
            not in [0, num_classes).
    """
    classes = {}
    for name, values in (("labels", labels), ("predictions", predictions)):
        values = np.asarray(values)
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be integers of shape (B,), B at least 1, got "
                f"{values.dtype} of shape {values.shape}."
            )
        classes[name] = values.astype(np.int64)
    _check_same_shape(classes["labels"], classes["predictions"])
    if num_classes is None:
        num_classes = 1 + max(int(values.max()) for values in classes.values())
    for name, values in classes.items():
        if values.min() < 0 or values.max() >= num_classes:
            wrong = values[(values < 0) | (values >= num_classes)][0]
            raise ValueError(f"{name} must be in [0, {num_classes}), got {wrong}.")
    pairs = classes["labels"] * num_classes + classes["predictions"]
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(labels: Any, *, predictions: Any) -> float:
    """Returns the share of rows whose prediction is the label.

    Args:
        labels: int (B,), B at least 1.
        predictions: int (B,).

    Raises:
        ValueError: as `confusion_matrix` does.
    """
    matrix = confusion_matrix(labels, predictions=predictions)
    return float(np.trace(matrix) / matrix.sum())


def class_scores(
    labels: Any,
    *,
    predictions: Any,
    num_classes: int | None = None,
    zero_division: float = 0.0,
) -> ClassScores:
    """Returns precision, recall, F1 and support of each class.

    Args:
        labels: int (B,), B at least 1. True class of each row, from 0.
        predictions: int (B,). Predicted class of each row.
        num_classes: int. Defaults to None: up to the highest class that occurs.
        zero_division: float. Precision of a class that is never predicted, recall of
            one that no row is, F1 of one that is neither. Defaults to 0.

    Raises:
        ValueError: as `confusion_matrix` does.
    """
    matrix = confusion_matrix(labels, predictions=predictions, num_classes=num_classes)
    return _class_scores(_counts_of(matrix), zero_division)


def average_scores(
    labels: Any,
    *,
    predictions: Any,
    average: str = "macro",
    num_classes: int | None = None,
    zero_division: float = 0.0,
) -> AverageScores:
    """Returns precision, recall and F1 over all classes.

    Args:
        labels: int (B,), B at least 1. True class of each row, from 0.
        predictions: int (B,). Predicted class of each row.
        average: string. `"macro"`, the default: the mean of the classes that occur,
            as labels or predictions. `"weighted"`: their mean by support. `"micro"`:
            of the sums over all classes, here each equal to the accuracy.
        num_classes: int. Defaults to None: up to the highest class that occurs.
        zero_division: float. Precision of a class that is never predicted, and recall
            of one that no row is. Defaults to 0.

    Raises:
        ValueError: as `confusion_matrix` does, or if there is no such average.
    """
    matrix = confusion_matrix(labels, predictions=predictions, num_classes=num_classes)
    return _average_scores(_counts_of(matrix), average, zero_division)


def matthews_correlation(labels: Any, *, predictions: Any) -> float:
    """Returns Matthews' correlation of labels and predictions, for any classes.

    1 where all are right, 0 on average for chance. Defined as 0 where all labels are
    of one class, or all predictions are.

    Args:
        labels: int (B,), B at least 1. True class of each row, from 0.
        predictions: int (B,). Predicted class of each row.

    Raises:
        ValueError: as `confusion_matrix` does.

    Reference: Gorodkin 2004, "Comparing two K-category assignments by a K-category
    correlation coefficient"; of two classes, Matthews 1975.
    """
    matrix = confusion_matrix(labels, predictions=predictions)
    # As shares of the rows: products of counts would overflow.
    shares = matrix / matrix.sum()
    actual, predicted = shares.sum(axis=1), shares.sum(axis=0)
    if np.count_nonzero(actual) < 2 or np.count_nonzero(predicted) < 2:
        return 0.0
    covariance = np.trace(shares) - actual @ predicted
    spread = (1.0 - actual @ actual) * (1.0 - predicted @ predicted)
    return float(covariance / np.sqrt(spread))


def multilabel_accuracy(labels: Any, *, predictions: Any) -> float:
    """Returns the share of rows whose labels are all predicted, and no others.

    Args:
        labels: bool, or int of 0 and 1, (B, C), B at least 1. 1 where the row has the
            label.
        predictions: the same of the predicted labels.

    Raises:
        ValueError: if the arrays are not of this kind or of different shapes.
    """
    actual, predicted = _checked_multilabel(labels, predictions)
    return float(np.mean(np.all(actual == predicted, axis=1)))


def multilabel_class_scores(
    labels: Any, *, predictions: Any, zero_division: float = 0.0
) -> ClassScores:
    """Returns precision, recall, F1 and support of each label, where rows have many.

    Args:
        labels: bool, or int of 0 and 1, (B, C), B at least 1.
        predictions: the same of the predicted labels.
        zero_division: float, as in `class_scores`. Defaults to 0.

    Raises:
        ValueError: as `multilabel_accuracy` does.
    """
    return _class_scores(_multilabel_counts(labels, predictions), zero_division)


def multilabel_average_scores(
    labels: Any,
    *,
    predictions: Any,
    average: str = "macro",
    zero_division: float = 0.0,
) -> AverageScores:
    """Returns precision, recall and F1 over all labels, where rows have many.

    Args:
        labels: bool, or int of 0 and 1, (B, C), B at least 1.
        predictions: the same of the predicted labels.
        average: string, as in `average_scores`; a label that no row has and none is
            predicted to have does not count. Defaults to `"macro"`.
        zero_division: float, as in `average_scores`; also each score where no row
            has or is predicted to have any label. Defaults to 0.

    Raises:
        ValueError: as `multilabel_accuracy` does, or if there is no such average.
    """
    counts = _multilabel_counts(labels, predictions)
    return _average_scores(counts, average, zero_division)


def _check_same_shape(labels: np.ndarray, predictions: np.ndarray) -> None:
    if labels.shape != predictions.shape:
        raise ValueError(
            "labels and predictions must have one shape, got "
            f"{labels.shape} and {predictions.shape}."
        )


def _checked_multilabel(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name, values in (("labels", labels), ("predictions", predictions)):
        values = np.asarray(values)
        is_binary = values.dtype.kind in "biu" and np.isin(values, (0, 1)).all()
        if values.ndim != 2 or not values.size or not is_binary:
            raise ValueError(
                f"{name} must be 0 or 1 of shape (B, C), B and C at least 1, got "
                f"{values.dtype} of shape {values.shape}."
            )
        found.append(values.astype(bool))
    _check_same_shape(*found)
    return found[0], found[1]


def _multilabel_counts(labels: Any, predictions: Any) -> _Counts:
    actual, predicted = _checked_multilabel(labels, predictions)
    right = (actual & predicted).sum(axis=0)
    return _Counts(right, predicted.sum(axis=0), actual.sum(axis=0))


def _counts_of(matrix: np.ndarray) -> _Counts:
    return _Counts(np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1))


def _divided(above: Any, below: Any, zero_division: float) -> np.ndarray:
    above, below = np.asarray(above), np.asarray(below)
    return np.where(below, above / np.where(below, below, 1), zero_division)


def _class_scores(counts: _Counts, zero_division: float) -> ClassScores:
    return ClassScores(
        precision=_divided(counts.right, counts.predicted, zero_division),
        recall=_divided(counts.right, counts.support, zero_division),
        f1=_divided(
            2 * counts.right, counts.predicted + counts.support, zero_division
        ),
        support=counts.support,
    )


def _average_scores(
    counts: _Counts, average: str, zero_division: float
) -> AverageScores:
    if average not in AVERAGES:
        raise ValueError(
            f"average must be one of {', '.join(map(repr, AVERAGES))}, got {average!r}."
        )
    if average == "micro":
        counts = _Counts(*(count.sum(keepdims=True) for count in counts))
        weights = np.ones(1)
    elif average == "macro":
        weights = (counts.predicted + counts.support > 0).astype(np.float64)
    else:
        weights = counts.support.astype(np.float64)
    if not weights.any():
        return AverageScores(zero_division, zero_division, zero_division)
    scores = _class_scores(counts, zero_division)[:3]
    return AverageScores(
        *(float(np.average(score, weights=weights)) for score in scores)
    )
