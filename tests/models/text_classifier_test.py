"""What a classifier of texts is given: labels, weights and texts of all kinds."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone
from keras_gpt.losses import DivergenceError
from keras_gpt.models import (
    GPTSimilarity,
    GPTSimilarityPreprocessor,
    GPTTextClassifier,
    GPTTextClassifierPreprocessor,
)

TEXTS = ["good king", "a bad lord", "", "bad"]
LABELS = ["yes", "no", "yes", "no"]


def make(tokenizer, *, length=12, rate=0.1, **kwargs):
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=300, num_layers=1, dropout=0.0
    )
    preprocessor = GPTTextClassifierPreprocessor(tokenizer, length)
    kwargs = kwargs or {"label_names": ["no", "yes"]}
    task = GPTTextClassifier(
        backbone, preprocessor=preprocessor, head_dropout=0.0, **kwargs
    )
    task.compile(keras.optimizers.SGD(rate), jit_compile=False)
    return task


@pytest.fixture(scope="module")
def classifier(tokenizer):
    """One that no test changes."""
    return make(tokenizer)


def as_dataset(*parts, size=2):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["no", "yes", "maybe", "no"], r"y must be of the 2 labels of .* \(no, yes\)"),
        (["no", "", "no", "no"], "y must be of the 2 labels .* \\(no, yes\\), got "),
        ([0, 1, 2, 0], r"y must be in \[0, 2\), the numbers of labels, got 2\.$"),
        ([0, 1, -1, 0], r"y must be in \[0, 2\), the numbers of labels, got -1\.$"),
    ],
)
def test_other_labels_are_named(classifier, labels, message):
    for call, *given in (
        (classifier.fit, TEXTS, labels),
        (classifier.fit, as_dataset(TEXTS, labels)),
        (classifier.evaluate, as_dataset(TEXTS, labels)),
    ):
        with pytest.raises(ValueError, match=message) as found:
            call(*given, verbose=0)
        assert "\n" not in str(found.value)


def test_data_that_do_not_fit_are_refused(classifier, tokenizer):
    with pytest.raises(ValueError, match="must have as many rows each, got 3, 4"):
        classifier.fit(TEXTS, LABELS[:3])
    with pytest.raises(ValueError, match="x must have at least one row, got none"):
        classifier.fit([], [])
    regression = make(tokenizer, num_classes=1)
    with pytest.raises(ValueError, match="y must be numbers for a regression"):
        regression.fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="num_classes must be 2 or more to classify"):
        regression.classify(TEXTS)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"label_names": []}, r"label_names must be two or more, got \[\]"),
        ({"label_names": ["a"]}, "label_names must be two or more"),
        ({"label_names": "ab"}, "label_names must be a list of texts, got 'ab'"),
        ({"label_names": ["a", "a"]}, "label_names must differ, got 'a' twice"),
        ({"label_names": ["a", 1]}, "label_names must be non-empty texts, got 1"),
        ({"label_names": ["a", "b"], "num_classes": 3}, "num_classes must be the num"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": None}, "num_classes or label_names must be given"),
        ({"num_classes": 1, "multi_label": True}, "multi_label must be False with 1"),
    ],
)
def test_labels_that_are_none_are_refused(tokenizer, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, **kwargs)


@pytest.mark.slow
def test_class_weights_weigh_the_mean(tokenizer):
    weights = {0: 1.0, 1: 3.0}
    logits = make(tokenizer).predict(TEXTS, verbose=0)
    numbers = np.array([1, 0, 1, 0])
    losses = -tf.nn.log_softmax(logits).numpy()[range(4), numbers]
    by_row = np.array([weights[number] for number in numbers])
    expected = (losses * by_row).sum() / by_row.sum()
    trained = []
    for given in (
        {"x": TEXTS, "y": LABELS, "class_weight": {"yes": 3.0}},
        {"x": as_dataset(TEXTS, LABELS, size=4), "class_weight": weights},
        {"x": TEXTS, "y": LABELS, "sample_weight": by_row},
    ):
        task = make(tokenizer, rate=1.0)
        losses = task.fit(**given, verbose=0).history["loss"]
        np.testing.assert_allclose(losses, [expected], rtol=1e-5)
        trained.append(task.head.kernel.numpy())
    assert np.abs(trained[0] - make(tokenizer).head.kernel.numpy()).max() > 1e-3
    for found in trained[1:]:
        np.testing.assert_allclose(found, trained[0], atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "weights", "message"),
    [
        ({}, {"fair": 2.0}, r"the 2 labels of the model \(no, yes\).* got 'fair'"),
        ({}, {2: 2.0}, "as keys, got 2"),
        ({}, {"yes": 2.0, 1: 3.0}, "got 1 twice, by name and by number"),
        ({}, {"yes": -1.0}, "at least 0 as values, got -1.0 for 'yes'"),
        (
            {"label_names": ["no", "yes"], "multi_label": True},
            {"yes": 2.0},
            "None but for one label a text",
        ),
    ],
)
def test_class_weights_that_are_none_are_refused(tokenizer, kwargs, weights, message):
    task = make(tokenizer, **kwargs)
    with pytest.raises(ValueError, match=f"class_weight must .*{message}"):
        task.fit(TEXTS, LABELS, class_weight=weights)


def test_cut_texts_are_warned_of_once(tokenizer):
    task = make(tokenizer)
    texts = ["a " * 30, "a " * 30, "b " * 40, "the king"]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        task.fit(texts, LABELS, epochs=3, batch_size=2, verbose=0)
        task.evaluate(texts, LABELS, verbose=0)
    messages = [str(w.message) for w in found if "longer" in str(w.message)]
    # Of equal ones only the first counts.
    assert messages == [
        "2 texts were longer than sequence_length = 12 tokens and were cut."
    ]


def test_empty_and_long_texts_are_rows_that_end(tokenizer):
    task = make(tokenizer)
    end = tokenizer.end_token_id
    rows = task.preprocessor(tf.constant(["", "the king is dead, long live"]))
    assert rows["token_ids"][0].numpy().tolist() == [end] + [0] * 11
    assert rows["padding_mask"][0].numpy().tolist() == [True] + [False] * 11
    ids = tokenizer.tokenize("the king is dead, long live").numpy().tolist()
    assert len(ids) > 11
    assert rows["token_ids"][1].numpy().tolist() == [*ids[:11], end]


def test_a_loss_that_is_no_number_ends_training(tokenizer):
    task = make(tokenizer, num_classes=1)
    y = [1.0, 2.0, 1.0, 2.0, float("nan"), 1.0]
    with pytest.raises(DivergenceError, match="got nan in batch 2 of epoch 0"):
        task.fit([*TEXTS, "x", "y"], y, batch_size=2, shuffle=False, verbose=0)


@pytest.mark.slow
def test_texts_of_all_kinds_are_classified(classifier):
    expected = classifier.classify(TEXTS)
    logits = classifier.predict(TEXTS, verbose=0)
    wanted = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(expected.probabilities, wanted, rtol=1e-6)
    best = [["no", "yes"][i] for i in wanted.argmax(axis=1)]
    assert expected.labels == best
    batches = tf.data.Dataset.from_tensor_slices(TEXTS).batch(3)
    for given in (np.array(TEXTS), np.array(TEXTS, object), batches):
        found = classifier.classify(given)
        assert found.labels == best
        np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-5)
    for one in (TEXTS[0], tf.constant(TEXTS[0])):
        found = classifier.classify(one)
        assert found.labels == best[:1]
        np.testing.assert_allclose(found.probabilities, wanted[:1], rtol=1e-5)


def test_pairs_are_classified(classifier):
    others = TEXTS[::-1]
    wanted = classifier.classify((TEXTS, others)).probabilities
    alone = classifier.classify(TEXTS).probabilities
    assert np.abs(wanted - alone).max() > 1e-4
    batches = as_dataset(TEXTS, others, size=3)
    for given in ((np.array(TEXTS), np.array(others)), batches):
        found = classifier.classify(given).probabilities
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    one = classifier.classify((TEXTS[0], others[0])).probabilities
    np.testing.assert_allclose(one, wanted[:1], rtol=1e-5)


def test_new_labels_go_over_a_preset(tokenizer, tmp_path):
    task = make(tokenizer)
    preset = str(tmp_path / "preset")
    task.save_to_preset(preset)
    new = GPTTextClassifier.from_preset(preset, label_names=["a", "b", "c"])
    assert (new.num_classes, new.label_names) == (3, ["a", "b", "c"])
    new = GPTTextClassifier.from_preset(preset, num_classes=4)
    assert new.label_names == ["0", "1", "2", "3"]
    for old, kept in zip(task.backbone.weights, new.backbone.weights, strict=True):
        np.testing.assert_array_equal(old, kept)
    assert GPTTextClassifier.from_preset(preset).label_names == ["no", "yes"]


def test_rows_without_labels(tokenizer):
    task = make(tokenizer, label_names=["a", "b"], multi_label=True)
    none = np.zeros((2, 2))
    ragged = tf.ragged.constant([[], []], tf.string, ragged_rank=1)
    for y in ([[], []], np.array([[], []], object), ragged, [["", ""], [""]]):
        np.testing.assert_array_equal(task.encoded_labels(y), none)
    one_each = task.encoded_labels(["b", "a"])
    np.testing.assert_array_equal(one_each, [[0, 1], [1, 0]])
    assert np.isfinite(task.evaluate(TEXTS[:2], [[], []], verbose=0)).all()


def test_an_empty_second_text_is_none(tokenizer):
    preprocessor = GPTTextClassifierPreprocessor(tokenizer, 12)
    first, second = tf.constant(["a king", "a king"]), tf.constant(["", "dead"])
    pairs = preprocessor.rows(first, second)
    alone = preprocessor(["a king"])
    for name, value in alone.items():
        np.testing.assert_array_equal(pairs[name][:1], value)
    assert pairs["padding_mask"][1].numpy().sum() > alone["padding_mask"].numpy().sum()


def test_rows_that_are_longer_than_the_context_are_refused(tokenizer):
    task = make(tokenizer)
    task.preprocessor.sequence_length = 99
    rule = "sequence_length must be at most the model's context, 64, got 99"
    for use in (
        lambda: task.fit(TEXTS, LABELS),
        lambda: task.evaluate(TEXTS, LABELS),
        lambda: task.predict(TEXTS),
        lambda: task.fit(as_dataset(TEXTS, LABELS, size=2)),
    ):
        with pytest.raises(ValueError, match=rule):
            use()


def test_a_model_on_that_of_another_task(tokenizer, tmp_path):
    backbone = make(tokenizer).backbone
    pairs = GPTSimilarity(backbone, 2, GPTSimilarityPreprocessor(tokenizer))
    pairs.save_to_preset(str(tmp_path / "preset"))
    task = GPTTextClassifier.from_preset(
        tmp_path / "preset", label_names=["no", "yes"], dropout=0.3
    )
    assert type(task) is GPTTextClassifier and task.backbone.config.dropout == 0.3
    assert task.predict(["the king"], verbose=0).shape == (1, 2)
    for a, b in zip(task.backbone.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
