"""What `fit` does to data before Keras has them."""

import tensorflow as tf

from keras_gpt.models.fit_data import untuned
from tests.models.tasks_test import CASES, make


def test_iterators_are_not_tuned_unless_asked_to():
    data = tf.data.Dataset.range(3)
    assert untuned(data).options().autotune.enabled is False
    assert list(untuned(data).as_numpy_iterator()) == [0, 1, 2]
    options = tf.data.Options()
    options.autotune.enabled = True
    assert untuned(data.with_options(options)).options().autotune.enabled is True
    assert untuned([1, 2]) == [1, 2]


def test_fit_evaluate_and_predict_tune_nothing(tokenizer, monkeypatch):
    iterated = []
    apply = tf.data.Dataset.map

    def seen(dataset, *args, **kwargs):
        iterated.append(dataset.options().autotune.enabled)
        return apply(dataset, *args, **kwargs)

    monkeypatch.setattr(tf.data.Dataset, "map", seen)  # by which Keras preprocesses
    task = make("classifier", tokenizer, run_eagerly=True)
    _, x, y, _ = CASES["classifier"]
    batches = tf.data.Dataset.from_tensor_slices((x, task.encoded_labels(y))).batch(3)
    for call in (
        lambda: task.fit(x, y, validation_data=(x, y), verbose=0),
        lambda: task.fit(batches, validation_data=batches, verbose=0),
        lambda: task.evaluate(batches, verbose=0),
        lambda: task.predict(x, verbose=0),
    ):
        iterated.clear()
        call()
        assert iterated and not any(iterated) and None not in iterated
