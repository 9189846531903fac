"""Heads of transformers' models: the same logits and losses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from keras_gpt import models

FOLDER = Path(__file__).parents[1] / "testdata" / "heads"
CLASSES = {
    "sequence": models.GPTTextClassifier,
    "sequence_gpt1": models.GPTTextClassifier,
    "multi_label": models.GPTTextClassifier,
    "regression": models.GPTTextClassifier,
    "tokens": models.GPTTokenClassifier,
    "answering": models.GPTQuestionAnswering,
    "choice": models.GPTMultipleChoice,
    "choice_gpt1": models.GPTMultipleChoice,
}
EXACT = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("name", CLASSES)
def test_logits_and_losses_are_those_of_transformers(name):
    golden = np.load(FOLDER / name / "golden.npz")
    task = CLASSES[name].from_preset(FOLDER / name)
    inputs = {key: golden[key] for key in ("token_ids", "padding_mask")}
    found = task.predict(inputs, verbose=0)
    labels = {key[6:]: golden[key] for key in golden.files if key[:6] == "label/"}
    if name == "answering":
        for end in ("start", "end"):
            np.testing.assert_allclose(found[end], golden[f"{end}_logits"], **EXACT)
        y = {end: labels[f"{end}_positions"] for end in ("start", "end")}
    else:
        logits = golden["mc_logits" if "choice" in name else "logits"]
        if name == "tokens":
            assert inputs["padding_mask"].all()
        np.testing.assert_allclose(found, logits, **EXACT)
        y = labels["mc_labels" if "choice" in name else "labels"]
    loss = task.evaluate(inputs, y, verbose=0, return_dict=True)["loss"]
    expected = golden["mc_loss" if "choice" in name else "loss"]
    np.testing.assert_allclose(loss, expected, **EXACT)


def test_both_losses_of_two_heads():
    golden = np.load(FOLDER / "choice" / "golden.npz")
    task = models.GPTMultipleChoice.from_preset(
        FOLDER / "choice",
        dropout=0.0,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        head_dropout=0.0,
    )
    task.compile("sgd", auxiliary_lm_weight=2.0, run_eagerly=True)
    inputs = {key: golden[key] for key in ("token_ids", "padding_mask")}
    loss = task.train_on_batch(inputs, golden["label/mc_labels"])[0]
    expected = golden["mc_loss"] + 2.0 * golden["loss"]
    np.testing.assert_allclose(loss, expected, **EXACT)


def test_names_and_kinds_come_from_the_config():
    names = ["poor", "fair", "good"]
    sequence = models.GPTTextClassifier.from_preset(FOLDER / "sequence")
    assert sequence.label_names == names
    tokens = models.GPTTokenClassifier.from_preset(FOLDER / "tokens")
    assert tokens.label_names == names
    many = models.GPTTextClassifier.from_preset(FOLDER / "multi_label")
    assert many.problem == "multi_label"
    one = models.GPTTextClassifier.from_preset(FOLDER / "regression")
    assert one.problem == "regression"


def test_a_new_head_on_a_checkpoint_with_another():
    task = models.GPTTextClassifier.from_preset(FOLDER / "sequence", num_classes=5)
    assert task.predict({"token_ids": [[1]], "padding_mask": [[1]]}).shape == (1, 5)
    lm = models.GPTCausalLM.from_preset(FOLDER / "sequence")
    with pytest.raises(ValueError, match="num_classes or label_names must be given"):
        models.GPTTextClassifier.from_preset(FOLDER / "choice")
    expected = models.GPTBackbone.from_preset(FOLDER / "sequence")
    for a, b in zip(lm.backbone.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def ones(*shape):
    return np.ones(shape, np.float32)


def changed(name, folder, change):
    shutil.copytree(FOLDER / name, folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(tensors, config)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "tokens",
            lambda tensors, _: tensors.pop("classifier.bias"),
            "classifier must have bias and weight, got weight",
        ),
        (
            "sequence",
            lambda tensors, _: tensors.update({"score.weight": ones(3, 4)}),
            r"'score.weight' must have the shape \(3, 16\), got \(3, 4\)",
        ),
        (
            "answering",
            lambda tensors, _: tensors["qa_outputs.bias"].fill(np.nan),
            "'qa_outputs.bias' must be finite",
        ),
        (
            "choice",
            lambda _, config: config.update(summary_type="mean"),
            "summary_type must be 'cls_index'",
        ),
        (
            "tokens",
            lambda tensors, _: tensors.update({"score.weight": ones(3, 16)}),
            "there must be one head, got",
        ),
    ],
)
def test_broken_heads(tmp_path, name, change, message):
    folder = changed(name, tmp_path / "checkpoint", change)
    with pytest.raises(ValueError, match=message):
        CLASSES[name].from_preset(folder)
