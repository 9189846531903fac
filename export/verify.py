"""Checks of a written SavedModel, before it gets its final name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

RUNNER = Path(__file__).with_name("run_saved_model.py")

# What a served graph must not hold, and why.
FORBIDDEN_OPS = {
    "Xla": "needs XLA, which TF Serving refuses by default",
    "PyFunc": "calls Python",
    "EagerPyFunc": "calls Python",
    "MutableHashTable": "is a table that grows",
    "MutableDenseHashTable": "is a table that grows",
    "RandomUniform": "is a stateful random op",
    "RandomStandardNormal": "is a stateful random op",
    "TruncatedNormal": "is a stateful random op",
    "Multinomial": "is a stateful random op",
    "StatefulStandardNormal": "is a stateful random op",
    "StatefulUniform": "is a stateful random op",
    "RngReadAndSkip": "is a stateful random op",
}


def ops_of(folder: str | os.PathLike[str]) -> set[str]:
    """Returns the types of all ops in the SavedModel in `folder`."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    ops: set[str] = set()
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        ops.update(node.op for node in graph.node)
        for function in graph.library.function:
            ops.update(node.op for node in function.node_def)
    return ops


def forbidden_ops(folder: str | os.PathLike[str]) -> list[str]:
    """Returns a phrase for each op that no served graph may hold."""
    return [
        f"{op} {reason}"
        for op in sorted(ops_of(folder))
        for prefix, reason in FORBIDDEN_OPS.items()
        if op.startswith(prefix)
    ]


def run_in_fresh_process(
    folder: str | os.PathLike[str], calls: list[dict[str, Any]]
) -> list[dict[str, list[Any]]]:
    """Runs calls on the SavedModel in a process that imports only tensorflow.

    Args:
        folder: the version folder.
        calls: list of `{"signature": name, "inputs": {name: list}}`.

    Returns:
        One dict of output lists per call; bytes decoded as UTF-8 with U+FFFD.

    Raises:
        RuntimeError: if the process fails or loads anything else of this library.
    """
    # -P keeps the runner's own folder off the path: nothing of ours is in reach.
    process = subprocess.run(  # noqa: S603
        [sys.executable, "-P", str(RUNNER), str(folder)],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the exported model in {folder} does not run: {last}")
    response = json.loads(process.stdout)
    if response["foreign_modules"]:
        raise RuntimeError(
            f"the exported model in {folder} needed {response['foreign_modules']}."
        )
    return response["responses"]
