"""A directory belongs to one run, and to one process at a time."""

import subprocess
import sys

import pytest

from keras_gpt.training.run_directory import RunDirectory

IDENTITY = {"config": {"steps": 3}, "corpus": {"sha256": "a"}}

HOLD = """
import sys
from keras_gpt.training.run_directory import RunDirectory
with RunDirectory(sys.argv[1], identity={}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_same_run_is_found_again(tmp_path):
    path = str(tmp_path / "run")
    with RunDirectory(path, identity=IDENTITY) as first:
        assert first.report() is None
    with RunDirectory(path, identity=IDENTITY) as again:
        assert again.run_file == first.run_file


def test_another_run_is_named_by_its_differences(tmp_path):
    RunDirectory(str(tmp_path), identity=IDENTITY)
    other = {"config": {"steps": 4}, "corpus": {"sha256": "a"}}
    with pytest.raises(ValueError, match="config.steps is 3 there and 4 now"):
        RunDirectory(str(tmp_path), identity=other)


def test_files_of_others_are_named(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match=r"must be empty .* thesis\.txt"):
        RunDirectory(str(tmp_path), identity=IDENTITY)


def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    path = str(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process runs in"):
            with RunDirectory(path, identity={}):
                pass
        process.kill()
    with RunDirectory(path, identity={}) as directory:
        assert directory.report() is None
