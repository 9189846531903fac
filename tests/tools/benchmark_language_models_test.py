"""The comparison of a GPT with an LSTM, on a small text and for a moment."""

import itertools
import math
import types

import pytest

from keras_gpt.tools import cli
from keras_gpt.tools.benchmarks import language_models


@pytest.mark.slow
def test_both_models_are_trained_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(language_models, "VOCABULARY_SIZE", 300)
    monkeypatch.setattr(language_models, "CONTEXT_LENGTH", 16)
    monkeypatch.setattr(language_models, "BATCH_SIZE", 4)
    small = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "dropout": 0.0}
    monkeypatch.setattr(language_models, "GPT", small)
    monkeypatch.setattr(language_models, "steps_within", lambda *_, **__: 300)
    words = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"]
    text = "".join(f"the {word} of {word[::-1]} .\n" for word in words)
    paths = {"train": tmp_path / "train.txt", "validation": tmp_path / "valid.txt"}
    paths["train"].write_text(text * 20)
    paths["validation"].write_text(text)
    job = {**{name: str(path) for name, path in paths.items()}, "minutes": 1}
    found = {
        model: language_models.train({**job, "model": model})
        for model in language_models.MODELS
    }
    num_words = len(text.split()) + text.count("\n")
    for result in found.values():
        assert result["steps"] == 300
        assert result["tokens"] == 300 * 4 * 16
        # Better than chance, and one loss in three units.
        assert 1.0 < result["per_token"] < 150.0
        assert math.log(result["per_word"]) * num_words == pytest.approx(
            math.log(result["per_byte"]) * len(text)
        )
    ratio = found["lstm"]["parameters"] / found["gpt"]["parameters"]
    assert 0.9 < ratio <= 1.0


def test_steps_fill_the_time_that_compilation_leaves():
    now = [0.0]
    seconds = iter([5.0] + [0.5] * language_models.MEASURED_STEPS)

    def step(batch):
        now[0] += next(seconds)
        return types.SimpleNamespace(loss=0.0)

    def steps(allowed):
        return language_models.steps_within(
            allowed, step=step, batches=itertools.count(), clock=lambda: now[0]
        )

    assert steps(60.0) == (60 - 5) / 0.5
    seconds = itertools.repeat(0.5)
    assert steps(0.1) == 1


def test_without_texts_it_is_left_out(capsys):
    assert cli.main(["benchmark", "language_models"]) == 0
    assert "needs --input and --validation" in capsys.readouterr().out
