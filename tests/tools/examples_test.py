"""Every example runs as it stands, and its model has learnt what its data hold.

Five that differ from the others in their data alone run for one epoch; with
WHOLE_EXAMPLES=1 in the environment all run whole.
"""

import functools
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTCausalLM, GPTTextClassifier, export
from keras_gpt.export import saved_model
from keras_gpt.export.signatures.heads import head_signatures
from keras_gpt.models.task import GPTTask
from keras_gpt.tools.examples import small

FOLDER = Path(__file__).parents[2] / "tools" / "examples"
# The share of held-out examples that must be right; beside it what guessing gets: the
# most frequent label, or any of the possible answers.
NEEDED = {
    "text_classification": 0.9,  # 0.5
    "multi_label": 0.9,  # 0.3
    "entailment": 0.9,  # 0.5
    "similarity": 0.7,  # 0, for it is a correlation
    "multiple_choice": 0.9,  # 0.34
    "question_answering": 0.9,  # 0.25
    "token_classification": 0.9,  # 0.5
    "responses": 0.8,  # 0.03
    "chat": 0.4,  # 0.05
    "adapters": 0.8,  # 0.03
}

SHORT = {"text_classification", "entailment", "similarity", "responses", "chat"}
if os.environ.get("WHOLE_EXAMPLES"):
    SHORT = set()

pytestmark = pytest.mark.slow


def test_all_scripts_have_a_test():
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names - {"__init__", "small"} == set(NEEDED)


def test_exported_models_are_asked_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "verify", lambda *_: None)  # has its own tests
    texts = ["I want tea", "Give me a large coffee, please"]
    preset = small.small_preset(texts, vocabulary_size=280)
    model = GPTTextClassifier.from_preset(preset, label_names=["tea", "coffee"])
    folder = export.export_saved_model(model, tmp_path, batch_sizes=[1])
    found = small.ask(folder, "classify", text=texts)
    expected = model.classify(texts)
    assert found["label"] == list(expected.labels)
    np.testing.assert_allclose(
        found["probabilities"], expected.probabilities, atol=1e-6
    )


def head_outputs(task, signature, inputs):
    """Computes what the exported model would, without exporting it."""
    found = head_signatures(task, functools.partial(task, training=False))[signature]
    assert set(inputs) <= set(found.inputs)
    outputs = found.function(**{key: tf.constant(inputs[key]) for key in found.inputs})
    return {
        name: np.char.decode(value.numpy().astype(bytes)).tolist()
        if value.dtype == tf.string
        else value.numpy().tolist()
        for name, value in outputs.items()
    }


def outputs(task, signature, **inputs):
    if not isinstance(task, GPTCausalLM):
        return head_outputs(task, signature, inputs)
    options = {"temperature": 0.0, "max_new_tokens": 24}
    if signature == "chat":
        rows = zip(inputs["role"], inputs["content"], strict=True)
        messages = [
            [{"role": r, "content": c} for r, c in zip(*row, strict=True)]
            for row in rows
        ]
        return {"generated_text": task.chat(messages, **options)}
    assert signature == "serving_default"
    texts = task.generate(inputs["text"], strip_prompt=True, **options)
    return {"generated_text": texts}


@pytest.fixture
def no_exports(monkeypatch):
    """Exports have tests of their own, and XLA takes longer than such small models."""
    monkeypatch.setattr(export, "export_saved_model", lambda task, *_, **__: task)
    monkeypatch.setattr(small, "ask", outputs)
    compile_task = GPTTask.compile
    monkeypatch.setattr(
        GPTTask,
        "compile",
        lambda *args, **kwargs: compile_task(*args, **kwargs, jit_compile=False),
    )


@pytest.mark.usefixtures("no_exports")
@pytest.mark.parametrize("name", NEEDED)
def test_it_learns_and_tells_what_it_found(name, capsys, monkeypatch):
    if name in SHORT:
        fit = GPTTask.fit

        def fit_once(*args, **kwargs):
            return fit(*args, **{**kwargs, "epochs": 1})

        monkeypatch.setattr(GPTTask, "fit", fit_once)
    found = runpy.run_module(f"keras_gpt.tools.examples.{name}", run_name="__main__")
    scores = found["correlation" if name == "similarity" else "accuracy"]
    for score in scores.values() if isinstance(scores, dict) else [scores]:
        assert score <= 1.0
        assert name in SHORT or score >= NEEDED[name]
    assert "the exported model says:" in capsys.readouterr().out
