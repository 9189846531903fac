"""The weights of an exported model: stored once, and read by all its signatures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.trackable import resource

STORAGE_DTYPES = ("float32", "bfloat16", "float16")


class _StoredWeight(NamedTuple):
    """A weight that is stored in less precision than it computes with.

    Attributes:
        small: `tf.Variable`, as stored.
        full: `tf.Variable`. Empty in the file; what is read once it is loaded.
        shape: static shape of both.
    """

    small: tf.Variable
    full: tf.Variable
    shape: tf.TensorShape

    def read(self) -> tf.Tensor:
        """Returns the value to compute with."""
        return tf.ensure_shape(tf.convert_to_tensor(self.full), self.shape)


class _CastAtLoad(resource.TrackableResource):
    """Fills weights when a model is loaded: in Python and in C++, once.

    Args:
        weights: list of `_StoredWeight`.
    """

    def __init__(self, weights: list[_StoredWeight]) -> None:
        super().__init__()
        self._weights = weights

    def _create_resource(self) -> tf.Tensor:
        # Loaders want a handle; nothing is ever kept under it.
        return tf.raw_ops.VarHandleOp(
            dtype=tf.bool, shape=[], shared_name="cast_at_load", container=""
        )

    def _initialize(self) -> None:
        for weight in self._weights:
            weight.full.assign(tf.cast(weight.small, weight.full.dtype))
            # What was read from the file is needed no more.
            weight.small.assign(tf.zeros([0], weight.small.dtype))


class ServedWeights:
    """The weights of a backbone, in the precision in which they are stored.

    Args:
        backbone: `GPTBackbone`.
        storage_dtype: string, one of `STORAGE_DTYPES`, in which floating-point weights
            are stored. They are cast once, when the model is loaded, to the dtype that
            they have here. Defaults to None: as they are.

    Raises:
        ValueError: if a weight is too large for it.

    Attributes:
        state: `tf.Module` of all that is to be saved.
    """

    def __init__(self, backbone: Any, *, storage_dtype: str | None = None) -> None:
        # Not part of the module, which would save Keras' variables once more.
        self._mapping: list[tuple[Any, Callable[[], tf.Tensor]]] = []
        in_file: list[tf.Variable] = []
        stored: list[_StoredWeight] = []
        for weight in backbone.weights:
            variable = weight.value
            if not _is_to_cast(variable.dtype, storage_dtype):
                in_file.append(variable)
                read = functools.partial(tf.convert_to_tensor, variable)
                self._mapping.append((weight, read))
                continue
            small = _resizable(_stored(weight, storage_dtype))
            full = _resizable(tf.zeros([0], variable.dtype))
            stored.append(_StoredWeight(small, full, variable.shape))
            self._mapping.append((weight, stored[-1].read))
        self.state = tf.Module()
        self.state.in_file = [*in_file, *(weight.small for weight in stored)]
        self.state.at_load = [weight.full for weight in stored]
        self.state.cast_at_load = _CastAtLoad(stored) if stored else None

    @contextmanager
    def in_use(self, layer: Any) -> Iterator[None]:
        """Lets a layer read these weights in place of its own, in this graph."""
        ids = set(map(id, layer.weights))
        mapping = [
            (weight, read()) for weight, read in self._mapping if id(weight) in ids
        ]
        with keras.StatelessScope(state_mapping=mapping):
            yield


def _is_to_cast(dtype: tf.DType, storage_dtype: str | None) -> bool:
    return storage_dtype is not None and dtype.is_floating and dtype != storage_dtype


def _stored(weight: Any, storage_dtype: str | None) -> tf.Tensor:
    """Returns a weight as it is stored, unless it is too large for that."""
    value = tf.convert_to_tensor(weight.value)
    small = tf.cast(value, storage_dtype)
    limit = small.dtype.max
    if tf.reduce_any(tf.math.is_inf(small) & tf.math.is_finite(value)):
        raise ValueError(
            f"storage_dtype {storage_dtype} must hold all weights, up to {limit}, got "
            f"{float(tf.reduce_max(tf.abs(value))):g} in {weight.path}."
        )
    return small


def _resizable(value: tf.Tensor) -> tf.Variable:
    shape = tf.TensorShape(None)
    return tf.Variable(value, trainable=False, shape=shape, validate_shape=False)


class ServedModel:
    """A `keras_gpt.generation.LanguageModel` on weights as they are served.

    Args:
        backbone: `GPTBackbone`.
        weights: `ServedWeights` of it.
    """

    def __init__(self, backbone: Any, weights: ServedWeights) -> None:
        self.config = backbone.config
        self.empty_cache = backbone.empty_cache
        self._backbone = backbone
        self._weights = weights

    def forward(self, token_ids: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the network; see `GPTBackbone.forward`."""
        with self._weights.in_use(self._backbone):
            return self._backbone.forward(token_ids, *args, **kwargs)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Projects hidden states (..., D) to float32 logits (..., V)."""
        with self._weights.in_use(self._backbone.token_embedding):
            return self._backbone.logits(hidden)


@contextmanager
def rounded(backbone: Any, storage_dtype: str | None) -> Iterator[None]:
    """Gives weights the values that they will have once stored and loaded, for a while.

    Args:
        backbone: `GPTBackbone`.
        storage_dtype: as in `ServedWeights`.
    """
    before = []
    try:
        for weight in backbone.weights if storage_dtype else ():
            value = tf.convert_to_tensor(weight.value)
            if _is_to_cast(value.dtype, storage_dtype):
                before.append((weight, tf.identity(value)))
                weight.assign(tf.cast(tf.cast(value, storage_dtype), value.dtype))
        yield
    finally:
        for weight, value in before:
            weight.assign(value)
