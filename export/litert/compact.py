"""A TFLite file that says the same in fewer bytes.

The converter writes what each signature and each loop holds anew, with long names. Here
whatever is equal is written once: scales, shapes, tensors, ops, whole graphs. Ops are
equal where they use tensors of the same numbers, so tensors are numbered alike in
graphs that hold the same ops.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

ALIGNMENT = 16  # of weights, in bytes, as the format wants it


def compact(data: bytes) -> bytes:
    """Returns a TFLite file that says the same in fewer bytes.

    The graph of a signature that has ops is the first. Only the inputs and outputs of
    the file and its signatures keep their names.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(data)
    _lead_with_ops(model)
    for graph in model.subgraphs:
        _drop_copies(model, graph)
    _number_alike(model)
    _drop_names(model)
    # Weights stand behind the graphs, where they can be aligned.
    weights = {
        index: memoryview(buffer.data)
        for index, buffer in enumerate(model.buffers)
        if buffer.data is not None and len(buffer.data)
    }
    for index in weights:
        buffer = model.buffers[index]
        buffer.data, buffer.offset, buffer.size = None, 1, 1  # to have a place
    written = _packed(model)
    packed = schema.Model.GetRootAs(written, 0)
    for index, part in weights.items():
        written += bytes(-len(written) % ALIGNMENT)
        flatbuffer_utils.update_packed_buffer(
            packed.Buffers(index), offset=len(written), size=part.nbytes
        )
        written += part
    return bytes(written)


def _lead_with_ops(model: Any) -> None:
    """Puts the graph of a signature that computes first.

    Where the first has no ops, LiteRT's interpreter runs none by XNNPACK.
    """
    graphs, signatures = model.subgraphs, model.signatureDefs or ()
    first = next(
        (s.subgraphIndex for s in signatures if graphs[s.subgraphIndex].operators), 0
    )
    graphs[0], graphs[first] = graphs[first], graphs[0]
    places = {0: first, first: 0}
    for signature in signatures:
        index = signature.subgraphIndex
        signature.subgraphIndex = places.get(index, index)


def _drop_names(model: Any) -> None:
    """Leaves the names of what goes in and out."""
    named = {0, *(signature.subgraphIndex for signature in model.signatureDefs or ())}
    for index, graph in enumerate(model.subgraphs):
        if index not in named:
            graph.name = None
        kept = {*_list(graph.inputs), *_list(graph.outputs)}
        for number, tensor in enumerate(graph.tensors):
            if index not in named or number not in kept:
                tensor.name = None


# === Ops that do nothing ===


def _drop_copies(model: Any, graph: Any) -> None:
    """Takes slices that hold all of their input out of a graph.

    TensorFlow's `x[:, None]` becomes a reshape and such a slice.
    """
    same: dict[int, int] = {}
    kept, outputs = [], set(_list(graph.outputs))
    for op in graph.operators:
        op.inputs = np.asarray([same.get(t, t) for t in _list(op.inputs)], np.int32)
        if _copies(model, graph, op) and op.outputs[0] not in outputs:
            same[op.outputs[0]] = op.inputs[0]
        else:
            kept.append(op)
    graph.operators = kept


def _copies(model: Any, graph: Any, op: Any) -> bool:
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number != schema.BuiltinOperator.STRIDED_SLICE:
        return False
    given, taken = (graph.tensors[t] for t in (op.inputs[0], op.outputs[0]))
    if any(-1 in _list(t.shapeSignature) for t in (given, taken)):
        return False  # sizes that only running tells
    strides = model.buffers[graph.tensors[op.inputs[3]].buffer].data
    return (
        _list(given.shape) == _list(taken.shape)
        and strides is not None
        and bool(np.all(np.asarray(strides).view(np.int32) == 1))
    )


def _list(numbers: Any) -> list[int]:
    return [] if numbers is None else list(numbers)


# === Numbers of tensors ===


class _Step(NamedTuple):
    """An op: what it is, and the tensors that it needs, -1 for none."""

    kind: Hashable
    tensors: list[int]

    @classmethod
    def of(cls, op: Any, graph: Any) -> _Step:
        parts = [_list(part) for part in (op.inputs, op.outputs, op.intermediates)]
        parts += [_scales(graph.tensors[t]) for part in parts for t in part if t >= 0]
        return cls((op.opcodeIndex, *map(len, parts)), sum(parts, []))


def _scales(tensor: Any) -> list[int]:
    """Returns the tensors that hold the scales of a tensor's blocks."""
    details = _blocks(tensor)
    return [] if details is None else [details.scales, details.zeroPoints]


def _blocks(tensor: Any) -> Any:
    kind = tensor.quantization and tensor.quantization.detailsType
    is_blockwise = kind == schema.QuantizationDetails.BlockwiseQuantization
    return tensor.quantization.details if is_blockwise else None


