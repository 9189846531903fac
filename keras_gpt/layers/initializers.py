"""Where initial weights come from: a random draw, or a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_gpt.zero_copy import as_tensor

ReadWeight = Callable[[str], np.ndarray]
_source: ContextVar[ReadWeight | None] = ContextVar("_source", default=None)


def normal(stddev: float, *, path: str) -> keras.initializers.Initializer:
    """Returns the initializer of one weight, which no other weight may share.

    Args:
        stddev: float. Of the normal distribution, of mean 0.
        path: string. The `path` that the weight will have in `GPTBackbone`; within
            `loading`, it is read instead of drawn.
    """
    read = _source.get()
    if read is not None:
        return _Loaded(read, path)
    return keras.initializers.RandomNormal(stddev=stddev)


@contextlib.contextmanager
def loading(read: ReadWeight) -> Iterator[None]:
    """Within it networks begin with weights that are read, not drawn.

    To assign them afterwards would take the time of the draw, and memory for both.

    Args:
        read: function from a weight's path to its value.
    """
    token = _source.set(read)
    try:
        yield
    finally:
        _source.reset(token)


class _Loaded(keras.initializers.Initializer):
    """Reads a weight the first time it is called, and then lets go of the reader."""

    def __init__(self, read: ReadWeight, path: str) -> None:
        self._read: ReadWeight | None = read
        self._path = path

    def __call__(self, shape: Any, dtype: Any = None) -> tf.Tensor:
        read, self._read = self._read, None
        if read is None:
            # Keras begins an untied head as it begins the table.
            return tf.zeros(shape, dtype)
        return tf.cast(as_tensor(read(self._path)), dtype)
