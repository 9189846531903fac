"""One transformer block: attention and MLP, each with norm and residual."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_gpt.config import GPTConfig
from keras_gpt.layers.attention import AttentionOutput, CausalSelfAttention
from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.initializers import normal
from keras_gpt.layers.kv_cache import LayerCache
from keras_gpt.layers.mlp import MLP
from keras_gpt.layers.projection import Projection


@keras.saving.register_keras_serializable(package="keras_gpt")
class TransformerBlock(keras.layers.Layer):
    """A block of GPT-2 (norm before each branch) or GPT-1 (norm after each sum).

    Args:
        config: `GPTConfig`.
        index: int. Number of the block, from 0.

    Call arguments:
        inputs: (B, T, D).
        mask: bool (B or 1, 1, T, S). True where attention is allowed.
        cache: `LayerCache` to read and extend, or ().
        cache_rows: int32 (B * N * T,). As in `CausalSelfAttention`.
        training: bool. Whether dropout is active.

    Returns:
        `AttentionOutput`: hidden (B, T, D) and the cache after the new tokens.
    """

    def __init__(self, config: GPTConfig, *, index: int, **kwargs: Any) -> None:
        super().__init__(name=f"transformer_layer_{index}", **kwargs)
        path = self.name
        self.normalize_first = config.normalize_first
        # The 2 * num_layers sums into the residual stream keep its variance:
        # Radford et al. 2019, section 2.3.
        residual_stddev = config.initializer_stddev / (2 * config.num_layers) ** 0.5
        self.attention_norm = layer_norm(config, self.dtype_policy, "attention_norm")
        self.attention = CausalSelfAttention(
            num_heads=config.num_heads,
            head_dim=config.head_dim,  # type: ignore[arg-type]
            hidden_dim=config.hidden_dim,
            dropout=config.dropout_of("attention"),
            use_bias=config.use_bias,
            scale=_attention_scale(config, index),
            upcast=config.upcast_attention,
            dtype=self.dtype_policy,
            kernel_initializer=normal(
                config.initializer_stddev,
                path=f"{path}/attention/query_key_value/kernel",
            ),
            residual_initializer=normal(
                residual_stddev, path=f"{path}/attention/output_projection/kernel"
            ),
            name="attention",
        )
        self.mlp_norm = layer_norm(config, self.dtype_policy, "mlp_norm")
        self.mlp = MLP(
            hidden_dim=config.hidden_dim,
            intermediate_dim=config.intermediate_dim,  # type: ignore[arg-type]
            activation=config.activation,
            use_bias=config.use_bias,
            dtype=self.dtype_policy,
            kernel_initializer=normal(
                config.initializer_stddev, path=f"{path}/mlp/expand/kernel"
            ),
            residual_initializer=normal(
                residual_stddev, path=f"{path}/mlp/contract/kernel"
            ),
            name="mlp",
        )
        self.residual_dropout = Dropout(
            config.dropout, dtype=self.dtype_policy, name="residual_dropout"
        )

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        parts = (self.attention, self.mlp)
        return self.residual_dropout.rate > 0.0 or any(part.drops for part in parts)

    @property
    def projections(self) -> list[Projection]:
        """The layers that are products with a matrix, in the order of the forward."""
        attention, mlp = self.attention, self.mlp
        return [
            *(attention.query_key_value, attention.output_projection),
            *(mlp.expand, mlp.contract),
        ]

    def build(self, input_shape: Any, *_: Any, **__: Any) -> None:
        """Creates the weights."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)
        self.built = True

    def call(
        self,
        inputs: tf.Tensor,
        mask: tf.Tensor,
        cache: LayerCache | tuple[()] = (),
        cache_rows: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> AttentionOutput:
        """Runs both branches; see the class."""

        def attention(x: tf.Tensor) -> AttentionOutput:
            return self.attention(
                x, mask, cache=cache, cache_rows=cache_rows, training=training
            )

        def mlp(x: tf.Tensor) -> tf.Tensor:
            return self.mlp(x, training=training)

        def drop(x: tf.Tensor) -> tf.Tensor:
            return self.residual_dropout(x, training=training)

        if self.normalize_first:
            attended, cache = attention(self.attention_norm(inputs))
            hidden = inputs + drop(attended)
            hidden = hidden + drop(mlp(self.mlp_norm(hidden)))
        else:
            attended, cache = attention(inputs)
            hidden = self.attention_norm(inputs + drop(attended))
            hidden = self.mlp_norm(hidden + drop(mlp(hidden)))
        return AttentionOutput(hidden, cache)


def _attention_scale(config: GPTConfig, index: int) -> float:
    divisor = index + 1 if config.scale_attention_by_inverse_layer else 1
    return 1.0 / (config.head_dim**0.5 * divisor)  # type: ignore[operator]


def layer_norm(config: GPTConfig, dtype: Any, name: str) -> keras.layers.Layer:
    """Returns a layer norm (Ba et al. 2016) with the config's epsilon and bias."""
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_epsilon,
        center=config.use_bias,
        dtype=dtype,
        name=name,
    )
