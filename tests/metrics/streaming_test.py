"""The metrics of `fit` equal those of arrays, on one device and on two."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.metrics import (
    MatthewsCorrelation,
    SparseF1,
    average_scores,
    matthews_correlation,
)


def draw(seed, *, size=60, num_classes=5):
    """Labels and float scores of rows; the last class does not occur."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes - 1, size)
    scores = rng.normal(size=(size, num_classes)).astype(np.float32)
    scores[:, -1] = -9.0
    scores[np.arange(size), labels] += 1.0
    return labels, scores


def make(num_classes=5, **options):
    averages = ("micro", "macro", "weighted")
    made = [SparseF1(num_classes, average=a, **options) for a in averages]
    return [*made, MatthewsCorrelation(num_classes, **options)]


def wanted(labels, predictions):
    averages = ("micro", "macro", "weighted")
    found = [
        average_scores(labels, predictions=predictions, average=average).f1
        for average in averages
    ]
    return [*found, matthews_correlation(labels, predictions=predictions)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_batches_add_up_to_the_scores_of_arrays(seed, jit_compile):
    labels, scores = draw(seed)
    metrics = make()

    def update(y_true, y_pred):
        for metric in metrics:
            metric.update_state(y_true, y_pred)

    if jit_compile is not None:
        update = tf.function(update, jit_compile=jit_compile)
    for start in range(0, 60, 20):
        part = slice(start, start + 20)
        update(tf.constant(labels[part]), tf.constant(scores[part]))
    found = [float(metric.result()) for metric in metrics]
    np.testing.assert_allclose(found, wanted(labels, scores.argmax(1)), rtol=1e-6)
    for metric in metrics:
        metric.reset_state()
        assert float(metric.result()) == 0.0


def test_labels_of_words_and_those_that_do_not_count():
    labels, scores = draw(0)
    predictions = scores.argmax(1)
    padded = labels.copy()
    padded[::3] = -100
    shaped = padded.reshape(6, 10, 1), scores.reshape(6, 10, 5)
    for ignored, kept in ((None, padded >= 0), (2, (padded >= 0) & (padded != 2))):
        values = wanted(labels[kept], predictions[kept])
        for metric, value in zip(make(ignore_class=ignored), values, strict=True):
            assert float(metric(*shaped)) == pytest.approx(value, rel=1e-6)


def test_weights_count_rows_as_often():
    labels, scores = draw(1)
    weights = np.arange(60) % 3
    rows = np.repeat(np.arange(60), weights)
    values = wanted(labels[rows], scores[rows].argmax(1))
    for metric, value in zip(make(), values, strict=True):
        assert float(metric(labels, scores, weights)) == pytest.approx(value)
        metric.reset_state()
        # As `fit` has them: labels and weights of shape (B, 1).
        found = float(metric(labels[:, None], scores, weights[:, None]))
        assert found == pytest.approx(value)
    by_row = np.repeat(weights[:6], 10)
    rows = np.repeat(np.arange(60), by_row)
    values = wanted(labels[rows], scores[rows].argmax(1))
    for metric, value in zip(make(), values, strict=True):
        shaped = labels.reshape(6, 10), scores.reshape(6, 10, 5)
        assert float(metric(*shaped, weights[:6])) == pytest.approx(value)


def test_all_of_one_class_correlates_with_nothing():
    scores = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    assert float(MatthewsCorrelation(2)([1, 1, 1], scores)) == 0.0
    # Also where sums of weights are rounded, and differ by their order.
    labels, scores = draw(0)
    scores[:, 1] = 9.0
    metric = MatthewsCorrelation(5)
    for exponent in range(-12, 0):
        weights = np.random.default_rng(-exponent).random(60) * 10.0**exponent
        assert float(metric(labels, scores, weights)) == 0.0


@pytest.mark.parametrize(
    "metric", [SparseF1(3, average="weighted", ignore_class=0), MatthewsCorrelation(4)]
)
def test_configuration_survives_saving(metric):
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(metric)
    )
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="average must be one of .* got 'mean'"):
        SparseF1(3, average="mean")
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        MatthewsCorrelation(1)
    with pytest.raises(ValueError, match=r"num_classes = 3 .* got \(2, 4\)"):
        SparseF1(3).update_state([0, 1], np.zeros([2, 4], np.float32))


# `fit` and `evaluate` of a fixed classifier, on replicas as on one device.
FIT = """
    import json, sys
    import keras, numpy as np, tensorflow as tf
    from keras_gpt.metrics import MatthewsCorrelation, SparseF1

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, parts)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    labels, scores = (np.array(values) for values in json.loads(sys.argv[1]))
    with strategy.scope():
        inputs = keras.Input([5])
        model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
        model.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[SparseF1(5), MatthewsCorrelation(5)],
        )
    data = tf.data.Dataset.from_tensor_slices((scores, labels)).batch(16)
    fitted = model.fit(data, verbose=0, epochs=2).history
    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    print("RESULT", json.dumps([fitted, evaluated]))
"""


def test_replicas_add_up():
    labels, scores = draw(2)
    arguments = json.dumps([labels.tolist(), scores.tolist()])
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FIT), arguments],
        capture_output=True,
        check=False,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    result = process.stdout.split("RESULT", 1)[1]
    fitted, evaluated = json.loads(result)
    values = wanted(labels, scores.argmax(1))
    assert fitted["f1"] == pytest.approx([values[1]] * 2)
    assert fitted["matthews_correlation"] == pytest.approx([values[3]] * 2)
    assert evaluated["f1"] == pytest.approx(values[1])
    assert evaluated["matthews_correlation"] == pytest.approx(values[3])
