"""Measurements in processes of their own, which print their result as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def measured(arguments: list[str], *, name: str, job: Any = None) -> Any:
    """Runs Python and returns what the last line of its output holds.

    Args:
        arguments: of the interpreter: what to run, and its arguments.
        name: string. Of the measurement, for messages.
        job: what the process reads from its standard input, as JSON. Optional.

    Raises:
        RuntimeError: if the process fails.
    """
    process = subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the measurement of {name} failed: {last}")
    return json.loads(process.stdout.splitlines()[-1])
