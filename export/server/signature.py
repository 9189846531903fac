"""A signature of a SavedModel: what it takes, and what it takes for granted."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from keras_gpt.export.server.errors import Code, RequestError, invalid, too_large

Arrays = dict[str, np.ndarray]
Kind = tuple[tf.DType, Sequence[int]]  # dtype and shape
# Of every dimension, the batch first; None is any size, no tuple any rank.
Shape = tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True)
class Spec:
    """An input or output.

    Attributes:
        tensor: string. Name of the tensor in the graph.
        dtype: `tf.DType`.
        shape: sizes, the batch first, None for any; None for any rank.
    """

    tensor: str
    dtype: tf.DType
    shape: Shape

    @classmethod
    def of(cls, info: meta_graph_pb2.TensorInfo) -> Spec:
        """Returns what a SavedModel tells of it."""
        return cls(info.name, tf.as_dtype(info.dtype), _shape(info.tensor_shape))

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether an array has the rank and, apart from the batch, the sizes."""
        if not shape or min(shape) < 0:
            return False
        if self.shape is None:
            return True
        return len(self.shape) == len(shape) and all(
            size in (None, got)
            for size, got in zip(self.shape[1:], shape[1:], strict=True)
        )

    def describe(self) -> str:
        """Returns type and shape in words, such as `int32 [B, 4]`."""
        if self.shape is None:
            return f"{self.dtype.name} [B, ...]"
        sizes = ["?" if size is None else str(size) for size in self.shape[1:]]
        return f"{self.dtype.name} [{', '.join(['B', *sizes])}]"


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature, with the rules that its requests must keep.

    Attributes:
        name: string.
        inputs: name to `Spec`.
        outputs: name to `Spec`.
        defaults: input name to the array that stands for it where it is left out.
    """

    name: str
    inputs: dict[str, Spec]
    outputs: dict[str, Spec]
    defaults: Arrays

    @classmethod
    def of(cls, name: str, proto: meta_graph_pb2.SignatureDef) -> Signature:
        """Returns what a SavedModel tells of it."""
        return cls(
            name,
            {key: Spec.of(info) for key, info in proto.inputs.items()},
            {key: Spec.of(info) for key, info in proto.outputs.items()},
            {key: tf.make_ndarray(value) for key, value in proto.defaults.items()},
        )

    @property
    def fixed_rows(self) -> int | None:
        """How many rows a call must have, where the model has that fixed."""
        sizes = {spec.shape[0] for spec in self.inputs.values() if spec.shape}
        return next((size for size in sizes if size is not None), None)

    def check_names(self, names: Iterable[str]) -> None:
        """Raises `RequestError` for inputs that are unknown, or needed and absent."""
        given = set(names)
        unknown = sorted(given - set(self.inputs))
        if unknown:
            raise invalid(
                f"inputs of signature {self.name!r} must be of "
                f"{', '.join(sorted(self.inputs))}, got {', '.join(unknown)}."
            )
        missing = sorted(set(self.inputs) - given - set(self.defaults))
        if missing:
            raise invalid(
                f"signature {self.name!r} needs inputs without defaults, which are "
                f"missing: {', '.join(missing)}."
            )

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raises `RequestError` for outputs that are unknown or named twice."""
        seen: set[str] = set()
        for name in names:
            if name not in self.outputs or name in seen:
                raise invalid(
                    "output_filter must have names, each once, of "
                    f"{', '.join(sorted(self.outputs))}, got {name}."
                )
            seen.add(name)

    def complete(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        max_rows: int = sys.maxsize,
        max_bytes: int = sys.maxsize,
    ) -> tuple[Arrays, int]:
        """Checks inputs, adds the defaults, and gives all the same rows.

        Args:
            inputs: name to array, the batch as dimension 0, each with the rows of the
                request or 1.
            max_rows: int. Optional.
            max_bytes: int. Of all arrays, once they have the same rows. Optional.

        Returns:
            Every input of the signature, with that many rows; the rows.

        Raises:
            RequestError: if a rule is broken.
        """
        kinds = {
            name: (tf.as_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        }
        rows = self.check(kinds, max_rows=max_rows, max_bytes=max_bytes)
        whole = {**self.defaults, **inputs}
        return {name: _to_rows(array, rows) for name, array in whole.items()}, rows

    def check(self, kinds: Mapping[str, Kind], *, max_rows: int, max_bytes: int) -> int:
        """Checks inputs as `complete` does, before there are arrays.

        Args:
            kinds: input name to dtype and shape.
            max_rows: int.
            max_bytes: int.

        Returns:
            The rows of the request.

        Raises:
            RequestError: if a rule is broken.
        """
        self._check_batched()
        self.check_names(kinds)
        for name, kind in kinds.items():
            self._check_input(name, *kind)
        rows = self._rows({name: shape[0] for name, (_, shape) in kinds.items()})
        if rows > max_rows:
            raise invalid(f"a request must have at most {max_rows} rows, got {rows}.")
        size = sum(
            np.dtype(dtype.as_numpy_dtype).itemsize * rows * math.prod(shape[1:])
            for dtype, shape in kinds.values()
        )
        if size > max_bytes:
            raise too_large("tensors of a request", size, max_bytes)
        return rows

    def _check_batched(self) -> None:
        scalars = sorted(k for k, spec in self.inputs.items() if spec.shape == ())
        if scalars:
            raise invalid(
                f"signature {self.name!r} cannot be served: its inputs must have the "
                f"batch as dimension 0, but {', '.join(scalars)} has no dimension."
            )

    def _check_input(self, name: str, dtype: tf.DType, shape: Sequence[int]) -> None:
        spec = self.inputs[name]
        if dtype != spec.dtype or not spec.takes(shape):
            got = f"{dtype.name} {list(shape)}"
            raise invalid(f"input {name!r} must be {spec.describe()}, got {got}.")

    def _rows(self, sizes: Mapping[str, int]) -> int:
        several = {size for size in sizes.values() if size != 1}
        if len(several) > 1 or 0 in several:
            told = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
            raise invalid(
                "inputs must have the same rows in dimension 0, or 1, and at least 1; "
                f"got {told}."
            )
        rows = max(several, default=1)
        if self.fixed_rows not in (None, rows):
            raise invalid(
                f"signature {self.name!r} takes {self.fixed_rows} rows, got {rows}."
            )
        return rows

    def check_rows(self, outputs: Arrays, rows: int) -> None:
        """Raises `RequestError` if an output lacks the batch as dimension 0."""
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                raise RequestError(
                    Code.INTERNAL,
                    f"output {name!r} of signature {self.name!r} must have the batch "
                    f"as dimension 0, got shape {list(array.shape)} for {rows} rows.",
                )


def _shape(proto: tensor_shape_pb2.TensorShapeProto) -> Shape:
    if proto.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in proto.dim)


def _to_rows(array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) == rows:
        return array
    return np.broadcast_to(array, (rows, *array.shape[1:]))
