"""The tool `inspect`: a model's weights, a run's plan, and what is refused."""

import json
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from keras_gpt import GPTBackbone, GPTConfig, save_huggingface
from keras_gpt.planning import PlanSettings, make_plan
from keras_gpt.planning.activations import COMPUTE_BYTES
from keras_gpt.planning.memory import OPTIMIZERS
from keras_gpt.tools import cli, inspect


def run(*arguments):
    return cli.main(["inspect", *arguments])


def test_a_size_is_told_and_written(tmp_path, capsys):
    assert run("--model=gpt3_175b", f"--json={tmp_path}/model.json") == 0
    output = capsys.readouterr().out
    assert "Model gpt3_175b: 174,604,259,328 parameters" in output
    assert "transformer_layer_{0..95}/mlp/expand/kernel" in output
    content = json.loads((tmp_path / "model.json").read_text())
    assert content["config"] == GPTConfig.named("gpt3_175b").to_dict()
    assert len(content["weights"]) == 2 + 96 * 12 + 2
    total = sum(weight["parameters"] for weight in content["weights"])
    assert total == content["num_parameters"] == 174_604_259_328


def test_a_plan_of_gpt3_pads_its_vocabulary_and_says_so(tmp_path, capsys):
    arguments = ["--model=gpt3_175b", "--mesh=batch:4,model:2", "--plan"]
    assert run(*arguments, f"--json={tmp_path}/plan.json") == 0
    output = capsys.readouterr().out
    assert "on 8 devices, mesh batch:4,model:2" in output
    assert "1 GB is 1e9 bytes" in output
    assert "IT DOES NOT FIT" in output and "Largest part: optimizer state" in output
    assert "50,258 tokens in place of 50,257" in output
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["settings"]["model"]["vocabulary_size"] == 50258
    assert content["memory"]["weights"] == pytest.approx(4 * 174.6e9 / 2, rel=1e-3)


def test_flags_reach_the_plan(tmp_path, capsys):
    arguments = ["--mesh=batch:2,model:2", "--batch_size=12", "--context_length=32"]
    arguments += ["--accumulate=3", "--optimizer=adafactor", "--remat", "--tokens=5e6"]
    arguments += ["--dtype_policy=mixed_bfloat16", "--device_tflops=7"]
    arguments += ["--device_memory_gb=9", "--bandwidth_gbps=11", "--utilization=0.3"]
    arguments += ["--vocabulary_size=600", f"--json={tmp_path}/plan.json"]
    assert run("--model=gpt_nano", "--plan", *arguments) == 0
    settings = PlanSettings(
        model=GPTConfig.named("gpt_nano", vocabulary_size=600),
        mesh={"batch": 2, "model": 2},
        batch_size=12,
        context_length=32,
        accumulate=3,
        optimizer="adafactor",
        dtype_policy="mixed_bfloat16",
        remat=True,
        tokens=5e6,
        device_tflops=7.0,
        device_memory_gb=9.0,
        bandwidth_gbps=11.0,
        utilization=0.3,
    )
    expected = json.loads(json.dumps(make_plan(settings).to_dict()))
    assert json.loads((tmp_path / "plan.json").read_text()) == expected
    assert "in place of" not in capsys.readouterr().out


def test_flags_have_the_librarys_defaults_and_choices():
    flags = absl_flags.FlagValues()
    inspect.define_flags(flags)
    flags(["inspect", "--model=gpt_nano", "--plan"])
    config = GPTConfig.named("gpt_nano")
    settings = inspect.plan_settings(flags, config)
    mesh = {"batch": 1, "model": 1}
    assert settings == PlanSettings(model=config, mesh=mesh)
    assert flags["optimizer"].parser.enum_values == list(OPTIMIZERS)
    assert flags["dtype_policy"].parser.enum_values == list(COMPUTE_BYTES)


def test_checkpoints_of_every_kind_are_read(causal_lm, tmp_path, capsys):
    causal_lm.save_to_preset(tmp_path / "ours")
    save_huggingface(causal_lm, tmp_path / "theirs")
    count = f"{causal_lm.backbone.config.num_parameters:,} parameters"
    for name in ("ours", "theirs"):
        assert run(f"--model={tmp_path / name}") == 0
        assert count in capsys.readouterr().out
        assert run(f"--model={tmp_path / name}", "--plan", "--mesh=model:2") == 0
        assert "2 devices" in capsys.readouterr().out


def test_a_checkpoints_vocabulary_is_what_it_is(tmp_path, capsys):
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=301)
    backbone.save_to_preset(tmp_path / "odd")
    arguments = [f"--model={tmp_path}/odd", "--plan", "--mesh=model:2"]
    assert run(*arguments) == 2
    assert "vocabulary_size must be divisible" in capsys.readouterr().err
    assert run(*arguments, "--vocabulary_size=302") == 1
    assert "--vocabulary_size is for a named size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "flag --model is required"),
        (["--model=gpt9"], 2, "model must be one of gpt_nano, gpt_char, gpt1,"),
        (["--model=gpt9"], 2, "got 'gpt9'"),
        (["--optimizer=sgd"], 1, "flag --optimizer=sgd"),
        (["--tokens=many"], 1, "flag --tokens=many"),
        (["--mesh=4x2"], 2, "mesh must be dimensions and sizes"),
        (["--mesh=model:5"], 2, "num_heads must be divisible by the mesh's model"),
        (["--mesh=model:2", "--vocabulary_size=65"], 2, "vocabulary_size must be"),
        (["--vocabulary_size=0"], 2, "vocabulary_size must be a positive integer"),
        (["--mesh=batch:2", "--batch_size=3"], 2, "batch_size must be divisible"),
        (["--accumulate=0"], 2, "accumulate must be a positive integer, got 0"),
        (["--context_length=65"], 2, "context_length must be at most the model's 64"),
        (["--device_memory_gb=-80"], 2, "device_memory_gb must be positive"),
        (["--tokens=nan"], 2, "tokens must be positive and finite, got nan"),
        (["--utilization=0"], 2, "utilization must be in (0, 1], got 0.0"),
        (["--json=/absent/plan.json"], 2, "/absent/plan.json"),
    ],
)
def test_errors_are_one_line(arguments, code, message, capsys):
    if arguments and not arguments[0].startswith("--model"):
        arguments = ["--model=gpt_char", "--plan", *arguments]
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and "Traceback" not in error


def test_it_runs_by_its_module():
    command = [sys.executable, "-m", "keras_gpt.tools.inspect", "--model=gpt_nano"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Model gpt_nano:")
