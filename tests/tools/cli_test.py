"""The command line: help, exit codes, and one small run from text to SavedModel."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags as absl_flags

from keras_gpt import GPTCausalLM
from keras_gpt.config import GPTConfig
from keras_gpt.generation import SETTINGS
from keras_gpt.tools import cli, demo, knobs, pretrain
from keras_gpt.training import PretrainConfig

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


@pytest.fixture(scope="module")
def lm(run_folder):
    return GPTCausalLM.from_preset(run_folder / "model")


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


def run_alone(*arguments):
    """Runs the command in a process of its own, as a shell would."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-m", "keras_gpt.tools.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_an_error_is_the_only_line_of_a_process():
    process = run_alone("nonsense")
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    assert "tool must be one of" in process.stderr


def test_interruption_ends_with_130(monkeypatch, capsys):
    def interrupt(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "run", interrupt)
    assert cli.main(["pretrain"]) == 130
    assert capsys.readouterr().err == "keras-gpt pretrain: interrupted\n"


def test_errors_of_tensorflow_are_one_line(monkeypatch, capsys):
    import tensorflow as tf

    def fill_the_disk(flags):
        raise tf.errors.ResourceExhaustedError(None, None, "no space\non device")

    monkeypatch.setattr(pretrain, "run", fill_the_disk)
    assert cli.main(["pretrain"]) == 2
    assert capsys.readouterr().err == "keras-gpt pretrain: no space on device\n"


def test_faults_of_the_program_are_not_hidden(monkeypatch):
    def stumble(flags):
        raise TypeError("a fault")

    monkeypatch.setattr(pretrain, "run", stumble)
    with pytest.raises(TypeError, match="a fault"):
        cli.main(["pretrain"])


def parsed(*arguments):
    flags = absl_flags.FlagValues()
    pretrain.define_flags(flags)
    flags(["pretrain", *arguments])
    return flags


def test_pretrain_has_a_flag_for_every_setting():
    names = set(parsed())
    run = {field.name for field in dataclasses.fields(PretrainConfig)} - {"model"}
    model = {field.name for field in dataclasses.fields(GPTConfig)}
    assert run <= names
    assert model - {"max_sequence_length"} <= names  # that is --context_length


def test_pretrain_flags_reach_the_config():
    config = pretrain.pretrain_config(
        parsed(
            *["--size=gpt_char", "--num_heads=2", "--hidden_dim=64", "--use_bias"],
            *["--context_length=32", "--activation=relu", "--nonormalize_first"],
            *["--steps=7", "--warmup_steps=3", "--beta_2=0.5", "--clip_norm=0"],
            *["--eval_batches=0", "--jit_compile=false", "--seed=9"],
            *["--learning_rate=0.01", "--min_learning_rate=0.002"],
            *["--initializer_stddev=0.03"],
        ),
        vocabulary_size=77,
    )
    assert config.model == GPTConfig(
        vocabulary_size=77,
        num_layers=4,
        num_heads=2,
        hidden_dim=64,
        max_sequence_length=32,
        dropout=0.0,
        activation="relu",
        normalize_first=False,
        initializer_stddev=0.03,
    )
    assert (config.steps, config.warmup_steps, config.seed) == (7, 3, 9)
    assert (config.learning_rate, config.min_learning_rate) == (0.01, 0.002)
    assert (config.beta_2, config.jit_compile) == (0.5, False)
    assert config.clip_norm is None and config.eval_batches is None
    assert config.context_length == 32


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 1, "tool must be one of"),
        (["pretrain", "--nonsense=1"], 1, "Unknown command line flag 'nonsense'"),
        (["pretrain", "--steps=many"], 1, "flag --steps=many"),
        (["generate", "stray"], 1, "unexpected argument 'stray'"),
        (["pretrain", "--output=x"], 1, "flag --input or --dataset is required"),
        (["generate", "--model=/absent"], 2, "got '/absent'"),
        (["export", "--model=/absent", "--output=x"], 2, "preset must be a directory"),
        (
            ["export", "--model=x", "--output=x", "--batch_sizes=1,two"],
            1,
            "flag --batch_sizes must be whole numbers, got '1,two'.",
        ),
        (["prepare_data", "--input=a"], 1, "flag --tokenizer is required"),
        (["demo", "--corpus=/absent/*.txt"], 2, "no file matches '/absent/*.txt'"),
        (["benchmark", "fly"], 1, "'fly'; it must be of train, tokenize"),
        (["benchmark", "train", "--config=xl"], 1, "flag --config=xl"),
        (["benchmark", "--rounds=0"], 2, "rounds must be at least 1, got 0"),
        (
            ["pretrain", "--input=a", "--output=b", "--tokenizer=c"]
            + ["--vocabulary_size=300"],
            1,
            "--tokenizer has one",
        ),
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


