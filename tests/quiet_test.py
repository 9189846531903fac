"""Start-up messages are dropped, everything else is kept, also when imports fail."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from keras_gpt_quiet import quiet_start
try:
    with quiet_start():
        os.write(2, b"I0000 00:00:17.0 9 port.cc:153] oneDNN is on.\\n")
        os.write(2, b"W0000 00:00:17.0 9 port.cc:153] A warning.\\n")
        {then}
except ImportError:
    pass
print("last", file=sys.stderr)
"""


def run(tmp_path, then="pass", *, program=PROGRAM, **environment):
    # The module alone, under another name: its package would import tensorflow.
    source = os.path.join(os.path.dirname(__file__), "../keras_gpt/quiet.py")
    with open(source) as file:
        (tmp_path / "keras_gpt_quiet.py").write_text(file.read())
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    process = subprocess.run(
        [sys.executable, "-c", program.format(then=then)],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[0] for line in process.stderr.splitlines()]


def test_only_start_up_messages_are_dropped(tmp_path):
    assert run(tmp_path) == ["W0000", "last"]


@pytest.mark.parametrize(
    ("then", "environment"),
    [
        ("raise ImportError", {}),
        ("pass", {"TF_CPP_MIN_LOG_LEVEL": "0"}),
    ],
)
def test_all_is_shown_on_failure_or_request(tmp_path, then, environment):
    assert run(tmp_path, then, **environment) == ["I0000", "W0000", "last"]


def test_level_is_set_only_where_it_was_not(tmp_path):
    show = "os.write(2, os.environ['TF_CPP_MIN_LOG_LEVEL'].encode() + b'\\n')"
    assert "3" in run(tmp_path, show)
    assert "2" in run(tmp_path, show, TF_CPP_MIN_LOG_LEVEL="2")


def test_tensorflow_imported_before_is_left_alone(tmp_path):
    (tmp_path / "tensorflow.py").write_text("")
    lines = run(tmp_path, program=PROGRAM.replace("import os", "import tensorflow, os"))
    assert lines == ["I0000", "W0000", "last"]
