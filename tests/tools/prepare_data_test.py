"""The command prepare_data: what its flags become, exit codes, one-line errors."""

import dataclasses
import json
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from keras_gpt.data import DataSource, PackedDataset, PrepareConfig, prepare_data
from keras_gpt.tools import cli
from keras_gpt.tools import prepare_data as tool

LINES = [f"the king {n} is dead {n * n}" for n in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("prepare")
    (folder / "a.txt").write_text("\n".join(LINES))
    rows = [json.dumps({"body": f"my lord {n}"}) for n in range(50)]
    (folder / "b.jsonl").write_text("\n".join(rows))
    tokenizer.save_files(folder / "vocabulary")
    return folder


def arguments(folder, output, *more):
    common = [f"--tokenizer={folder}/vocabulary", "--context_length=8"]
    return ["prepare_data", *common, f"--output={output}", *more]


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_the_command_is_the_function(folder, tokenizer, tmp_path, capsys):
    flags = [
        *(f"--source=one=3:{folder}/*.txt", f"--source=two=0.5:{folder}/b.jsonl"),
        *("--document=line", "--field=body", "--validation_fraction=0.3"),
        *("--num_shards=2", "--segments", "--workers=1"),
    ]
    assert cli.main(arguments(folder, tmp_path / "flags", *flags)) == 0
    output = capsys.readouterr().out
    assert "train: " in output and "0 duplicates dropped" in output
    assert "read 2 of 2 pieces: 250 documents" in output
    content = prepare_data(
        PrepareConfig(
            context_length=8,
            segments=True,
            validation_fraction=0.3,
            num_shards=2,
            field="body",
            document="line",
        ),
        sources=[
            DataSource("one", (f"{folder}/a.txt",), 3.0),
            DataSource("two", (f"{folder}/b.jsonl",), 0.5),
        ],
        tokenizer=tokenizer,
        output_dir=str(tmp_path / "call"),
    )
    assert contents(tmp_path / "flags") == contents(tmp_path / "call")
    assert f"{content['totals']['train']['tokens']:,} tokens" in output


def test_pretrain_takes_tokenizer_and_context_from_the_dataset(folder, tmp_path):
    flags = [f"--input={folder}/a.txt", "--document=line", "--validation_fraction=0.3"]
    assert cli.main(arguments(folder, tmp_path / "dataset", *flags)) == 0
    tiny = ["--size=gpt_nano", "--num_layers=1", "--jit_compile=false", "--steps=2"]
    command = ["pretrain", f"--dataset={tmp_path}/dataset", f"--output={tmp_path}/run"]
    more = ["--warmup_steps=1", "--eval_batches=1", "--sample_tokens=0", *tiny]
    assert cli.main([*command, *more]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["config"]["context_length"] == 8
    packed = PackedDataset(tmp_path / "dataset")
    assert report["config"]["model"]["vocabulary_size"] == packed.vocabulary_size
    assert report["corpus"]["train_tokens"] == packed.num_tokens("train")


def test_every_setting_has_a_flag_with_its_default():
    flags = absl_flags.FlagValues()
    tool.define_flags(flags)
    for field in dataclasses.fields(PrepareConfig):
        if field.name != "context_length":
            assert flags[field.name].default == field.default, field.name


def test_a_process_of_its_own_with_workers(folder, tmp_path):
    """As from a shell: the workers begin from the command's own main module."""
    outputs = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        flags = [f"--input={folder}/a.txt", "--document=line", f"--workers={workers}"]
        command = [sys.executable, "-m", "keras_gpt.tools.cli"]
        process = subprocess.run(
            [*command, *arguments(folder, output, *flags)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        outputs.append(contents(output))
    assert outputs[0] == outputs[1]
    assert PackedDataset(output).num_documents("train") > 150


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 1, "one of the flags --input and --source is required"),
        (["--input=a", "--source=a=1:b"], 1, "one of the flags --input and --source"),
        (["--source=a:b"], 1, "flag --source must be NAME=WEIGHT:PATTERN, got 'a:b'"),
        (["--source=a=x:b"], 1, "flag --source must be NAME=WEIGHT:PATTERN"),
        (["--source=a=1:b", "--source=a=2:c"], 1, "give 'a' one weight, got 1 and 2"),
        (["--input=a", "--runner=cloud"], 1, "flag --runner=cloud"),
        (["--input=/absent/*"], 2, "no file matches '/absent/*'"),
        (["--source=a=-1:b"], 2, "weight of source 'a' must be above 0, got -1.0"),
        (["--input=a", "--context_length=0"], 2, "context_length must be at least 1"),
        (["--input=a", "--tokenizer=/absent"], 2, "/absent"),
        (["--input={folder}/a.txt", "--output={folder}"], 2, "output must be new"),
        (
            ["--input={folder}/a.txt", "--format=jsonl"],
            2,
            "a.txt' line 1 must be a JSON",
        ),
        (["--input={folder}/b.jsonl"], 2, "must have the field 'text', got 'body'"),
    ],
)
def test_errors_are_one_line(folder, tmp_path, capsys, flags, code, message):
    flags = [flag.format(folder=folder) for flag in flags]
    assert cli.main(arguments(folder, tmp_path / "out", *flags)) == code
    error = capsys.readouterr().err
    assert error.startswith("keras-gpt prepare_data: ") and message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out/dataset.json").exists()
