"""Checkpoints that are whole or absent.

A checkpoint is a directory `step_00000500`, written under a temporary name, flushed
to the disk and then renamed: whoever finds it under its own name finds all of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

_NAME = re.compile(r"step_(\d{8,})")
_SEED_NUMBER = re.compile(r"(?<=seed_generator)_\d+")
_TEMPORARY = ".tmp-"
_VARIABLES = "variables"  # prefix of the tf.train.Checkpoint files
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
    """Maps "group/path" to variable, for checkpoints.

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
            variables[key] = member.value
    return variables


class CheckpointManager:
    """Writes, finds and prunes the checkpoints of one run.

    Args:
        directory: string. Holds the checkpoints; made if missing.
        variables: path to `tf.Variable`, everything that training changes.
        keep: int, at least 1. How many of the newest to keep; the one with the
            lowest validation loss is kept besides. Defaults to 2.

    Raises:
        ValueError: if `keep` is not positive.
    """

    def __init__(
        self, directory: str, *, variables: Mapping[str, tf.Variable], keep: int = 2
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}.")
        self.directory = directory
        self._keep = keep
        self._checkpoint = tf.train.Checkpoint(variables=dict(variables))
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(directory):
            if name.startswith(_TEMPORARY):  # what a killed run left
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps that have a whole checkpoint, ascending."""
        found = (_NAME.fullmatch(name) for name in os.listdir(self.directory))
        return sorted(
            int(match[1])
            for match in found
            if match and os.path.isfile(os.path.join(self.path(int(match[1])), _STATE))
        )

    def path(self, step: int) -> str:
        """Returns the directory of a step's checkpoint."""
        return os.path.join(self.directory, f"step_{step:08d}")

    def save(self, state: TrainingState) -> str:
        """Writes the variables and `state`; then removes what is no longer kept.

        Returns:
            The checkpoint's directory.

        Raises:
            CheckpointError: if it cannot be written (disk full, say). The earlier
                checkpoints stay as they are.
        """
        final = self.path(state.step)
        temporary = os.path.join(self.directory, f"{_TEMPORARY}{state.step:08d}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            os.makedirs(temporary)
            self._checkpoint.write(os.path.join(temporary, _VARIABLES))
            with open(os.path.join(temporary, _STATE), "w", encoding="utf-8") as file:
                json.dump(state._asdict(), file)
            flush_directory(temporary)
            if os.path.exists(final):
                shutil.rmtree(final)
            os.replace(temporary, final)
            _flush(self.directory)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._failure(state.step, error)) from error
        self._prune()
        return final

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

    def state(self, step: int) -> TrainingState:
        """Returns what the checkpoint of `step` holds beside the variables."""
        with open(os.path.join(self.path(step), _STATE), encoding="utf-8") as file:
            return TrainingState(**json.load(file))

    def _restore(self, step: int) -> TrainingState:
        state = self.state(step)
        prefix = os.path.join(self.path(step), _VARIABLES)
        status = self._checkpoint.read(prefix)
        try:
            status.assert_consumed()
        except AssertionError:
            status.expect_partial()  # one error is enough, without later warnings
            raise
        return state

    def _prune(self) -> None:
        steps = self.steps()
        losses = {step: self.state(step).validation_loss for step in steps}
        rated = [step for step in steps if losses[step] is not None]
        kept = set(steps[-self._keep :])
        if rated:
            kept.add(min(rated, key=lambda step: (losses[step], step)))
        for step in set(steps) - kept:
            shutil.rmtree(self.path(step), ignore_errors=True)

    def _failure(self, step: int, error: Exception) -> str:
        steps = self.steps()
        last = (
            f"The last good checkpoint is {self.path(steps[-1])}."
            if steps
            else "There is no earlier checkpoint."
        )
        return (
            f"Cannot write the checkpoint of step {step} in {self.directory!r}: "
            f"{_reason(error)}. {last}"
        )


def write_whole(path: str, content: str | bytes) -> None:
    """Writes a file so that it has its old content or all of the new one.

    Args:
        path: string.
        content: bytes, or a string to write as UTF-8.

    Raises:
        OSError: if it cannot be written; the old file stays.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f"{_TEMPORARY}{name}")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    _flush(directory)


def flush_directory(directory: str) -> None:
    """Flushes a directory and the files in it and below to the disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            _flush(os.path.join(parent, name))
        _flush(parent)


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
