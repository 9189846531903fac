"""The exported model where there is no Python, and where TensorFlow is older."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from keras_gpt.export import export_saved_model, verify
from keras_gpt.export.weights import rounded

PROGRAM = Path(__file__).parents[1] / "testdata" / "run_saved_model.cc"
LINES = ["The king", "", "O my lord, say nay", "caf\u00e9 \u4e2d\u6587"]
# What TensorFlow Serving's newest server is made of.
OLDER_TENSORFLOW = "tensorflow-cpu==2.20.0"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A C++ program on the headers and libraries of the installed TensorFlow."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is absent: there is no C++ compiler.")
    path = tmp_path_factory.mktemp("cpp") / "run_saved_model"
    library = tf.sysconfig.get_lib()
    command = [
        *("g++", "-std=c++17", "-w", "-O0", "-o", str(path), str(PROGRAM)),
        *tf.sysconfig.get_compile_flags(),
        *(f"-L{library}", f"-Wl,-rpath,{library}"),
        *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
    ]
    subprocess.run(command, check=True)  # noqa: S603
    return path


def run_cpp(program, folder, output, lines=LINES):
    process = subprocess.run(  # noqa: S603
        [program, folder, "generate", output],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.split("\n")[:-1]


def escaped(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n")


@pytest.mark.slow
def test_cpp_without_python_or_xla_generates_the_same(program, exported, causal_lm):
    expected = causal_lm.generate(
        LINES, max_new_tokens=7, temperature=0.5, seed=9, strip_prompt=True
    )
    got = run_cpp(program, exported, "generated_text")
    assert got == [escaped(text) for text in expected]
    assert set(run_cpp(program, exported, "finish_reason")) <= {"length", "stop"}
    links = subprocess.run(  # noqa: S603
        ["ldd", program],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    assert "libpython" not in links.stdout


@pytest.mark.slow
def test_cpp_casts_weights_that_are_stored_small(program, causal_lm, tmp_path):
    options = {"max_new_tokens": 9, "temperature": 0.0, "draft": "prompt_lookup"}
    folder = export_saved_model(
        causal_lm, tmp_path, storage_dtype="bfloat16", batch_sizes=[1], **options
    )
    with rounded(causal_lm.backbone, "bfloat16"):
        expected = causal_lm.generate(LINES, strip_prompt=True, **options)
    got = run_cpp(program, folder, "generated_text")
    assert got == [escaped(text) for text in expected]


@pytest.fixture(scope="module")
def older_python(tmp_path_factory):
    """The interpreter of an environment that has an older TensorFlow and no more."""
    folder = tmp_path_factory.mktemp("older") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603
    python = folder / "bin" / "python"
    install = subprocess.run(  # noqa: S603
        [python, "-m", "pip", "install", "-q", "--no-cache-dir", OLDER_TENSORFLOW],
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode:
        pytest.skip(f"{OLDER_TENSORFLOW} could not be installed here.")
    yield str(python)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_an_older_tensorflow_gives_the_same_tokens(older_python, exported, causal_lm):
    knobs = {"temperature": [0.0, 1.0, 0.7, 0.9], "seed": [1, 2, 3, 4]}
    knobs |= {"max_new_tokens": [30] * 4}
    inputs = {"text": LINES, **knobs}
    calls = [
        {"signature": "generate", "inputs": inputs},
        {"signature": "serving_default", "inputs": {"text": LINES}},
        {"signature": "prefill", "inputs": inputs, "max_tokens": 4},
    ]
    generated, served, streamed = verify.run_in_fresh_process(
        exported, calls, python=older_python
    )
    here = causal_lm.generate(LINES, strip_prompt=True, return_details=True, **knobs)
    ids = [row.tolist() for row in here.token_ids]
    counts = generated["num_tokens"]
    assert counts == [len(row) for row in ids]
    found = zip(generated["token_ids"], counts, strict=True)
    assert [row[:count] for row, count in found] == streamed["token_ids"] == ids
    assert generated["generated_text"] == streamed["text"] == here.text
    reasons = here.finish_reason
    assert generated["finish_reason"] == streamed["finish_reason"] == reasons
    assert served["generated_text"] == causal_lm.generate(
        LINES, max_new_tokens=7, temperature=0.5, seed=9, strip_prompt=True
    )
