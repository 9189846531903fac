"""The position-wise feed-forward network of a block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_gpt.config import ACTIVATIONS
from keras_gpt.layers.projection import Projection
from keras_gpt.layers.runtime import runtime

SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715  # Hendrycks & Gimpel 2016, section 2


def gelu_approximate(x: tf.Tensor) -> tf.Tensor:
    """GELU by tanh (Hendrycks & Gimpel 2016), as GPT-1 and GPT-2 were trained.

    Written with products: TensorFlow's own form calls `pow`, which is slow on CPU. But
    that form LiteRT has as one op.
    """
    if runtime() == "litert":
        return tf.nn.gelu(x, approximate=True)
    inner = SQRT_2_OVER_PI * x * (1.0 + GELU_CUBIC * x * x)
    return 0.5 * x * (1.0 + tf.tanh(inner))


_FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu_approximate": gelu_approximate,
    "gelu": tf.nn.gelu,
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
}


@keras.saving.register_keras_serializable(package="keras_gpt")
class MLP(keras.layers.Layer):
    """Expands to `intermediate_dim`, applies the activation, and contracts.

    Args:
        hidden_dim: int (D). Width of input and output.
        intermediate_dim: int. Width between the two projections.
        activation: string. One of `keras_gpt.config.ACTIVATIONS`.
        use_bias: bool. Whether the projections have biases.
        kernel_initializer: initializer of the first projection.
        residual_initializer: initializer of the projection that ends the branch.

    Call arguments:
        inputs: (B, T, D).
        training: bool. Whether dropout of LoRA is active; there is no other.

    Returns:
        (B, T, D) in the compute dtype.

    Raises:
        ValueError: if the activation is unknown.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        intermediate_dim: int,
        activation: str,
        use_bias: bool,
        kernel_initializer: Any,
        residual_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in _FUNCTIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, "
                f"got {activation!r}."
            )
        self.activation = _FUNCTIONS[activation]
        self.expand = Projection(
            intermediate_dim,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="expand",
        )
        self.contract = Projection(
            hidden_dim,
            use_bias=use_bias,
            kernel_initializer=residual_initializer,
            dtype=self.dtype_policy,
            name="contract",
        )

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return self.expand.drops or self.contract.drops

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.expand.build(input_shape)
        self.contract.build((*input_shape[:-1], self.expand.units))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Runs the network; see the class."""
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])  # quickest on matrices
        rows = self.activation(self.expand(rows, training=training, batch=inputs))
        rows = self.contract(rows, training=training, batch=inputs)
        hidden = tf.reshape(
            rows, tf.concat([tf.shape(inputs)[:-1], [self.contract.units]], axis=0)
        )
        return tf.ensure_shape(hidden, [*inputs.shape[:-1], self.contract.units])
