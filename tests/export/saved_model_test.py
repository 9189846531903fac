"""The exported model answers like `generate`, with tensorflow alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.export import ExportError, export_saved_model, verify
from keras_gpt.export.run_saved_model import signature_defaults
from keras_gpt.generation import SETTINGS

PROMPTS = ["The king", "", "O my\n\nlord", "caf\u00e9 \u4e2d\u6587"]


@pytest.fixture(scope="module")
def exported(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model"
    return export_saved_model(
        causal_lm, path, max_new_tokens=7, temperature=0.5, seed=9
    )


def test_fresh_process_answers_like_generate(causal_lm, exported):
    knobs = {"temperature": [0.0, 1.0, 0.7, 1.0], "seed": [1, 2, 3, 4]}
    knobs |= {"top_k": [0, 5, 0, 0], "top_p": [1.0, 1.0, 0.8, 1.0]}
    knobs |= {"repetition_penalty": [1.4, 1.0, 1.0, 0.9], "typical_p": [0.9] * 4}
    knobs |= {"no_repeat_ngram_size": [0, 2, 0, 1], "min_new_tokens": [3] * 4}
    calls = [
        {"signature": "generate", "inputs": {"text": PROMPTS, **knobs}},
        {"signature": "serving_default", "inputs": {"text": PROMPTS}},
    ]
    generated, served = verify.run_in_fresh_process(exported, calls)
    expected = causal_lm.generate(PROMPTS, max_new_tokens=7, strip_prompt=True, **knobs)
    assert generated["generated_text"] == expected
    assert served["generated_text"] == causal_lm.generate(
        PROMPTS, max_new_tokens=7, temperature=0.5, seed=9, strip_prompt=True
    )


@pytest.fixture(scope="module")
def signature(exported):
    """The signature `generate`, its missing inputs filled as TF Serving fills them."""
    model = tf.saved_model.load(exported)
    defaults = signature_defaults(exported)["generate"]
    return lambda **inputs: model.signatures["generate"](**{**defaults, **inputs})


def test_outputs_agree_with_each_other(signature):
    result = signature(text=tf.constant(PROMPTS), max_new_tokens=tf.constant([5]))
    assert set(result) == {
        "generated_text",
        "generated_bytes",
        "token_ids",
        "token_log_probs",
        "num_tokens",
        "finish_reason",
    }
    counts = result["num_tokens"].numpy()
    width = counts.max()
    assert result["token_ids"].shape == (4, width)
    assert result["token_log_probs"].shape == (4, width)
    assert np.all(result["token_log_probs"].numpy() <= 0.0)
    reasons = result["finish_reason"].numpy().tolist()
    assert reasons == [b"length" if count == 5 else b"stop" for count in counts]
    for text in result["generated_text"].numpy():
        text.decode("utf-8")


def test_bad_rows_come_back_with_their_reason(signature):
    text = tf.constant([b"The king", b"word " * 300, b"The king", b"\xff\xfe"])
    temperature = tf.constant([0.0, 0.0, -1.0, 0.0])
    mixed = signature(text=text, temperature=temperature)
    clean = signature(text=tf.fill([4], "The king"), temperature=tf.zeros([4]))
    assert mixed["finish_reason"].numpy().tolist()[1:] == [
        b"prompt_too_long",
        b"invalid_input",
        b"invalid_input",
    ]
    assert mixed["generated_text"][0] == clean["generated_text"][0]
    assert mixed["generated_text"].numpy().tolist()[1:] == [b"", b"", b""]


def test_defaults_are_in_the_signature(exported):
    defaults = signature_defaults(exported)["generate"]
    assert {name: value.numpy().tolist() for name, value in defaults.items()} == {
        **{name: [setting.default] for name, setting in SETTINGS.items()},
        "max_new_tokens": [7],
        "temperature": [0.5],
        "seed": [9],
    }


def test_graph_holds_nothing_that_serving_refuses(exported):
    assert verify.forbidden_ops(exported) == []
    assert "MatMul" in verify.ops_of(exported)


def test_op_scan_sees_a_stateful_random_op(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: x + tf.random.uniform([]))
    module.f.get_concrete_function(tf.TensorSpec([], tf.float32))
    tf.saved_model.save(module, str(tmp_path))
    assert verify.forbidden_ops(tmp_path) == ["RandomUniform is a stateful random op"]


def test_a_version_is_never_replaced(causal_lm, exported):
    before = sorted(Path(exported).rglob("*"))
    with pytest.raises(FileExistsError, match="version must be new"):
        export_saved_model(causal_lm, Path(exported).parent)
    assert sorted(Path(exported).rglob("*")) == before


def test_an_export_that_differs_leaves_nothing(causal_lm, tmp_path, monkeypatch):
    def lie(folder, calls):
        return [{"generated_text": ["no"] * 4} for _ in calls]

    monkeypatch.setattr(verify, "run_in_fresh_process", lie)
    with pytest.raises(ExportError, match="must answer like generate"):
        export_saved_model(causal_lm, tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_process_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="does not run"):
        verify.run_in_fresh_process(tmp_path / "absent", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 0}, "version must be a positive integer, got 0"),
        ({"version": "1"}, "version must be a positive integer, got '1'"),
        ({"temperature": -1.0}, "temperature must be finite and at least 0"),
        ({"beams": 3}, "settings must be of max_new_tokens, .* got beams"),
    ],
)
def test_bad_arguments_are_named(causal_lm, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(causal_lm, tmp_path, **arguments)
    assert json.dumps([str(p) for p in tmp_path.iterdir()]) == "[]"


def test_a_model_without_tokenizer_is_refused(causal_lm, tmp_path, monkeypatch):
    monkeypatch.setattr(causal_lm, "preprocessor", None)
    with pytest.raises(ValueError, match="preprocessor must be set"):
        export_saved_model(causal_lm, tmp_path)
