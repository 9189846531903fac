"""The command line: help, exit codes, and one small run from text to SavedModel."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_gpt.tools import cli

TEXT = "".join(
    f"Line {n} of the text that this small model reads: {n * n} is {n} squared.\n"
    for n in range(400)
)
TINY = [
    *["--num_layers=1", "--num_heads=2", "--hidden_dim=16", "--context_length=32"],
    *["--steps=12", "--warmup_steps=2", "--batch_size=4", "--eval_every=6"],
    *["--checkpoint_every=6", "--eval_batches=2", "--jit_compile=false"],
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run_folder(corpus, tmp_path_factory):
    """A tiny pretrained model, through the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    vocabulary = folder.parent / "vocabulary"
    assert cli.main(
        [
            "train_tokenizer",
            f"--input={corpus}",
            "--vocabulary_size=300",
            f"--output={vocabulary}",
        ]
    ) == 0  # fmt: skip
    arguments = [f"--input={corpus}", f"--tokenizer={vocabulary}"]
    assert cli.main(["pretrain", *arguments, f"--output={folder}", *TINY]) == 0
    return folder


def test_help_lists_the_tools(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.TOOLS)


@pytest.mark.parametrize("tool", sorted(cli.TOOLS))
def test_every_tool_has_help_with_defaults(tool, capsys):
    assert cli.main([tool, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"keras-gpt {tool}: {cli.TOOLS[tool]}")
    assert "--" in text and "default" in text


def test_help_does_not_load_tensorflow():
    code = (
        "import sys; from keras_gpt.tools import cli; cli.main(['--help']); "
        "cli.main(['pretrain', '--help'])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "--learning_rate" in process.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 1, "tool must be one of"),
        (["pretrain", "--nonsense=1"], 1, "Unknown command line flag 'nonsense'"),
        (["pretrain", "--steps=many"], 1, "flag --steps=many"),
        (["generate", "stray"], 1, "unexpected argument 'stray'"),
        (["pretrain", "--output=x"], 1, "flag --input is required"),
        (["generate", "--model=/absent"], 2, "'/absent' must be a preset directory"),
        (["export", "--model=/absent", "--output=x"], 2, "must be a preset directory"),
        (["demo", "--corpus=/absent/*.txt"], 2, "no file matches '/absent/*.txt'"),
        (["benchmark", "--what=fly"], 2, "what must be of train, tokenize"),
    ],
)
def test_errors_are_one_line(arguments, code, message, capsys):
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and "Traceback" not in error


def test_pretrain_leaves_a_whole_run(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    assert report["steps"] == 12
    first, final = (report["validation_loss"][key] for key in ("first", "final"))
    assert final < first
    for name in ("run.json", "loss.png", "logs", "checkpoints", "model/config.json"):
        assert (run_folder / name).exists(), name


def test_generate_continues_prompts(run_folder, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=5", "--seed=3"]
    assert cli.main(["generate", *arguments, "--prompt=Line", "--prompt=of"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("Line")
    assert cli.main(["generate", *arguments, "--prompt=Line", "--prompt=of"]) == 0
    assert capsys.readouterr().out == first


def test_evaluate_measures_the_loss(run_folder, corpus, capsys):
    arguments = [f"--model={run_folder}/model", f"--input={corpus}"]
    assert cli.main(["evaluate", *arguments]) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "loss" and 0.0 < float(words[1]) < 6.0


def test_export_writes_a_served_model(run_folder, tmp_path, capsys):
    arguments = [f"--model={run_folder}/model", f"--output={tmp_path}/served"]
    assert cli.main(["export", *arguments, "--max_new_tokens=4"]) == 0
    assert (tmp_path / "served/1/saved_model.pb").exists()
    assert cli.main(["export", *arguments]) == 2
    assert "version must be new" in capsys.readouterr().err


def test_a_tokenizer_is_not_overwritten(run_folder, corpus, capsys):
    vocabulary = run_folder.parent / "vocabulary"
    before = (vocabulary / "vocab.json").read_bytes()
    arguments = [f"--input={corpus}", "--vocabulary_size=280"]
    assert cli.main(["train_tokenizer", *arguments, f"--output={vocabulary}"]) == 2
    assert "output must be new" in capsys.readouterr().err
    assert (vocabulary / "vocab.json").read_bytes() == before


def test_demo_refuses_a_folder_of_others(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    assert cli.main(["demo", f"--output={tmp_path}"]) == 2
    assert "holds letter.txt" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text() == "mine"


@pytest.mark.slow
def test_demo_goes_all_the_way(corpus, tmp_path, capsys):
    output = tmp_path / "demo"
    arguments = [f"--corpus={corpus}", "--steps=6", "--vocabulary_size=300"]
    assert cli.main(["demo", f"--output={output}", *arguments]) == 0
    report = json.loads((output / "report.json").read_text())
    assert {"corpus", "parameters", "steps", "tokens_per_second", "sample"} <= set(
        report
    )
    assert Path(output / "saved_model/1/saved_model.pb").exists()
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "model/config.json").exists()


def test_modules_run_by_themselves():
    process = subprocess.run(
        [sys.executable, "-m", "keras_gpt.tools.train_tokenizer", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0
    assert process.stdout.startswith("keras-gpt train_tokenizer:")


def test_benchmark_tokenize_agrees_with_the_peer(capsys):
    assert cli.main(["benchmark", "--what=tokenize", "--rounds=1"]) == 0
    assert "ids equal those of tokenizers: yes" in capsys.readouterr().out
