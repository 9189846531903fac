"""The comparison of training steps: what is measured, and its variants."""

import json

import keras
import pytest

from keras_gpt.config import GPTConfig
from keras_gpt.tools import cli
from keras_gpt.tools.benchmarks import train as train_benchmark
from keras_gpt.training.flops import training_flops_per_token


def test_benchmark_train_measures_in_turn_and_compares(monkeypatch, tmp_path, capsys):
    # Each round: ours, both peers, and the speed of matrix products.
    rounds = [(100, 50, 200, 1e9), (300, 100, 300, 3e9), (200, 400, 100, 2e9)]
    speeds = iter([float(speed) for one in rounds for speed in one])
    asked = []

    def measure(side, name, seconds):
        asked.append((side, name, seconds))
        return next(speeds)

    monkeypatch.setattr(train_benchmark, "_in_own_process", measure)
    monkeypatch.setattr(
        train_benchmark.importlib.util, "find_spec", lambda name: object()
    )
    arguments = ["--config=char", "--rounds=3", "--seconds=2"]
    arguments.append(f"--json={tmp_path}/result.json")
    assert cli.main(["benchmark", "train", *arguments]) == 0
    sides = ["keras_gpt", "torch", "torch_compile", "peak"]
    assert asked == [(side, "char", 2.0) for side in sides] * 3
    output = capsys.readouterr().out
    assert "torch eager           100 tokens/s   ours 2.00x" in output  # 2, 3 and 0.5
    assert "torch.compile         200 tokens/s   ours 1.00x" in output
    result = json.loads((tmp_path / "result.json").read_text())["train"]["char"]
    assert result["ratios"] == {"torch": 2.0, "torch_compile": 1.0}
    medians = {"keras_gpt": 200.0, "torch": 100.0, "torch_compile": 200.0}
    assert result["tokens_per_second"] == medians
    flops = training_flops_per_token(GPTConfig.named("gpt_char"), 64)
    assert result["peak_share"] == pytest.approx(200.0 * flops / 2e9)


def test_benchmark_train_says_that_torch_is_absent(monkeypatch, capsys):
    monkeypatch.setattr(train_benchmark, "_in_own_process", lambda *_: 123.0)
    monkeypatch.setattr(train_benchmark.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["benchmark", "train", "--config=124m", "--rounds=1"]) == 0
    output = capsys.readouterr().out
    assert "torch is not installed" in output and "ratio" not in output
    assert "123 tokens/s" in output and "torch eager" not in output


def test_benchmark_train_tells_what_each_choice_is_worth(monkeypatch, capsys):
    speeds = {"keras_gpt": 100.0, "no_xla": 50.0, "one_hot": 25.0}
    monkeypatch.setattr(
        train_benchmark, "_in_own_process", lambda side, *_: speeds.get(side, 100.0)
    )
    command = ["benchmark", "train", "--config=char", "--rounds=1", "--variants"]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "0.50x  without XLA" in output and "0.25x  embedding by a one" in output
    assert "1.00x  8 steps a call in place of 1" in output


def test_variants_of_the_step_compute_the_same(monkeypatch):
    config = {"size": "gpt_nano", "context": 8, "batch": 2}
    monkeypatch.setitem(train_benchmark.CONFIGS, "nano", config)
    monkeypatch.setattr(train_benchmark, "STEPS_PER_CALL", 3)
    losses = {}
    for name in ("", "one_hot", "unfused", "steps_8", "remat"):
        keras.utils.set_random_seed(0)
        step = train_benchmark._keras_gpt_step("nano", name)
        count = 1 if name == "steps_8" else train_benchmark.STEPS_PER_CALL
        losses[name] = [float(step()) for _ in range(count)][-1]
    assert losses == pytest.approx(dict.fromkeys(losses, losses[""]), rel=1e-4)