def test_generate_continues_prompts(run_folder, lm, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=5", "--seed=3"]
    assert cli.main(["generate", *arguments, "--prompt=Line", "--prompt=of"]) == 0
    found = capsys.readouterr().out
    assert found.startswith("Line")
    texts = lm.generate(["Line", "of"], max_new_tokens=5, seed=3)
    assert found == "".join(text + "\n" for text in texts)


def test_generate_by_beams(run_folder, lm, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=5", "--num_beams=3"]
    assert cli.main(["generate", *arguments, "--prompt=Line"]) == 0
    expected = lm.generate("Line", max_new_tokens=5, num_beams=3)
    assert capsys.readouterr().out == expected + "\n"
    assert cli.main(["generate", *arguments, "--prompt=Line", "--top_k=2"]) == 2
    assert "top_k must not be given with num_beams=3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--stop_string=e", "--stop_string=1"], {"stop_strings": ["e", "1"]}),
        (["--bad_word=Line", "--temperature=2"], {"bad_words": ["Line"]}),
        (["--draft=prompt_lookup", "--num_draft_tokens=3"], {}),
        (["--num_beams=4", "--num_beam_groups=2", "--diversity_penalty=1"], None),
        (["--penalty_alpha=0.6", "--top_k=3"], None),
        (["--best_of=4", "--num_return_sequences=2"], None),
        (["--sliding_window"], {}),
    ],
)
def test_generate_passes_its_options_on(run_folder, lm, capsys, flags, options):
    model = f"--model={run_folder}/model"
    given = dict(flag.removeprefix("--").split("=") for flag in flags if "=" in flag)
    if options is None:
        options = {k: float(v) if "." in v else int(v) for k, v in given.items()}
        options["num_return_sequences"] = options.get("num_return_sequences", 1)
        if "diversity_penalty" in options:
            options["diversity_penalty"] = 1.0
    if not {"num_beams", "penalty_alpha"} & set(options):
        flags, options = [*flags, "--seed=3"], {**options, "seed": 3}
        options["temperature"] = float(given.get("temperature", 1.0))
    command = ["generate", model, "--max_new_tokens=9", "--prompt=Line", *flags]
    assert cli.main(command) == 0
    expected = lm.generate("Line", max_new_tokens=9, **options)
    texts = expected if isinstance(expected, list) else [expected]
    assert capsys.readouterr().out == "".join(text + "\n" for text in texts)


