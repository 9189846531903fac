"""Exported tasks with heads answer alike, in a process with TensorFlow alone."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import models
from keras_gpt.export import ExportError, export_saved_model
from keras_gpt.export.head_export import head_export
from keras_gpt.export.verify import run_in_fresh_process

LENGTH = 24


def make(cls, tokenizer, **kwargs):
    keras.utils.set_random_seed(1)
    backbone = models.GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size(), num_layers=1
    )
    task = cls(
        backbone,
        preprocessor=cls.preprocessor_cls(tokenizer, sequence_length=LENGTH),
        **kwargs,
    )
    for weight in task.weights:  # spread out, so that texts differ
        if "kernel" in weight.path or "embeddings" in weight.path:
            weight.assign(weight * 10.0)
    return task


LONG = "the king " * 50
LABELS = {"label_names": ["poor", "fair", "good"]}
CASES = {
    "classify": (models.GPTTextClassifier, LABELS),
    "classify_many": (models.GPTTextClassifier, {**LABELS, "multi_label": True}),
    "regress": (models.GPTTextClassifier, {"num_classes": 1}),
    "compare": (models.GPTSimilarity, {}),
    "choose": (models.GPTMultipleChoice, {}),
    "tag": (models.GPTTokenClassifier, LABELS),
    "answer": (models.GPTQuestionAnswering, {"null_threshold": -100.0}),
}


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """Returns the task of a case and its version folder, made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            cls, kwargs = CASES[name]
            task = make(cls, tokenizer, **kwargs)
            path = tmp_path_factory.mktemp(name)
            made[name] = task, export_saved_model(task, path)
        return made[name]

    return get


def call(folder, signature, **inputs):
    (outputs,) = run_in_fresh_process(
        folder, [{"signature": signature, "inputs": inputs}]
    )
    return outputs


def test_labels_and_probabilities_of_texts_and_pairs(exported):
    task, folder = exported("classify")
    texts = ["the king", "", LONG, "the king"]
    others = ["", "", "a lord", "a lord"]
    found = call(folder, "classify", text=texts, second_text=others)
    with pytest.warns(UserWarning, match="1 texts were longer than sequence_length"):
        expected = task.classify(texts[:3])
    np.testing.assert_allclose(
        found["probabilities"][:2], expected.probabilities[:2], rtol=1e-4
    )
    assert found["label"][:2] == expected.labels[:2]
    with pytest.warns(UserWarning, match="2 texts were longer"):
        pairs = task.classify((texts[2:], others[2:]))
    np.testing.assert_allclose(
        found["probabilities"][2:], pairs.probabilities, rtol=1e-4
    )
    assert found["labels"] == [task.label_names] * 4
    assert found["error"] == [""] * 4


def test_choices_and_what_the_card_says(exported):
    task, folder = exported("choose")
    card = json.loads(
        tf.io.read_file(f"{folder}/assets.extra/model_card.json").numpy()
    )
    assert card["task"] == "GPTMultipleChoice"
    choices = [["king", "lord", ""], ["queen", "", ""]]
    found = call(folder, "choose", text=["the", ""], choices=choices)
    expected = task.choose(["the", ""], [["king", "lord"], ["queen"]])
    assert found["choice"] == expected.choices
    assert found["probabilities"][1] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["classify_many", "regress", "compare"])
def test_signatures_before_they_are_written(tokenizer, name):
    cls, kwargs = CASES[name]
    export = head_export(
        make(cls, tokenizer, **kwargs), {}, storage_dtype=None, batch_sizes=[1]
    )
    (check,) = export.checks()
    one = export.signatures[check.call["signature"]]
    outputs = one.function(
        **{key: tf.constant(value) for key, value in check.call["inputs"].items()}
    )
    plain = {key: value.numpy().tolist() for key, value in outputs.items()}
    if "label" in plain:
        plain["label"] = [label.decode() for label in plain["label"]]
    check.compare(plain)
    name = "probabilities" if "probabilities" in plain else "score"
    wrong = {name: np.add(plain[name], 1.0).tolist()}
    with pytest.raises(ExportError, match="must answer like the model"):
        check.compare({**plain, **wrong})


def test_words_have_labels_and_padding_has_none(exported):
    task, folder = exported("tag")
    words = [["the", "king", "is"], ["dead", "", ""], ["my", "lord"] + ["king"]]
    found = call(folder, "tag", words=words)
    expected = task.tag([[word for word in row if word] for row in words])
    for row, labels in zip(found["labels"], expected, strict=True):
        assert [label for label in row if label] == labels
    assert found["probabilities"][1][1] == [0.0, 0.0, 0.0]


def test_answers_have_places_in_long_contexts_of_any_script(exported):
    task, folder = exported("answer")
    contexts = [LONG, "中文 and \U0001f600 the king's café " * 9, "", "king"]
    questions = ["who is the king?", "", "who?", "王 is who?"]
    found = call(folder, "answer", question=questions, context=contexts)
    expected = task.answer(questions, contexts)
    for row, want in enumerate(expected):
        got = {key: found[key][row] for key in ("text", "start", "end")}
        assert got == {"text": want.text, "start": want.start, "end": want.end}
        assert contexts[row][want.start : want.end] == want.text
        assert found["score"][row] == pytest.approx(want.score, rel=1e-4)
    assert expected[0].text
    assert expected[1].text
    assert not expected[2].text


def test_a_bad_row_spares_its_neighbours(exported):
    _, folder = exported("classify")
    model = tf.saved_model.load(folder)
    classify = model.signatures["classify"]
    none = tf.constant(["", "", ""])
    good = classify(text=tf.constant(["a king", "", "lords"]), second_text=none)
    bad = classify(text=tf.constant([b"a king", b"\xff", b"lords"]), second_text=none)
    np.testing.assert_allclose(good["probabilities"], bad["probabilities"], rtol=1e-5)
    assert bad["error"].numpy().tolist() == [b"", b"invalid_input", b""]
    one = model.signatures["serving_default"](text=tf.constant(["lords"]))
    np.testing.assert_allclose(
        one["probabilities"][0], good["probabilities"][2], rtol=1e-4
    )


def test_options_of_generation_are_refused(tokenizer, tmp_path):
    task = make(models.GPTTextClassifier, tokenizer, **LABELS)
    with pytest.raises(ValueError, match="temperature must be left out for GPTText"):
        export_saved_model(task, tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match="xla must be left out"):
        export_saved_model(task, tmp_path, xla=True)
    task.preprocessor = None
    with pytest.raises(ValueError, match="preprocessor must be set"):
        export_saved_model(task, tmp_path)
    assert not list(tmp_path.iterdir())
