"""The ops of a graph, and those that no served graph may hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

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
    "StatefulTruncatedNormal": "is a stateful random op",
    "StatefulRandomBinomial": "is a stateful random op",
    "RandomGamma": "is a stateful random op",
    "RandomPoisson": "is a stateful random op",
    "RandomShuffle": "is a stateful random op",
    "ParameterizedTruncatedNormal": "is a stateful random op",
    "RngReadAndSkip": "is a stateful random op",
    "RngSkip": "is a stateful random op",
}
# Of graphs that XLA is to compile.
MUST_COMPILE = "_XlaMustCompile"


def ops_of_graph(graph: graph_pb2.GraphDef) -> set[str]:
    """Returns the types of all ops in a graph and its functions."""
    ops = {node.op for node in graph.node}
    for function in graph.library.function:
        ops.update(node.op for node in function.node_def)
    return ops


def ops_of(folder: str | os.PathLike[str]) -> set[str]:
    """Returns the types of all ops in the SavedModel in `folder`."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    ops: set[str] = set()
    for meta_graph in saved.meta_graphs:
        ops |= ops_of_graph(meta_graph.graph_def)
    return ops


def forbidden(ops: Iterable[str]) -> list[str]:
    """Returns a phrase for each op that no served graph may hold."""
    return [
        f"{op} {reason}"
        for op in sorted(ops)
        for prefix, reason in FORBIDDEN_OPS.items()
        if op.startswith(prefix)
    ]
