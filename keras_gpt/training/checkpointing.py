"""Checkpoints that are whole or absent, written while training goes on.

A checkpoint is a directory `step_00000500`, written under a temporary name, flushed
to the disk and then renamed: whoever finds it under its own name finds all of it. Its
values are in TensorFlow's checkpoint format under the names of `named_variables`, each
with a checksum; they do not depend on the strategy of the run that wrote them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.whole_files import TEMPORARY, flush, flush_directory

_NAME = re.compile(r"step_(\d{8,})")
_SEED_NUMBER = re.compile(r"(?<=seed_generator)_\d+")
_VARIABLES = "variables"  # prefix of the checkpoint's files
_STATE = "state.json"

# What TensorFlow raises for a missing, cut or foreign checkpoint.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    AssertionError,
    tf.errors.OpError,
)


class CheckpointError(OSError):
    """A checkpoint could not be written or read."""


class TrainingState(NamedTuple):
    """What a checkpoint holds beside the variables.

    Attributes:
        step: int. Steps done.
        validation_loss: float or None. Nats per token at this very step, if it was
            evaluated.
        seconds: float. Time spent training so far.
    """

    step: int
    validation_loss: float | None = None
    seconds: float = 0.0


def named_variables(**groups: Any) -> dict[str, Any]:
    """Maps "group/path" to Keras variable, for checkpoints.

    Args:
        **groups: name to list of Keras variables, such as `model=backbone.variables`.

    Returns:
        Dict; a path that occurs twice in a group gets its number as a suffix.
    """
    variables: dict[str, Any] = {}
    for group, members in groups.items():
        for member in members:
            # Keras numbers seed generators through the whole process; their order
            # in a model is what stays.
            path = key = f"{group}/{_SEED_NUMBER.sub('', member.path)}"
            repeat = 1
            while key in variables:
                repeat += 1
                key = f"{path}#{repeat}"
            variables[key] = member
    return variables


class CheckpointManager:
    """Writes, finds and prunes the checkpoints of one run.

    Args:
        directory: string. Holds the checkpoints; made if missing.
        variables: path to Keras variable, everything that training changes.
        keep: int, at least 1. How many of the newest to keep; the one with the
            lowest validation loss is kept besides. Defaults to 2.
        read: function of a variable to its value now, which stays what it is while
            training goes on. Defaults to reading the variable itself.
        writes: bool. Whether this process writes; the others only restore. Defaults
            to True.

    Raises:
        ValueError: if `keep` is not positive.
    """

    def __init__(
        self,
        directory: str,
        *,
        variables: Mapping[str, Any],
        keep: int = 2,
        read: Callable[[Any], Any] | None = None,
        writes: bool = True,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}.")
        self.directory = directory
        self._keep = keep
        self._variables = dict(variables)
        self._read = read or (lambda variable: variable.value.read_value())
        self._writes = writes
        self._writer: threading.Thread | None = None
        self._error: CheckpointError | None = None
        if not writes:
            return
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(directory):
            if name.startswith(TEMPORARY):  # what a killed run left
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps that have a whole checkpoint, ascending."""
        if not os.path.isdir(self.directory):
            return []
        found = (_NAME.fullmatch(name) for name in os.listdir(self.directory))
        return sorted(
            int(match[1])
            for match in found
            if match and os.path.isfile(os.path.join(self.path(int(match[1])), _STATE))
        )

    def path(self, step: int) -> str:
        """Returns the directory of a step's checkpoint."""
        return os.path.join(self.directory, f"step_{step:08d}")

    def save(self, state: TrainingState) -> None:
        """Writes the values of now and `state`, in the background.

        An earlier checkpoint still being written is waited for. Afterwards what is
        no longer kept is removed.

        Raises:
            CheckpointError: if the one before could not be written.
        """
        self.wait()
        if not self._writes:
            return
        values = {name: self._read(v) for name, v in self._variables.items()}
        self._writer = threading.Thread(target=self._write, args=(values, state))
        self._writer.start()

    def wait(self) -> None:
        """Returns when what was saved is on the disk.

        Raises:
            CheckpointError: if it could not be written (disk full, say). The earlier
                checkpoints stay as they are.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, values: Mapping[str, Any], state: TrainingState) -> None:
        final = self.path(state.step)
        temporary = os.path.join(self.directory, f"{TEMPORARY}{state.step:08d}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            os.makedirs(temporary)
            _write_values(os.path.join(temporary, _VARIABLES), values)
            with open(os.path.join(temporary, _STATE), "w", encoding="utf-8") as file:
                json.dump(state._asdict(), file)
            flush_directory(temporary)
            if os.path.exists(final):
                shutil.rmtree(final)
            os.replace(temporary, final)
            flush(self.directory)
            self._prune()
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._error = CheckpointError(self._failure(state.step, error))
            self._error.__cause__ = error

    def restore(self) -> TrainingState | None:
        """Loads the newest checkpoint that can be read.

        Returns:
            Its `TrainingState`, or None when there is no checkpoint.

        Raises:
            CheckpointError: if there are checkpoints but none can be read.
        """
        failures = []
        for step in reversed(self.steps()):
            try:
                return self._restore(step)
            except _UNREADABLE as error:
                failures.append(f"{self.path(step)}: {_reason(error)}")
        if failures:
            raise CheckpointError("No checkpoint can be read. " + " ".join(failures))
        return None

    def restore_best(self) -> TrainingState:
        """Loads the checkpoint with the lowest validation loss, or else the newest.

        Raises:
            CheckpointError: if it cannot be read.
        """
        states = [self.state(step) for step in self.steps()]
        rated = [state for state in states if state.validation_loss is not None]
        best = min(rated, key=_loss_and_step) if rated else states[-1]
        try:
            return self._restore(best.step)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{self.path(best.step)} cannot be read: {_reason(error)}"
            ) from error

    def state(self, step: int) -> TrainingState:
        """Returns what the checkpoint of `step` holds beside the variables."""
        with open(os.path.join(self.path(step), _STATE), encoding="utf-8") as file:
            return TrainingState(**json.load(file))

    def _restore(self, step: int) -> TrainingState:
        state = self.state(step)
        reader = tf.train.load_checkpoint(os.path.join(self.path(step), _VARIABLES))
        there, here = set(reader.get_variable_to_shape_map()), set(self._variables)
        if there != here:
            raise ValueError(
                f"it must hold the {len(here)} variables of this run, but "
                f"{min(there ^ here)} is in one of the two alone"
            )
        # All are read, and their checksums checked, before any is changed.
        values = {name: reader.get_tensor(name) for name in self._variables}
        for name, variable in self._variables.items():
            variable.assign(values[name])
        return state

    def _prune(self) -> None:
        steps = self.steps()
        states = [self.state(step) for step in steps]
        rated = [state for state in states if state.validation_loss is not None]
        kept = set(steps[-self._keep :])
        if rated:
            kept.add(min(rated, key=_loss_and_step).step)
        for step in set(steps) - kept:
            shutil.rmtree(self.path(step), ignore_errors=True)

    def last_good(self) -> str:
        """Returns a sentence that names the newest checkpoint."""
        steps = self.steps()
        if not steps:
            return "There is no earlier checkpoint."
        return f"The last good checkpoint is {self.path(steps[-1])}."

    def _failure(self, step: int, error: Exception) -> str:
        return (
            f"Cannot write the checkpoint of step {step} in {self.directory!r}: "
            f"{_reason(error)}. {self.last_good()}"
        )


def _loss_and_step(state: TrainingState) -> tuple[Any, int]:
    return state.validation_loss, state.step


def _write_values(prefix: str, values: Mapping[str, Any]) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
