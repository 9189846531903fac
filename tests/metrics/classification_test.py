"""Scores of classifiers against numbers worked by hand and naive loops."""

import numpy as np
import pytest

from keras_gpt import metrics

# Confusion: 2 of 0 right, one 0 taken for 1; 1 of 1 right; the only 2 taken for 0.
LABELS = [0, 0, 0, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 0]


def test_hand_worked():
    matrix = metrics.confusion_matrix(LABELS, predictions=PREDICTIONS)
    np.testing.assert_array_equal(matrix, [[2, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert metrics.accuracy(LABELS, predictions=PREDICTIONS) == pytest.approx(0.6)
    scores = metrics.class_scores(LABELS, predictions=PREDICTIONS)
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1, 0])
    np.testing.assert_allclose(scores.f1, [2 / 3, 2 / 3, 0])
    np.testing.assert_array_equal(scores.support, [3, 1, 1])

    def average(kind):
        return metrics.average_scores(LABELS, predictions=PREDICTIONS, average=kind)

    np.testing.assert_allclose(average("micro"), [0.6, 0.6, 0.6])
    np.testing.assert_allclose(average("macro"), [7 / 18, 5 / 9, 4 / 9])
    np.testing.assert_allclose(average("weighted"), [0.5, 0.6, 8 / 15])
    # (3*5 - (3*3 + 2*1 + 0*1)) / sqrt((25 - 13) * (25 - 11))
    correlation = metrics.matthews_correlation(LABELS, predictions=PREDICTIONS)
    assert correlation == pytest.approx(4 / np.sqrt(12 * 14))


def naive_class(actual, predicted, zero_division):
    """Precision, recall and F1 of one class, by counting."""
    right = sum(a and p for a, p in zip(actual, predicted, strict=True))
    precision = right / sum(predicted) if sum(predicted) else zero_division
    recall = right / sum(actual) if sum(actual) else zero_division
    if not sum(actual) + sum(predicted):
        f1 = zero_division
    elif not right:
        f1 = 0.0
    else:
        precision, recall = right / sum(predicted), right / sum(actual)
        f1 = 2 * precision * recall / (precision + recall)
    return precision, recall, f1


def naive_average(actual, predicted, average, zero_division):
    """Over the columns of two lists of rows of 0 and 1."""
    columns = list(zip(np.transpose(actual), np.transpose(predicted), strict=True))
    columns = [(list(map(int, a)), list(map(int, p))) for a, p in columns]
    if average == "micro":
        columns = [(sum((a for a, _ in columns), []), sum((p for _, p in columns), []))]
    columns = [(a, p) for a, p in columns if any(a) or any(p)]
    scores = [naive_class(a, p, zero_division) for a, p in columns]
    weights = [sum(a) if average == "weighted" else 1 for a, _ in columns]
    if not sum(weights):
        return [zero_division] * 3
    return [
        sum(w * s[i] for w, s in zip(weights, scores, strict=True)) / sum(weights)
        for i in range(3)
    ]


def draw(seed):
    """Labels and predictions of up to 6 classes, some of which do not occur."""
    rng = np.random.default_rng(seed)
    size, num_classes = rng.integers(1, 30), rng.integers(1, 7)
    labels = rng.integers(0, num_classes, size)
    return labels, np.where(
        rng.random(size) < 0.5, labels, rng.integers(0, num_classes, size)
    )


@pytest.mark.parametrize("seed", range(30))
def test_scores_are_those_of_naive_loops(seed):
    labels, predictions = draw(seed)
    actual, predicted = np.eye(8, dtype=int)[labels], np.eye(8, dtype=int)[predictions]
    for zero_division in (0.0, 1.0):
        options = {"predictions": predictions, "zero_division": zero_division}
        scores = metrics.class_scores(labels, num_classes=8, **options)
        for k in range(8):
            columns = list(actual[:, k]), list(predicted[:, k])
            wanted = naive_class(*columns, zero_division)
            found = [score[k] for score in scores[:3]]
            np.testing.assert_allclose(found, wanted)
        for average in ("micro", "macro", "weighted"):
            wanted = naive_average(actual, predicted, average, zero_division)
            for num_classes in (None, 8):
                found = metrics.average_scores(
                    labels, average=average, num_classes=num_classes, **options
                )
                np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("seed", range(30))
def test_matthews_correlation_is_that_of_indicators(seed):
    labels, predictions = draw(seed)
    # Gorodkin's definition: covariances of the classes' indicators.
    x, y = (np.eye(8)[values] - np.eye(8)[values].mean(0) for values in draw(seed))
    spread = np.sum(x * x) * np.sum(y * y)
    wanted = np.sum(x * y) / np.sqrt(spread) if spread > 1e-9 else 0.0
    found = metrics.matthews_correlation(labels, predictions=predictions)
    assert found == pytest.approx(wanted, abs=1e-12)
    if len(set(labels)) > 1:
        assert metrics.matthews_correlation(labels, predictions=labels) == 1.0


def test_matthews_correlation_of_two_classes():
    # Matthews 1975: (6*3 - 1*2) / sqrt((6+1) (6+2) (3+1) (3+2))
    labels = [1] * 8 + [0] * 4
    predictions = [1] * 6 + [0] * 2 + [1] + [0] * 3
    found = metrics.matthews_correlation(labels, predictions=predictions)
    assert found == pytest.approx(16 / np.sqrt(7 * 8 * 4 * 5))
    repeated = metrics.matthews_correlation(
        np.repeat(labels, 200_000), predictions=np.repeat(predictions, 200_000)
    )
    assert repeated == pytest.approx(found)
    assert metrics.matthews_correlation([0, 1, 0], predictions=[1, 1, 1]) == 0.0


# Rows: all right; one missing and one too many; nothing, rightly.
MANY_LABELS = [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
MANY_PREDICTIONS = [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_many_labels_hand_worked():
    options = {"predictions": MANY_PREDICTIONS}
    assert metrics.multilabel_accuracy(MANY_LABELS, **options) == pytest.approx(2 / 3)
    scores = metrics.multilabel_class_scores(MANY_LABELS, **options)
    np.testing.assert_allclose(scores.precision, [1, 1 / 2, 0, 1])
    np.testing.assert_allclose(scores.recall, [1 / 2, 1, 0, 1])
    np.testing.assert_allclose(scores.f1, [2 / 3, 2 / 3, 0, 1])
    np.testing.assert_array_equal(scores.support, [2, 1, 0, 1])

    def average(kind):
        return metrics.multilabel_average_scores(MANY_LABELS, average=kind, **options)

    np.testing.assert_allclose(average("micro"), [3 / 4, 3 / 4, 3 / 4])
    # The third label does not occur.
    np.testing.assert_allclose(average("macro"), [5 / 6, 5 / 6, 7 / 9])
    np.testing.assert_allclose(average("weighted"), [7 / 8, 3 / 4, 3 / 4])


@pytest.mark.parametrize("seed", range(20))
def test_many_labels_are_those_of_naive_loops(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 8), rng.integers(1, 6)
    actual, predicted = rng.random((2, *shape)) < rng.random()
    for average in ("micro", "macro", "weighted"):
        for zero_division in (0.0, 1.0):
            found = metrics.multilabel_average_scores(
                actual,
                predictions=predicted.astype(np.int32),
                average=average,
                zero_division=zero_division,
            )
            wanted = naive_average(actual, predicted, average, zero_division)
            np.testing.assert_allclose(found, wanted)
    same = [list(a) == list(p) for a, p in zip(actual, predicted, strict=True)]
    found = metrics.multilabel_accuracy(actual, predictions=predicted)
    assert found == pytest.approx(sum(same) / len(same))


@pytest.mark.parametrize(
    ("labels", "predictions", "num_classes", "message"),
    [
        ([0, 1], [0, 1, 1], None, r"one shape, got \(2,\) and \(3,\)"),
        ([], [], None, "labels must be integers of shape"),
        ([0, 1], [0.0, 1.0], None, "predictions must be integers .* got float64"),
        ([[0, 1]], [[0, 1]], None, r"labels must be .* shape \(1, 2\)"),
        ([0, 3], [0, 1], 3, r"labels must be in \[0, 3\), got 3"),
        ([0, 1], [0, -1], None, r"predictions must be in \[0, 2\), got -1"),
    ],
)
def test_classes_are_checked(labels, predictions, num_classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(
            labels, predictions=predictions, num_classes=num_classes
        )


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0, 1], r"labels must be 0 or 1 of shape \(B, C\)"),
        ([[0, 1]], [[0, 2]], "predictions must be 0 or 1"),
        ([[0, 1]], [[0.0, 0.3]], "predictions must be 0 or 1 .* float64"),
        ([[0, 1]], [[0, 1]] * 2, "one shape"),
    ],
)
def test_many_labels_are_checked(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        metrics.multilabel_accuracy(labels, predictions=predictions)


def test_averages_are_checked():
    with pytest.raises(ValueError, match="average must be one of .* got 'mean'"):
        metrics.average_scores([0], predictions=[0], average="mean")
