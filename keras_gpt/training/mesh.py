"""Splitting a model over a mesh of devices, with DTensor.

A mesh has two dimensions: `batch`, over which the rows of a batch are split, and
`model`, over which the weights are: attention by heads, the MLP by its inner width,
the token table by its rows (Shoeybi et al. 2019, "Megatron-LM", section 3). DTensor
runs the one program that the layers are on every device, with its part of each
tensor, and adds the communication.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.layers.attention import columns_by_head
from keras_gpt.training.layouts import check_mesh, split_axis

BATCH, MODEL = "batch", "model"


class _Split(NamedTuple):
    """How one variable lies on a mesh.

    Attributes:
        axis: int. Axis split over the `model` dimension; None for none.
        heads: int. Heads in the last axis, which are put side by side there; 0 for
            none.
    """

    axis: int | None = None
    heads: int = 0


class MeshStrategy:
    """Trains one model on a mesh of devices of this process.

    A counterpart of `tf.distribute.Strategy` for `make_train_step`: the model and
    the optimizer are made as for one device, and the step takes over their values,
    each device its part.

    Args:
        sizes: mapping of `"batch"` and `"model"` to the size of that dimension.
        devices: list of device names, such as `["GPU:0", "GPU:1"]`, as many as the
            mesh has places. Defaults to the machine's GPUs, or where there are none,
            its logical CPUs.

    Raises:
        ValueError: if the machine has too few devices.

    Reference: tensorflow.org/guide/dtensor_overview.
    """

    num_replicas_in_sync = 1  # one program; the split of the rows is the mesh's own

    def __init__(
        self, sizes: Mapping[str, int], *, devices: Sequence[str] | None = None
    ) -> None:
        self.sizes = {BATCH: sizes.get(BATCH, 1), MODEL: sizes.get(MODEL, 1)}
        wanted = self.sizes[BATCH] * self.sizes[MODEL]
        found = list(devices or _devices())
        if len(found) < wanted:
            raise ValueError(
                f"mesh must have at most as many places as there are devices, got "
                f"{wanted} places and {len(found)} devices."
            )
        self.mesh = dtensor.create_mesh(
            list(self.sizes.items()), devices=found[:wanted]
        )
        self._placed: dict[int, tuple[Any, dtensor.DVariable, _Split]] = {}

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context without effect: variables are made as for one device."""
        return contextlib.nullcontext()

    def place(self, backbone: Any, *, optimizer: Any = None) -> Placed:
        """Copies a model and an optimizer's state to the mesh, each variable once.

        Args:
            backbone: `GPTBackbone`.
            optimizer: built for its trainable variables. Optional.

        Raises:
            ValueError: if the mesh does not divide what it splits.
        """
        check_mesh(backbone.config, self.sizes)
        splits = [(v, _split_of(v, backbone.config)) for v in backbone.variables]
        if optimizer is not None:
            of_weight = {id(variable): split for variable, split in splits}
            weights = [(v, of_weight[id(v)]) for v in backbone.trainable_variables]
            splits += _state_splits(optimizer, weights)
        for variable, split in splits:
            if id(variable) not in self._placed:
                value = _by_head(variable.numpy(), split.heads)
                placed = dtensor.DVariable(self._pack(value, split.axis))
                self._placed[id(variable)] = (variable, placed, split)
        return Placed([self._placed[id(variable)][:2] for variable, _ in splits])

    def read(self, variable: Any) -> np.ndarray:
        """Returns a placed variable's whole value."""
        _, value, split = self._placed[id(variable)]
        parts = [part.numpy() for part in dtensor.unpack(value.read_value())]
        parts = parts[: self.sizes[MODEL]]  # those of the first place in `batch`
        whole = (
            parts[0] if split.axis is None else np.concatenate(parts, axis=split.axis)
        )
        return _by_head(whole, split.heads, back=True)

    def split(self, batch: ExampleBatch) -> ExampleBatch:
        """Puts a batch on the mesh, its rows split over `batch`.

        Raises:
            ValueError: if its rows cannot be split evenly.
        """
        rows, parts = len(batch.windows), self.sizes[BATCH]
        if rows % parts:
            raise ValueError(
                f"batch_size must be a multiple of the mesh's batch = {parts} (and of "
                f"accumulate), got {rows} rows at a time."
            )
        return batch.map(lambda field: self._pack(np.asarray(field), 0, BATCH))

    def replicated(self, value: Any) -> tf.Tensor:
        """Puts a value on every device of the mesh."""
        return self._pack(np.asarray(value), None)

    def _pack(self, value: np.ndarray, axis: int | None, over: str = MODEL) -> Any:
        specs = [dtensor.UNSHARDED] * value.ndim
        parts = [value] * self.sizes[over]
        if axis is not None:
            specs[axis] = over
            parts = np.split(value, self.sizes[over], axis=axis)
        # The order of the devices: `batch` outer, `model` inner.
        places = [
            {BATCH: row, MODEL: column}[over]
            for row in range(self.sizes[BATCH])
            for column in range(self.sizes[MODEL])
        ]
        return dtensor.pack(
            [tf.constant(parts[place]) for place in places],
            dtensor.Layout(specs, self.mesh),
        )


