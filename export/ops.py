"""The ops of a graph, and those that no served graph may hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

# Stateful ops that change nothing, or only seem to: weights and static tables are read,
# and control flow is stateful whatever it holds.
READING_OPS = frozenset(
    {
        *("VarHandleOp", "ReadVariableOp", "DisableCopyOnRead", "VariableShape"),
        *("ResourceGather", "ResourceGatherNd"),
        *("HashTableV2", "LookupTableFindV2", "LookupTableSizeV2"),
        *("Assert", "Case", "Empty", "If", "StatefulPartitionedCall", "While"),
    }
)
# What fills weights and tables as a model is loaded, and what saves them.
LOADING_OPS = frozenset(
    {
        *("AssignVariableOp", "LookupTableImportV2", "MergeV2Checkpoints"),
        *("RestoreV2", "SaveV2"),
    }
)
_FILE_OPS = ("MatchingFiles", "ReadFile")  # stateless by their definition


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


def forbidden(ops: Iterable[str], *, may_load: bool = True) -> list[str]:
    """Returns a phrase for each op that no served graph may hold.

    Args:
        ops: types of ops.
        may_load: bool. Whether `LOADING_OPS` are allowed. Defaults to True.
    """
    allowed = READING_OPS | LOADING_OPS if may_load else READING_OPS
    found = ((op, _fault(op)) for op in sorted(set(ops) - allowed))
    return [f"{op} {fault}" for op, fault in found if fault]


def _fault(op: str) -> str | None:
    if op.startswith("Xla"):
        return "needs XLA, which TF Serving refuses by default"
    if "PyFunc" in op:
        return "calls Python"
    if not hasattr(tf.raw_ops, op):
        return "is no op of TensorFlow itself"
    if op in _FILE_OPS:
        return "reads files"
    return "is stateful" if op_def_registry.get(op).is_stateful else None
