"""The bag of words: its features by hand, its minimum, and that it learns."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.baselines import BagOfWordsClassifier

TEXTS = ["not good", "good", "Good, fine.", "bad", "not bad", "bad bad luck"]
LABELS = [0, 1, 1, 0, 1, 0]  # to be told by pairs of words alone


def features_by_hand(texts, known):
    """The unit tf-idf of words and pairs, as dicts."""

    def grams(text):
        words = "".join(c for c in text.lower() if c.isalpha() or c == " ").split()
        return words + [" ".join(pair) for pair in zip(words, words[1:], strict=False)]

    frequency = {
        gram: sum(gram in grams(text) for text in known)
        for text in known
        for gram in grams(text)
    }
    rows = []
    for text in texts:
        row = {
            gram: grams(text).count(gram) * math.log(1 + len(known) / (1 + count))
            for gram, count in frequency.items()
            if gram in grams(text)
        }
        norm = math.sqrt(sum(value**2 for value in row.values()))
        rows.append({gram: value / norm for gram, value in row.items()})
    return rows


def test_features_are_the_tf_idf_of_words_and_pairs():
    model = BagOfWordsClassifier(num_classes=2, max_features=30)
    model.adapt(TEXTS)
    names = model.words.get_vocabulary()
    kernel = np.random.default_rng(0).normal(size=(30, 2))
    model.head.kernel.assign(kernel)
    expected = [
        sum(value * kernel[names.index(gram)] for gram, value in row.items())
        for row in features_by_hand(TEXTS, TEXTS)
    ]
    np.testing.assert_allclose(model(tf.constant(TEXTS)), expected, atol=1e-5)
    sparse = tf.sparse.to_dense(model._sparse_features(TEXTS))
    np.testing.assert_allclose(sparse @ kernel, expected, atol=1e-5)


def chosen(model):
    return np.argmax(model(tf.constant(TEXTS)), axis=-1).tolist()


def test_it_learns_what_pairs_of_words_tell_and_words_do_not():
    model = BagOfWordsClassifier(num_classes=2, max_features=30)
    assert model.fit_to_convergence(TEXTS, LABELS) < 2000
    assert chosen(model) == LABELS
    texts = ["a b", "b a"] * 3
    blind = BagOfWordsClassifier(num_classes=2, max_features=30, max_words=1)
    blind.fit_to_convergence(texts, [0, 1] * 3)
    np.testing.assert_allclose(*blind(tf.constant(texts[:2])), atol=1e-6)


def test_it_ends_at_the_one_minimum():
    model = BagOfWordsClassifier(num_classes=2, max_features=30, l2=0.01)
    model.fit_to_convergence(TEXTS, LABELS)
    found = model(tf.constant(TEXTS)).numpy()
    model.head.kernel.assign(np.random.default_rng(0).normal(size=(30, 2)))
    steps = model.fit_to_convergence(TEXTS, LABELS)
    np.testing.assert_allclose(model(tf.constant(TEXTS)), found, atol=0.1)
    # Its gradient is zero there: l2 pulls as hard as the labels do.
    probabilities = tf.nn.softmax(model(tf.constant(TEXTS))).numpy()
    features = tf.sparse.to_dense(model._sparse_features(TEXTS)).numpy()
    pull = features.T @ (probabilities - np.eye(2)[LABELS]) / len(TEXTS)
    np.testing.assert_allclose(pull, -0.02 * model.head.kernel, atol=3e-3)
    assert 20 < steps < 2000


def test_time_and_steps_are_limits():
    model = BagOfWordsClassifier(num_classes=2, max_features=30)
    assert model.fit_to_convergence(TEXTS, LABELS, max_steps=40) == 40
    model.head.kernel.assign(tf.zeros([30, 2]))
    assert model.fit_to_convergence(TEXTS, LABELS, seconds=0.0) == 20


def test_it_is_saved_and_loaded(tmp_path):
    model = BagOfWordsClassifier(num_classes=2, max_features=30, max_words=3, l2=0.1)
    assert BagOfWordsClassifier.from_config(model.get_config()).max_words == 3
    model.fit_to_convergence(TEXTS, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    given = tf.constant(TEXTS)
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-6)
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        ({"max_features": 1.5}, "max_features must be a positive integer, got 1.5"),
        ({"max_words": -1}, "max_words must be a positive integer, got -1"),
        ({"l2": -0.1}, "l2 must be at least 0, got -0.1"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BagOfWordsClassifier(**{"num_classes": 2, **fields})


def test_bad_examples_are_named():
    model = BagOfWordsClassifier(num_classes=2)
    with pytest.raises(ValueError, match="labels as many, got 2 and 1"):
        model.fit_to_convergence(["a", "b"], [0])
    with pytest.raises(ValueError, match="one or more, and labels as many, got 0"):
        model.fit_to_convergence([], [])
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2"):
        model.fit_to_convergence(["a", "b"], [0, 2])
