"""What the two ways to a server have in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

Arrays = dict[str, np.ndarray]


class Signature(NamedTuple):
    """A signature of a served model.

    Attributes:
        name: string.
        definition: `SignatureDef`, with defaults where the server tells them.
        version: int or None. Of the model that has it; None is the newest, where the
            server does not tell.
    """

    name: str
    definition: SignatureDef
    version: int | None


Signatures = dict[str, Signature]


class Transport(Protocol):
    """A way to a server.

    All calls take `timeout`, in seconds. They raise `ServingError`, or `TimeoutError`
    without a message.
    """

    def signatures(self, *, version: int | None, timeout: float) -> Signatures:
        """Returns the signatures of the model by name; version None is the newest."""

    def predict(
        self, signature: Signature, inputs: Arrays, *, timeout: float
    ) -> Arrays:
        """Runs a signature. Strings are arrays of bytes objects."""

    def close(self) -> None:
        """Ends all connections."""


def is_text(info: TensorInfo) -> bool:
    """Tells whether a tensor holds strings, which are objects in an array."""
    return info.dtype == types_pb2.DT_STRING


def numpy_dtype(info: TensorInfo) -> np.dtype:
    """Returns the dtype of a tensor as an array."""
    return np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype)
