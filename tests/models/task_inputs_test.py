"""What users give to tasks: columns of tables, weights, padded labels, and mistakes."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import models
from tests.models.tasks_test import make as make_task


class Column:
    """A column of a table, as pandas has them."""

    def __init__(self, values):
        self._values = np.array(values, object)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return iter(self._values)


def make(name, tokenizer):
    return make_task(name, tokenizer, dropout=0.0, length=16)


TEXTS = ["good king", "a bad lord", "bad", "a good man"]
LABELS = ["yes", "no", "no", "yes"]


def test_columns_of_tables_train_as_lists_do(tokenizer):
    def losses(x, y):
        task = make("classifier", tokenizer)
        return task.fit(x, y, batch_size=2, epochs=2, verbose=0).history["loss"]

    expected = losses(TEXTS, LABELS)
    assert losses(Column(TEXTS), Column(LABELS)) == expected
    assert losses(Column(TEXTS), np.array([1.0, 0.0, 0.0, 1.0])) == expected


@pytest.mark.parametrize("is_pair", [False, True])
def test_weights_of_texts_count_in_a_language_model(tokenizer, is_pair):
    x = {"prompts": TEXTS, "responses": LABELS} if is_pair else TEXTS
    task = make("causal_lm", tokenizer)

    def loss(rows, weights=None):
        part = {k: v[rows] for k, v in x.items()} if is_pair else x[rows]
        found = task.evaluate(part, sample_weight=weights, verbose=0, return_dict=True)
        return found["loss"]

    first, second = loss(slice(0, 1)), loss(slice(1, 2))
    assert abs(first - second) > 1e-3
    one = np.array([0.0, 1.0])
    assert loss(slice(0, 2), one) == pytest.approx(second, rel=1e-5)
    assert loss(slice(0, 2), one[:, None]) == pytest.approx(second, rel=1e-5)
    before = task.backbone.get_weights()
    task.fit(x, sample_weight=np.zeros(4), verbose=0)
    for a, b in zip(task.backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_may_be_padded_further_than_words(tokenizer):
    task = make("tokens", tokenizer)
    words = [["a", "lord"], ["my", "king"]]
    rows = task.preprocessor(tf.constant(words), tf.constant([[0, 1, 0], [1, 1, 0]]))
    expected = task.preprocessor(tf.constant(words), tf.constant([[0, 1], [1, 1]]))
    for a, b in zip(rows[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert task.tag([[]]) == [[]]
    with pytest.raises(ValueError, match="a label for each word, got 1 for 2"):
        task.fit(words, np.array([[0], [1]]))


def test_rows_of_batches_may_have_other_numbers_of_choices(tokenizer):
    task = make("choice", tokenizer)
    choices = [["a king", "a lord"], ["a king", "a lord", "a man"], ["dead", "bad"]]
    found = task.choose(["who"] * 3, choices, batch_size=1)
    assert found.probabilities.shape == (3, 3)
    for row, chosen, few in zip(*reversed(found), choices, strict=True):
        assert chosen == few[row.argmax()]
        alone = task.choose("who", few)
        np.testing.assert_allclose(alone.probabilities[0], row[: len(few)], atol=1e-5)


def test_questions_without_an_answer_and_questions_that_are_cut(tokenizer):
    task = make("answering", tokenizer)
    x = {"question": ["who"], "context": ["the king"]}
    y = {"answer_text": [""], "answer_start": [-1]}
    assert np.isfinite(task.evaluate(x, y, verbose=0)).all()
    task.preprocessor.question_length = 2
    with pytest.warns(UserWarning, match="1 texts .* than question_length = 2"):
        task.fit({**x, "question": ["who is it then"]}, y, verbose=0)
    with pytest.warns(UserWarning, match="2 texts were longer"):
        task.answer("who is it now", "the king")


def test_an_adapter_knows_the_labels_of_its_head(tokenizer, tmp_path):
    task = make("classifier", tokenizer)
    task.backbone.enable_lora(2)
    models.save_adapter(task, tmp_path / "a.safetensors")
    other = models.GPTTextClassifier(
        make("classifier", tokenizer).backbone, label_names=["yes", "no"]
    )
    before = other.head.kernel.numpy()
    with pytest.raises(ValueError, match=r"label_names must be \['yes', 'no'\], those"):
        models.load_adapter(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other.head.kernel.numpy(), before)
    assert not other.backbone.adapters.held
    models.load_adapter(other.backbone, tmp_path / "a.safetensors")


ASKED = {"question": ["who"], "context": ["it is Ada [x] y"]}
MISTAKES = {
    "no such number": ("classifier", (TEXTS, [1.0, 0.0, 5.0, 0.0]), "in [0, 2), the"),
    "half a label": ("classifier", (TEXTS, [1.0, 0.0, 0.5, 0.0]), "of labels, got 0.5"),
    "a gap": (
        "classifier",
        (["a", None], ["yes", "no"]),
        "x must have no missing value, got None in row 1",
    ),
    "no label": ("classifier", (TEXTS, ["yes", np.nan, "no", "no"]), "y must have no"),
    "pairs as a list": ("classifier", ([["a", "b"]], ["no"]), "must be strings (B,)"),
    "indicator of 2": (
        "multi_label",
        (["a"], [[0, 2]]),
        "[0, 1] of the shape (B, 2), got 2",
    ),
    "three indicators": (
        "multi_label",
        (["a"], [[0, 1, 0]]),
        "(B, 2), got the shape (1, 3)",
    ),
    "many by number": (
        "multi_label",
        (["a", "b"], [[0], [0, 1]]),
        "got the shape (2, None)",
    ),
    "no such choice": ("choice", ((["a"], [["b", "c"]]), [2]), "of its row, got 2"),
    "an absent choice": (
        "choice",
        ((["a", "d"], [["b", "c"], ["b", "c", "e"]]), [2, 1]),
        "y must be the number of a choice of its row, got 2",
    ),
    "another key": (
        "answering",
        ({**ASKED, "id": ["1"]}, {"answer_text": ["A"], "answer_start": [0]}),
        "x must be a dict of question and context, got question, context, id",
    ),
    "not a dict": (
        "answering",
        (["who"], [0]),
        "x must be a dict of question and context",
    ),
    "not in its context": (
        "answering",
        (ASKED, {"answer_text": ["Ada [y] z"], "answer_start": [6]}),
        "in its context at answer_start, got Ada [y] z.",
    ),
    "a text as words": (
        "tokens",
        (["Ada wrote"], [[0]]),
        "lists of words, one for each",
    ),
    "another key of a prompt": (
        "causal_lm",
        ({"prompt": ["a"], "response": ["b"]},),
        "got the keys prompt, response",
    ),
    "no template": (
        "causal_lm",
        ({"role": [["user"]], "content": [["a"]]},),
        "chat_template",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(name, tokenizer):
    case, given, message = MISTAKES[name]
    task = make(case, tokenizer)
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        task.fit(*given, verbose=0)
    assert str(found.value).count("\n") == 0
    assert not str(found.value).startswith("in user code")


def test_mistakes_without_data(tokenizer):
    task = make("classifier", tokenizer)
    for weights in ("balanced", [1.0, 2.0]):
        with pytest.raises(ValueError, match="class_weight must be a dict of labels"):
            task.fit(TEXTS, LABELS, class_weight=weights)
    with pytest.raises(ValueError, match="class_weight must have finite numbers of"):
        task.fit(TEXTS, LABELS, class_weight={"yes": "2"})
    for count in (2.0, "2", True, 0):
        with pytest.raises(ValueError, match="accumulate must be an integer of at"):
            task.compile(accumulate=count)
    with pytest.raises(ValueError, match="y must be given with sample_weight"):
        task.evaluate(TEXTS, sample_weight=[1.0] * 4)
    reader = make("answering", tokenizer)
    for given in (("who", ["a", "b"]), (["who", "what"], "a"), (["a", "b"], ["c"])):
        with pytest.raises(ValueError, match="question and context must be a te"):
            reader.answer(*given)
    for words in ("Ada wrote", ["Ada", "wrote"]):
        with pytest.raises(ValueError, match="words must be lists of words"):
            make("tokens", tokenizer).tag(words)
