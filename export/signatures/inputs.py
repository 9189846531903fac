"""Signatures as TensorFlow functions with named inputs and defaults."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

Outputs = dict[str, tf.Tensor]


class Input(NamedTuple):
    """An input of a signature, with the batch as dimension 0.

    Attributes:
        dtype: TensorFlow dtype.
        shape: sizes behind the batch; None for any.
        default: its value in one row, for requests that leave it out. Optional.
    """

    dtype: tf.DType
    shape: tuple[int | None, ...] = ()
    default: Any = None

    @property
    def default_tensor(self) -> tf.Tensor:
        """The default as a tensor of one row."""
        return tf.constant([self.default], self.dtype)


TEXT = {"text": Input(tf.string)}


class Signature(NamedTuple):
    """A signature of an exported model.

    Attributes:
        meaning: string. What it does, in one line.
        inputs: name to `Input`; those without a default first.
        function: `tf.function` of the inputs, whose defaults are those of a row.
    """

    meaning: str
    inputs: dict[str, Input]
    function: Callable[..., Outputs]

    def full_inputs(self, given: Mapping[str, Any], *, rows: int) -> Outputs:
        """Returns all inputs of so many rows: given, of as many or one, or default."""
        tensors = {
            name: tf.convert_to_tensor(given[name], spec.dtype)
            if name in given
            else spec.default_tensor
            for name, spec in self.inputs.items()
        }
        return {
            name: tf.repeat(tensor, rows, axis=0) if tensor.shape[0] == 1 else tensor
            for name, tensor in tensors.items()
        }


def signature(
    name: str,
    meaning: str,
    function: Callable[..., Outputs],
    inputs: Mapping[str, Input],
) -> Signature:
    """Returns a signature as a `tf.function` of these inputs.

    Args:
        name: string.
        meaning: string. What it does, in one line.
        function: takes every input as a keyword argument, in graph code.
        inputs: name to `Input`; those without a default first.
    """
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.Signature(
        [
            # Defaults that are tensors are written into the SignatureDef.
            inspect.Parameter(key, positional)
            if spec.default is None
            else inspect.Parameter(key, positional, default=spec.default_tensor)
            for key, spec in inputs.items()
        ]
    )

    def run(*args: Any, **kwargs: Any) -> Outputs:
        bound = parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        return function(**bound.arguments)

    # Code of its own: by it, TensorFlow names the graph and counts its traces.
    code = run.__code__.replace(co_name=name)
    own = types.FunctionType(code, run.__globals__, name, None, run.__closure__)
    own.__signature__ = parameters  # type: ignore[attr-defined]
    specs = [
        tf.TensorSpec([None, *spec.shape], spec.dtype, name=key)
        for key, spec in inputs.items()
    ]
    traced = tf.function(own, input_signature=specs, autograph=False)
    return Signature(meaning, dict(inputs), traced)


def spread(tensor: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns an input of B rows, given one of B rows or of 1."""
    shape = tf.concat([tf.reshape(rows, [1]), tf.shape(tensor)[1:]], axis=0)
    return tf.ensure_shape(tf.broadcast_to(tensor, shape), [None, *tensor.shape[1:]])
