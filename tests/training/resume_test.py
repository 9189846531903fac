"""Runs that are killed, restarted and moved to other devices go on as if never."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.free_addresses import free_addresses

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40
STEPS = 60

# Runs the command line; argv[1] says where it kills itself: at the line of a step, some
# time after the first one, within the write of a checkpoint, or around its renaming.
COMMAND = """
    import os, random, signal, sys, threading

    from keras_gpt.tools import cli
    from keras_gpt.training import checkpointing

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    place, number = sys.argv[1].split(":")
    rng = random.Random(int(number))
    if place == "step":
        write = sys.stdout.write

        def watch(text):
            if text.startswith(f"step {number}/"):
                die()
            return write(text)

        sys.stdout.write = watch
    elif place == "time":
        started = threading.Event()
        write = sys.stdout.write

        def watch(text):
            if "loss" in text and not started.is_set():
                started.set()
                threading.Timer(rng.uniform(0.0, 0.3), die).start()
            return write(text)

        sys.stdout.write = watch
    elif place == "write":
        values = checkpointing._write_values

        def killed(prefix, tensors):
            if rng.random() < 0.5:
                values(prefix, dict(list(tensors.items())[:3]))
                die()
            values(prefix, tensors)

        checkpointing._write_values = killed
    elif place == "rename":
        replace = os.replace

        def killed(source, target):
            if "step_" in target and rng.random() < 0.5:
                if rng.random() < 0.5:
                    replace(source, target)
                die()
            replace(source, target)

        os.replace = killed
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(TEXT)
    return str(path)


def _start(corpus, output, *flags, place="none:0", environ=None):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(COMMAND), place, "pretrain"),
            *(f"--input={corpus}", f"--output={output}", "--tokenizer_kind=char"),
            *("--noend_token", "--size=gpt_nano", "--num_layers=1", "--dropout=0.1"),
            *("--context_length=16", "--batch_size=4", f"--steps={STEPS}"),
            *("--warmup_steps=2", "--eval_every=20", "--eval_batches=2"),
            *("--checkpoint_every=3", "--log_every=2", "--sample_tokens=0"),
            *("--jit_compile=false", "--vocabulary_multiple=2", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )


def _finish(process, code=0):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == code, output[-1000:] + errors[-3000:]
    return output


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "run"
    _finish(_start(corpus, output))
    return output


def _losses(output):
    lines = (output / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _assert_close(output, unbroken):
    there, here = _losses(unbroken), _losses(output)
    assert [(r["kind"], r["step"]) for r in here] == [
        (r["kind"], r["step"]) for r in there
    ]
    np.testing.assert_allclose(
        [r["loss"] for r in here], [r["loss"] for r in there], atol=1e-4, rtol=0
    )


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments(corpus, unbroken, tmp_path):
    rng = random.Random(0)
    output = tmp_path / "run"
    kills = 0
    for place in ["write", "time", "rename"] * 2:
        process = _start(corpus, output, place=f"{place}:{rng.randrange(10**6)}")
        process.communicate(timeout=600)
        assert process.returncode in (0, -signal.SIGKILL)
        if process.returncode == 0:
            break
        kills += 1
    _finish(_start(corpus, output))
    assert kills >= 5
    # To the last bit, whatever was lost on the way.
    assert (output / "losses.jsonl").read_bytes() == (
        unbroken / "losses.jsonl"
    ).read_bytes()
    assert not [name for name in os.listdir(output) if name.startswith(".tmp-")]


@pytest.fixture(scope="module")
def broken(corpus, tmp_path_factory):
    """What a run leaves that was killed at step 40."""
    output = tmp_path_factory.mktemp("broken") / "run"
    _finish(_start(corpus, output, place="step:40"), code=-signal.SIGKILL)
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy=mirrored", "--devices=2", "--accumulate=2"],
        ["--strategy=mesh", "--mesh=batch:2,model:2"],
    ],
    ids=["mirrored", "mesh"],
)
def test_a_run_moves_to_other_devices(corpus, unbroken, broken, tmp_path, flags):
    output = shutil.copytree(broken, tmp_path / "run")
    assert "Resuming" in _finish(_start(corpus, output, *flags))
    _assert_close(output, unbroken)


def _start_worker(corpus, output, addresses, index):
    return _start(
        corpus,
        output,
        "--strategy=multi_worker",
        f"--workers={','.join(addresses)}",
        "--worker_timeout=100",
        environ={"JOB_COMPLETION_INDEX": str(index)},
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_a_worker_is_killed_and_started_again(corpus, unbroken, tmp_path):
    output, addresses = tmp_path / "run", free_addresses(2)
    chief, worker = (_start_worker(corpus, output, addresses, i) for i in range(2))
    try:
        _wait_for_checkpoint(output, chief)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        # What restarts containers starts that one alone again.
        worker = _start_worker(corpus, output, addresses, 1)
        text = _finish(chief)
        _finish(worker)
    finally:
        chief.kill()
        worker.kill()
    assert "Starting again (1 of 10)." in text and "Resuming" in text
    _assert_close(output, unbroken)


def _wait_for_checkpoint(output, process):
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (output / "checkpoints").is_dir() and any(
            name.startswith("step_") for name in os.listdir(output / "checkpoints")
        ):
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint was written")
