"""What holds for every task: one harness, a case for each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import models
from keras_gpt.models.fit_data import as_tensors

TEXTS = ["good king", "a bad lord", "good, good queen", "bad", "the good", "bad men"]
LENGTH = 24

# Inputs and targets of the six examples of each task.
CASES = {
    "causal_lm": (models.GPTCausalLM, TEXTS, None, {}),
    "responses": (
        models.GPTCausalLM,
        {"prompts": TEXTS, "responses": TEXTS[::-1]},
        None,
        {},
    ),
    "classifier": (
        models.GPTTextClassifier,
        TEXTS,
        ["yes", "no", "yes", "no", "yes", "no"],
        {"label_names": ["no", "yes"]},
    ),
    "pairs": (
        models.GPTTextClassifier,
        (TEXTS, TEXTS[::-1]),
        [0, 1, 2, 0, 1, 2],
        {"num_classes": 3},
    ),
    "multi_label": (
        models.GPTTextClassifier,
        TEXTS,
        [["a"], ["a", "b"], [], ["b"], ["a"], ["b", "a"]],
        {"label_names": ["a", "b"], "multi_label": True},
    ),
    "regression": (
        models.GPTTextClassifier,
        TEXTS,
        [1.0, -1.0, 2.0, -2.0, 1.0, -1.5],
        {"num_classes": 1},
    ),
    "similarity": (models.GPTSimilarity, (TEXTS, TEXTS[::-1]), [0, 1, 0, 1, 1, 0], {}),
    "choice": (
        models.GPTMultipleChoice,
        (TEXTS, [["the king", "lord", "my men"]] * 6),
        [0, 1, 2, 0, 1, 2],
        {},
    ),
    "tokens": (
        models.GPTTokenClassifier,
        [text.split() for text in TEXTS],
        [["X" if "good" in word else "O" for word in text.split()] for text in TEXTS],
        {"label_names": ["O", "X"]},
    ),
    "answering": (
        models.GPTQuestionAnswering,
        {"question": ["who?"] * 6, "context": [f"a {text}" for text in TEXTS]},
        {"answer_start": [2] * 5 + [0], "answer_text": [*TEXTS[:5], ""]},
        {},
    ),
}


def make(name, tokenizer, *, dropout=0.1, length=LENGTH, **compile_options):
    cls, _, _, kwargs = CASES[name]
    if not dropout and cls is not models.GPTCausalLM:
        kwargs = {**kwargs, "head_dropout": 0.0}
    keras.utils.set_random_seed(0)
    backbone = models.GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        dropout=dropout,
    )
    task = cls(
        backbone,
        preprocessor=cls.preprocessor_cls(tokenizer, sequence_length=length),
        **kwargs,
    )
    task.compile(
        keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5),
        seed=5,
        **{"jit_compile": False, **compile_options},
    )
    return task


def trained(task, x, y, **options):
    """Returns the losses of some epochs, and the weights."""
    history = task.fit(
        x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, **options
    )
    return history.history["loss"], [w.numpy() for w in task.weights]


def assert_equal(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def trained_on_ids(task, x, y):
    """Does the same with rows that were tokenized beforehand."""
    given = as_tensors((x, task.encoded_labels(y)))
    rows = tf.data.Dataset.from_tensors(task.preprocess_samples(*given))
    task.preprocessor = None
    history = task.fit(rows, epochs=2, verbose=0)
    return history.history["loss"], [w.numpy() for w in task.weights]


# One of each class of models.
TRAINED = ["responses", "pairs", "similarity", "choice", "tokens", "answering"]


@pytest.mark.parametrize("name", TRAINED)
def test_neither_ids_nor_padding_nor_micro_batches_change_training(tokenizer, name):
    _, x, y, _ = CASES[name]
    options = {"auxiliary_lm_weight": 0.5}
    expected = trained(make(name, tokenizer, **options), x, y)
    assert expected[0][1] < expected[0][0]
    task = make(name, tokenizer, run_eagerly=True, **options)
    assert_equal(trained_on_ids(task, x, y), expected, tolerance=2e-6)
    task = make(name, tokenizer, length=LENGTH + 7, accumulate=3, **options)
    assert_equal(trained_on_ids(task, x, y), expected)


@pytest.mark.parametrize("name", ["responses", "similarity", "answering"])
def test_the_order_within_a_batch_changes_nothing(tokenizer, name):
    _, x, y, _ = CASES[name]
    # Dropout is drawn by the row.
    options = {"dropout": 0.0, "auxiliary_lm_weight": 0.5, "run_eagerly": True}
    expected = trained_on_ids(make(name, tokenizer, **options), x, y)
    order = np.array([3, 5, 0, 1, 4, 2])
    turned = tf.nest.map_structure(
        lambda part: None if part is None else tf.gather(part, order),
        as_tensors((x, y)),
    )
    task = make(name, tokenizer, **options)
    assert_equal(trained_on_ids(task, *turned), expected)


@pytest.mark.parametrize("name", CASES)
def test_presets_keep_everything(tokenizer, name, tmp_path):
    cls, x, _, _ = CASES[name]
    task = make(name, tokenizer)
    expected = task.predict(x, verbose=0)
    task.optimizer.build(task.trainable_variables)
    task.save_to_preset(str(tmp_path / "preset"))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "preset").iterdir()}
    assert sizes.get("task.weights.h5", 0) < 5e4  # the head, no state of the optimizer
    again = cls.from_preset(str(tmp_path / "preset"))
    assert type(again) is cls
    assert again.get_config()["preprocessor"] == task.get_config()["preprocessor"]
    found = again.predict(x, verbose=0)
    tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