def test_generate_streams(run_folder, lm, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=9", "--seed=3"]
    assert cli.main(["generate", *arguments, "--prompt=Line", "--stream"]) == 0
    whole = lm.generate("Line", max_new_tokens=9, seed=3, strip_prompt=True)
    assert capsys.readouterr().out == whole + "\n"
    both = ["--prompt=Line", "--prompt=of", "--stream"]
    assert cli.main(["generate", *arguments, *both]) == 1
    assert "--stream takes one --prompt, got 2" in capsys.readouterr().err


def test_generate_drafts_with_a_model(run_folder, lm, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=9", "--seed=3"]
    plain = lm.generate("Line", max_new_tokens=9, seed=3) + "\n"
    draft = f"--draft={run_folder}/model"
    assert cli.main(["generate", *arguments, "--prompt=Line", draft]) == 0
    assert capsys.readouterr().out == plain


def test_generate_truncates_when_asked(run_folder, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=2"]
    long = "--prompt=" + "Line of text " * 200
    assert cli.main(["generate", *arguments, long]) == 2
    assert "must be shorter than the context" in capsys.readouterr().err
    assert cli.main(["generate", *arguments, long, "--truncate=left"]) == 0
    assert capsys.readouterr().out.startswith("Line of text")


def test_generate_reads_standard_input(run_folder, lm, monkeypatch, capsys):
    arguments = [f"--model={run_folder}/model", "--max_new_tokens=5", "--seed=3"]
    text = lm.generate("Line 1", max_new_tokens=5, seed=3) + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Line 1"))
    assert cli.main(["generate", *arguments]) == 0
    assert capsys.readouterr().out == text
    assert cli.main(["generate", *arguments, "--prompt=Line 1", "--strip_prompt"]) == 0
    assert "Line 1" + capsys.readouterr().out == text


def test_evaluate_equals_a_plain_sum(run_folder, tmp_path, capsys):
    text = TEXT[:700] + "caf\u00e9"
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    arguments = [f"--model={run_folder}/model", f"--input={path}", "--batch_size=3"]
    assert cli.main(["evaluate", *arguments]) == 0
    numbers = [
        float(word) for word in capsys.readouterr().out.split() if word[0].isdigit()
    ]
    total, count = _plain_loss(run_folder / "model", text)
    expected = [
        total / count,
        count,
        math.exp(total / count),
        math.exp(total / len(text.encode("utf-8"))),
    ]
    np.testing.assert_allclose(numbers, expected, rtol=1e-3)


def _plain_loss(model, text, context=32):
    """Sums next-token losses over neighbouring windows, one at a time."""
    from keras_gpt import GPTCausalLM

    lm = GPTCausalLM.from_preset(str(model))
    ids = lm.preprocessor.tokenizer.tokenize(text).numpy()
    total = 0.0
    for start in range(0, len(ids) - 1, context):
        window = ids[start : start + context + 1]
        hidden = lm.backbone.forward(window[None, :-1]).hidden
        logits = lm.backbone.logits(hidden).numpy()[0].astype(np.float64)
        log_sums = np.log(np.exp(logits).sum(axis=-1))
        total += float(np.sum(log_sums - logits[np.arange(len(logits)), window[1:]]))
    return total, len(ids) - 1


def test_export_fixes_what_its_flags_say(run_folder, tmp_path, capsys):
    arguments = [f"--model={run_folder}/model", f"--output={tmp_path}/served"]
    arguments += ["--max_new_tokens=4", "--storage_dtype=bfloat16", "--model_name=tiny"]
    arguments += ["--stop_string=x", "--bad_word=y", "--speculative", "--temperature=0"]
    arguments += ["--batch_sizes=1,3", "--chat_template=plain", "--version=7"]
    assert cli.main(["export", *arguments]) == 0
    folder = tmp_path / "served/7"
    assert (folder / "saved_model.pb").exists()
    card = json.loads((folder / "assets.extra/model_card.json").read_text())
    assert card["defaults"]["stop_strings"] == ["x"]
    assert card["defaults"]["bad_words"] == ["y"]
    assert card["defaults"]["temperature"] == 0.0
    assert card["export_options"]["storage_dtype"] == "bfloat16"
    assert card["export_options"]["draft"] == "'prompt_lookup'"
    assert card["export_options"]["batch_sizes"] == [1, 3]
    assert "chat" in card["signatures"]
    assert 'name: "tiny"' in (tmp_path / "served/models.config").read_text()
    assert cli.main(["export", *arguments]) == 2
    assert "version must be new" in capsys.readouterr().err


def test_export_to_tflite(run_folder, corpus, tmp_path, capsys):
    path = tmp_path / "model.tflite"
    arguments = [f"--model={run_folder}/model", f"--output={path}", "--format=tflite"]
    wrong = [
        (["--temperature=0.5"], "flag --temperature must be left out with --format=t"),
        (["--version=2"], "flag --version must be left out"),
        (["--prefill_lengths=8,x"], "flag --prefill_lengths must be whole numbers"),
        (["--context_length=1"], "context_length must be an integer in [2, "),
        (["--text_file=/absent"], "/absent"),
        (["--format=saved_model", "--quantization=float16"], "flag --quantization"),
    ]
    for more, message in wrong:
        assert cli.main(["export", *arguments, *more]) in (1, 2)
        assert message in capsys.readouterr().err
    arguments += ["--quantization=dynamic_int8", f"--text_file={corpus}"]
    arguments += ["--prefill_lengths=8", "--context_length=16"]
    assert cli.main(["export", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "perplexity" in printed and str(path) in printed
    assert path.stat().st_size > 1000


def test_generate_by_a_tflite_file(run_folder, tmp_path, capsys):
    model, path = f"--model={run_folder}/model", tmp_path / "model.tflite"
    export = ["export", model, f"--output={path}", "--format=tflite"]
    assert cli.main(export) == 0
    capsys.readouterr()
    arguments = ["generate", model, "--prompt=Line", "--prompt=of", "--seed=3"]
    assert cli.main(arguments) == 0
    want = capsys.readouterr().out
    assert cli.main([*arguments, f"--tflite={path}"]) == 0
    assert capsys.readouterr().out == want
    stream = ["generate", model, "--prompt=Line", "--seed=3", "--stream"]
    assert cli.main(stream) == 0
    want = capsys.readouterr().out
    assert cli.main([*stream, f"--tflite={path}"]) == 0
    assert capsys.readouterr().out == want
    assert cli.main([*arguments, f"--tflite={run_folder}/absent"]) == 2
    assert "path must be a TFLite file" in capsys.readouterr().err
    assert cli.main(["generate", "--target=a:1", f"--tflite={path}"]) == 1
    assert "flag --tflite goes with --model" in capsys.readouterr().err


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


def test_demo_spares_a_folder_that_looks_like_its_own(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("mine")
    assert cli.main(["demo", f"--output={tmp_path}"]) == 2
    assert "holds model" in capsys.readouterr().err
    assert (tmp_path / "model/weights").read_text() == "mine"


def test_demo_makes_its_own_folder_afresh(tmp_path, capsys):
    output, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    arguments = ["demo", f"--output={output}", "--vocabulary_size=1"]  # fails later
    assert cli.main(arguments) == 2
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (output / "run").mkdir()
    (output / "run/old").touch()
    (output / "model").symlink_to(elsewhere)
    (output / ".report.json").touch()
    assert cli.main(arguments) == 2
    assert "vocabulary_size must be at least" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {demo.MARKER, "corpus.txt"}
    assert (elsewhere / "kept").exists()
    (output / "notes.txt").write_text("mine")
    assert cli.main(arguments) == 2
    assert "holds notes.txt" in capsys.readouterr().err
    assert (output / "notes.txt").exists() and (output / "corpus.txt").exists()


def test_demo_refuses_a_file(tmp_path, capsys):
    (tmp_path / "demo").write_text("mine")
    assert cli.main(["demo", f"--output={tmp_path}/demo"]) == 2
    assert "output must be a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_goes_all_the_way(corpus, tmp_path, monkeypatch):
    output, make = tmp_path / "demo", demo._config

    def small(*arguments):
        whole = make(*arguments)
        model = dataclasses.replace(whole.model, num_layers=1)
        return dataclasses.replace(whole, model=model, jit_compile=False)

    monkeypatch.setattr(demo, "_config", small)
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


def test_benchmark_tokenize_agrees_with_the_peer(run_folder, corpus, tmp_path, capsys):
    vocabulary = run_folder.parent / "vocabulary"
    files = [
        f"--input={corpus}",
        f"--vocabulary={vocabulary}/vocab.json",
        f"--merges={vocabulary}/merges.txt",
        f"--json={tmp_path}/result.json",
    ]
    assert cli.main(["benchmark", "tokenize", "--rounds=1", *files]) == 0
    assert "ids equal those of tokenizers: yes" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())["tokenize"]
    speeds = result["megabytes_per_second"]
    assert result["ids_equal"] is True
    assert result["ratio"] == pytest.approx(speeds["keras_gpt"] / speeds["kerashub"])


def test_generate_and_export_have_a_flag_for_every_setting():
    assert {*knobs.INTEGERS, *knobs.NUMBERS, "seed"} == set(SETTINGS)
    for name, (default, _) in {**knobs.INTEGERS, **knobs.NUMBERS}.items():
        assert default == SETTINGS[name].default
