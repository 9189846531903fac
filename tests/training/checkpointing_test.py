"""Tests of whole-or-absent checkpoints."""

import os
import subprocess
import sys
import textwrap
import threading

import keras
import pytest
import tensorflow as tf

from keras_gpt.training import (
    CheckpointError,
    CheckpointManager,
    TrainingState,
    checkpointing,
)
from keras_gpt.training.checkpointing import named_variables


def _save(manager, state):
    manager.save(state)
    manager.wait()


def _manager(directory, value=0.0, keep=2):
    variables = {
        "model/a": keras.Variable([value, value]),
        "optimizer/n": keras.Variable(7, dtype="int64"),
    }
    manager = CheckpointManager(str(directory), variables=variables, keep=keep)
    return manager, variables


def test_restores_values_and_state(tmp_path):
    manager, variables = _manager(tmp_path, 1.5)
    variables["optimizer/n"].assign(8)
    _save(manager, TrainingState(3, validation_loss=2.5, seconds=9.0))
    assert sorted(os.listdir(tmp_path)) == ["step_00000003"]
    other, restored = _manager(tmp_path)
    assert other.restore() == TrainingState(3, validation_loss=2.5, seconds=9.0)
    assert restored["model/a"].numpy().tolist() == [1.5, 1.5]
    assert restored["optimizer/n"].numpy() == 8


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    manager, variables = _manager(tmp_path, 1.0)
    write, may_write = checkpointing._write_values, threading.Event()

    def late(prefix, values):
        may_write.wait(30)
        write(prefix, values)

    monkeypatch.setattr(checkpointing, "_write_values", late)
    manager.save(TrainingState(1))
    variables["model/a"].value.assign_add([5.0, 5.0])
    assert manager.steps() == []
    may_write.set()
    manager.wait()
    other, restored = _manager(tmp_path)
    assert other.restore() == TrainingState(1)
    assert restored["model/a"].numpy().tolist() == [1.0, 1.0]


def test_a_process_that_does_not_write(tmp_path):
    manager, variables = _manager(tmp_path, 1.0)
    _save(manager, TrainingState(1))
    reader = CheckpointManager(str(tmp_path), variables=variables, writes=False)
    assert reader.restore() == TrainingState(1)
    _save(reader, TrainingState(2))
    assert reader.steps() == [1]


def test_nothing_to_restore(tmp_path):
    assert _manager(tmp_path)[0].restore() is None


def test_keeps_the_newest_and_the_best(tmp_path):
    manager, _ = _manager(tmp_path, keep=2)
    for step, loss in [(1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 1.0), (6, 4.0)]:
        _save(manager, TrainingState(step, loss))
    assert manager.steps() == [2, 5, 6]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    ],
)
def test_disk_full_keeps_the_last_checkpoint(tmp_path, monkeypatch, error):
    manager, variables = _manager(tmp_path, 1.0)
    _save(manager, TrainingState(1))
    variables["model/a"].assign([2.0, 2.0])

    def half_write(prefix, values):
        with open(prefix + ".data-00000-of-00001", "wb") as file:
            file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "_write_values", half_write)
        with pytest.raises(
            CheckpointError,
            match="step 2 in .*No space left on device.*last good .*step_00000001",
        ):
            _save(manager, TrainingState(2))
    assert sorted(os.listdir(tmp_path)) == ["step_00000001"]
    other, restored = _manager(tmp_path)
    assert other.restore() == TrainingState(1)
    assert restored["model/a"].numpy().tolist() == [1.0, 1.0]


LIMITED = """
    import resource, sys
    import keras
    import numpy as np
    import tensorflow as tf
    from keras_gpt.training import CheckpointError, CheckpointManager, TrainingState

    weights = keras.Variable(np.zeros([300_000]))
    manager = CheckpointManager(sys.argv[1], variables={"a": weights})
    manager.save(TrainingState(1))
    manager.wait()
    weights.assign(weights + 1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    try:
        manager.save(TrainingState(2))
        manager.wait()
    except CheckpointError as error:
        print(error)
    assert manager.steps() == [1]
    assert manager.restore().step == 1
    assert float(tf.reduce_max(weights.value)) == 0.0
    print("kept")
"""


def test_a_real_failed_write(tmp_path):
    """The system refuses to let any file grow beyond 500 kB."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Cannot write the checkpoint of step 2" in result.stdout
    assert result.stdout.endswith("kept\n")
    assert sorted(os.listdir(tmp_path)) == ["step_00000001"]


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / ".tmp-00000009").mkdir()
    (tmp_path / ".tmp-00000009" / "state.json").write_text("{}")
    manager, _ = _manager(tmp_path)
    assert manager.steps() == [] and os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_broken_newest_falls_back(tmp_path, suffix):
    manager, variables = _manager(tmp_path, 1.0)
    _save(manager, TrainingState(1))
    variables["model/a"].assign([2.0, 2.0])
    _save(manager, TrainingState(2))
    path = tmp_path / "step_00000002" / f"variables.{suffix}"
    path.write_bytes(path.read_bytes()[:-9])
    other, restored = _manager(tmp_path)
    assert other.restore().step == 1
    assert restored["model/a"].numpy().tolist() == [1.0, 1.0]
    older = tmp_path / "step_00000001" / "state.json"
    older.write_text("{")
    with pytest.raises(CheckpointError, match="No checkpoint can be read"):
        other.restore()


def test_other_variables_are_refused(tmp_path):
    _save(_manager(tmp_path)[0], TrainingState(1))
    other = CheckpointManager(str(tmp_path), variables={"b": keras.Variable(1.0)})
    with pytest.raises(CheckpointError, match="No checkpoint can be read"):
        other.restore()


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        _manager(tmp_path, keep=0)


def test_named_variables_numbers_repeats():
    class Fake:
        def __init__(self, path):
            self.path = path

    # The numbers that Keras gives seed generators differ from process to process.
    named = named_variables(
        model=[Fake("seed_generator_7/state"), Fake("seed_generator_8/state")],
        optimizer=[Fake("a")],
    )
    assert {name: variable.path for name, variable in named.items()} == {
        "model/seed_generator/state": "seed_generator_7/state",
        "model/seed_generator/state#2": "seed_generator_8/state",
        "optimizer/a": "a",
    }