class Placed:
    """Variables on a mesh, standing in for Keras' own.

    Args:
        pairs: list of Keras variable and `dtensor.DVariable`.
    """

    def __init__(self, pairs: Sequence[tuple[Any, dtensor.DVariable]]) -> None:
        self._pairs = pairs

    @contextlib.contextmanager
    def values(self) -> Iterator[keras.StatelessScope]:
        """Within it, in a `tf.function`, the variables have their mesh values."""
        values = [(variable, placed.read_value()) for variable, placed in self._pairs]
        with columns_by_head(), keras.StatelessScope(values) as scope:
            yield scope

    def assign(self, scope: keras.StatelessScope) -> None:
        """Keeps the values that the variables have at the end of a scope."""
        for variable, placed in self._pairs:
            value = scope.get_current_value(variable)
            placed.assign(value)


def _split_of(variable: Any, config: Any) -> _Split:
    columns = r"/query_key_value/(kernel|bias|lora_kernel_b)$"
    by_head = re.search(columns, variable.path)
    return _Split(split_axis(variable.path), config.num_heads if by_head else 0)


# Adafactor's states that hold means of a matrix, and over which axis from its end.
_MEANS = {"_r": 1, "_c": 2}


def _state_splits(
    optimizer: Any, weights: Sequence[tuple[Any, _Split]]
) -> list[tuple[Any, _Split]]:
    """Pairs an optimizer's variables with splits: as the weight that each is of."""
    found: dict[int, _Split] = {}
    for name, states in vars(optimizer).items():
        if not (isinstance(states, list) and len(states) == len(weights)):
            continue
        for state, (weight, split) in zip(states, weights, strict=True):
            if name not in _MEANS:
                found[id(state)] = split
            elif len(weight.shape) >= 2:  # it has dummies in the place of others
                removed = len(weight.shape) - _MEANS[name]
                found[id(state)] = _without_axis(split, removed)
    return [(v, found.get(id(v), _Split())) for v in optimizer.variables]


def _without_axis(split: _Split, removed: int) -> _Split:
    if split.axis is None or split.axis == removed:
        return _Split()
    if split.axis > removed:
        return split._replace(axis=split.axis - 1)
    return split._replace(heads=0)


def _by_head(value: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Reorders the last axis from (3, N, H) to (N, 3, H), or back."""
    if not heads:
        return value
    order = (heads, 3) if back else (3, heads)
    split = value.reshape(*value.shape[:-1], *order, -1)
    return np.swapaxes(split, -3, -2).reshape(value.shape)


def _devices() -> list[str]:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count = len(tf.config.list_logical_devices(kind))
    return [f"{kind}:{index}" for index in range(count)]
