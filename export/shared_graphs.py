"""Parts that several signatures run, once in the graph of an exported model.

A model is read the faster for it: Python's loader takes time for each node.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_gpt.generation import Decoder, DecodeState, Request
from keras_gpt.layers import kv_cache


class SharedTokenizer:
    """A tokenizer whose `tokenize` is one function, whoever calls it.

    Args:
        tokenizer: `GPTTokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

        def tokenize(text: tf.Tensor) -> tf.RaggedTensor:
            return tokenizer.tokenize(text)

        self.tokenize = tf.function(
            tokenize,
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


class SharedDecoder(Decoder):
    """A `Decoder` whose loop is one function, whatever state it goes on with."""

    _loop: Any = None

    def advance(
        self,
        state: DecodeState,
        request: Request,
        *,
        num_steps: tf.Tensor,
        width: tf.Tensor | None = None,
    ) -> DecodeState:
        """Goes on for some rounds; see `Decoder`."""
        if self._loop is None:
            super_advance = super().advance

            def advance(state: Any, request: Any, num_steps: tf.Tensor) -> Any:
                return super_advance(state, request, num_steps=num_steps)

            specs = tf.nest.map_structure(_any_size, (state, request))
            self._loop = tf.function(
                advance,
                input_signature=[*specs, tf.TensorSpec([], tf.int32)],
                autograph=False,
            )
        return self._loop(state, request, tf.convert_to_tensor(num_steps, tf.int32))


def _any_size(tensor: tf.Tensor) -> tf.TensorSpec:
    """Returns the spec of tensors like this one, of any batch and length."""
    rank = tensor.shape.rank
    if rank == 4:  # of a cache, whose heads stay as they are
        shape = kv_cache.growing_shape(tf.TensorShape([None, *tensor.shape[1:]]))
    else:
        shape = tf.TensorShape([None] * rank)
    return tf.TensorSpec(shape, tensor.dtype)