def _number_alike(model: Any) -> None:
    """Numbers the tensors of graphs alike where they hold the same ops.

    Tensors that nothing uses are left out.
    """
    earlier: list[list[_Step]] = []
    for index, graph in enumerate(model.subgraphs):
        steps = [_Step.of(op, graph) for op in graph.operators]
        used = [*_list(graph.inputs), *(t for step in steps for t in step.tensors)]
        tensors = list(
            dict.fromkeys(t for t in [*used, *_list(graph.outputs)] if t >= 0)
        )
        pairs = max((_pairs(steps, other) for other in earlier), key=len, default=[])
        numbers = {-1: -1, **_numbers(tensors, pairs)}
        _renumber(model, index, numbers)
        earlier.append(
            [_Step(kind, [numbers[t] for t in used]) for kind, used in steps]
        )


def _pairs(steps: list[_Step], others: list[_Step]) -> list[tuple[int, int]]:
    """Returns tensors of some ops, and those of the same ops in another graph."""
    here, there = ([step.kind for step in graph] for graph in (steps, others))
    matcher = difflib.SequenceMatcher(None, here, there, autojunk=False)
    return [
        pair
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
        for pair in zip(
            steps[block.a + offset].tensors,
            others[block.b + offset].tensors,
            strict=True,
        )
    ]


def _numbers(tensors: list[int], pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Returns new numbers of tensors, from 0, those of their pairs where they can."""
    numbers: dict[int, int] = {}
    free = dict.fromkeys(range(len(tensors)))
    for tensor, wanted in pairs:
        if tensor >= 0 and tensor not in numbers and wanted in free:
            numbers[tensor] = wanted
            del free[wanted]
    rest = iter(free)
    return numbers | {t: next(rest) for t in tensors if t not in numbers}


def _renumber(model: Any, index: int, numbers: dict[int, int]) -> None:
    graph = model.subgraphs[index]

    def renumbered(tensors: Any) -> Any:
        return np.asarray([numbers[t] for t in _list(tensors)], np.int32)

    for op in graph.operators:
        op.inputs, op.outputs = renumbered(op.inputs), renumbered(op.outputs)
        if op.intermediates is not None:
            op.intermediates = renumbered(op.intermediates)
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    old = {new: tensor for tensor, new in numbers.items() if new >= 0}
    graph.tensors = [graph.tensors[old[number]] for number in range(len(old))]
    for details in filter(None, map(_blocks, graph.tensors)):
        details.scales = numbers[details.scales]
        details.zeroPoints = numbers[details.zeroPoints]
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == index:
            for tensor in (*signature.inputs, *signature.outputs):
                tensor.tensorIndex = numbers[tensor.tensorIndex]


# === What is equal, once ===


def _packed(model: Any) -> bytearray:
    """Returns the bytes of a model, equal parts once."""
    pool: dict[Hashable, _Shared] = {}

    def shared(part: Any) -> _Shared | None:
        return part and pool.setdefault(_key(part), _Shared(part))

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.quantization = shared(tensor.quantization)
        for op in graph.operators:
            op.builtinOptions = shared(op.builtinOptions)
            op.builtinOptions2 = shared(op.builtinOptions2)
        graph.tensors = [shared(tensor) for tensor in graph.tensors]
        graph.operators = [shared(op) for op in graph.operators]
    model.subgraphs = [shared(graph) for graph in model.subgraphs]
    builder = _Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytearray(builder.Output())


class _Shared:
    """A part of a model, written once."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self._offset: int | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802 - what flatbuffers calls it
        if self._offset is None:
            self._offset = self._part.Pack(builder)
        return self._offset


class _Builder(flatbuffers.Builder):
    """Writes equal names and equal lists of numbers once."""

    def __init__(self) -> None:
        super().__init__(2**20)
        self._written: dict[Hashable, int] = {}

    def CreateString(self, s: Any, *rest: Any) -> int:  # noqa: N802 - its base's name
        return self._once(super().CreateString, s, *rest)

    def CreateNumpyVector(self, x: Any) -> int:  # noqa: N802 - its base's name
        return self._once(super().CreateNumpyVector, x)

    def _once(self, create: Callable[..., int], part: Any, *rest: Any) -> int:
        key = create.__name__, _key(part), *rest
        if key not in self._written:
            self._written[key] = create(part, *rest)
        return self._written[key]


def _key(part: Any) -> Hashable:
    """Returns what equal parts have in common, and no others."""
    if isinstance(part, np.ndarray):
        return part.dtype.str, part.tobytes()
    if isinstance(part, list):
        return tuple(_key(item) for item in part)
    if isinstance(part, _Shared):
        return id(part)
    if hasattr(part, "__dict__"):
        return type(part), *(_key(item) for item in vars(part).values())
    return part
