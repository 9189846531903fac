"""Checks of a written SavedModel, before it gets its final name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_gpt.export import ops

RUNNER = Path(__file__).with_name("run_saved_model.py")
TIMEOUT = 3600.0  # seconds; a model of billions of weights takes minutes


class ExportError(RuntimeError):
    """An export that failed its own checks; nothing was left behind."""


class Check(NamedTuple):
    """A call of the exported model, and what compares its outputs with the library's.

    Attributes:
        call: as in run_saved_model.py.
        compare: takes the outputs; raises `ExportError`.
    """

    call: dict[str, Any]
    compare: Callable[[dict[str, Any]], None]


def verify(folder: Path, checks: Sequence[Check]) -> None:
    """Checks that a folder serves what the task answers, and nothing is foreign.

    Args:
        folder: the version folder.
        checks: of the task, with weights as they are stored.

    Raises:
        ExportError: if a check fails.
    """
    bad_ops = ops.forbidden(ops.ops_of(folder))
    if bad_ops:
        raise ExportError(f"the graph holds {'; '.join(bad_ops)}.")
    try:
        responses = run_in_fresh_process(
            folder, [check.call for check in checks], warm_up=True
        )
    except RuntimeError as error:
        raise ExportError(str(error)) from error
    for check, response in zip(checks, responses, strict=True):
        check.compare(response)


def check_equal(name: str, given: str, want: Any, got: Any) -> None:
    """Raises `ExportError` if an exported model did not answer like the model."""
    if want != got:
        raise ExportError(
            f"{name} of the exported model must answer like the model, but for "
            f"{given!r} it gave {got!r} instead of {want!r}."
        )


def run_in_fresh_process(
    folder: str | os.PathLike[str],
    calls: list[dict[str, Any]],
    *,
    warm_up: bool = False,
    python: str = sys.executable,
    timeout: float = TIMEOUT,
) -> list[dict[str, list[Any]]]:
    """Runs calls on the SavedModel in a process that imports only tensorflow.

    Args:
        folder: the version folder.
        calls: list of `{"signature": name, "inputs": {name: list}}`, see
            run_saved_model.py.
        warm_up: bool. Whether to run the model's warm-up records too. Defaults to
            False.
        python: path of the interpreter. Defaults to this one.
        timeout: seconds that the process may take. Defaults to an hour.

    Returns:
        One dict of output lists per call; bytes decoded as UTF-8 with U+FFFD.

    Raises:
        RuntimeError: if the process fails, takes too long, or loads anything else of
            this library.
    """
    fails = f"the exported model in {folder} does not run"
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "response.json"
        try:
            # -P keeps the runner's folder off the path: nothing of ours is in reach.
            process = subprocess.run(  # noqa: S603
                [python, "-P", str(RUNNER), str(folder), str(output)],
                input=json.dumps({"calls": calls, "warm_up": warm_up}),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{fails} within {timeout:g} seconds.") from error
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{fails}: {last}")
        try:
            response = json.loads(output.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{fails}: it gave no response ({error}).") from error
    if response["foreign_modules"]:
        raise RuntimeError(
            f"the exported model in {folder} needed {response['foreign_modules']}."
        )
    return response["responses"]
