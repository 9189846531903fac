"""Multi-head causal self-attention."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_gpt.layers import kv_cache
from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.kv_cache import LayerCache
from keras_gpt.layers.projection import Projection

MASKED_LOGIT = -1e30  # far below any logit; finite, so that no NaN can arise

_columns_by_head: ContextVar[bool] = ContextVar("_columns_by_head", default=False)


@contextlib.contextmanager
def columns_by_head() -> Iterator[None]:
    """Within it, weights have the three projections of each head side by side.

    That is (D, N * 3 * H) where a checkpoint has (D, 3 * N * H): a mesh that splits
    the columns then splits them by heads.
    """
    token = _columns_by_head.set(True)
    try:
        yield
    finally:
        _columns_by_head.reset(token)


class AttentionOutput(NamedTuple):
    """What attention returns.

    Attributes:
        hidden: (B, T, D).
        cache: `LayerCache` after the new tokens, or () when there is none.
    """

    hidden: tf.Tensor
    cache: LayerCache | tuple[()]


def attend(
    query: tf.Tensor,
    *,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor,
    scale: float | None = None,
    upcast: bool = False,
    dropout: keras.layers.Dropout | None = None,
    training: bool | None = None,
) -> tf.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1).

    The query is scaled, not the product, and the mask selects rather than adds:
    TensorFlow would fuse product, scale and sum into a kernel five times slower.

    Args:
        query: (B, N, T, H).
        key: (B, N, S, H).
        value: (B, N, S, H).
        mask: bool (B or 1, 1, T, S). True where attention is allowed. Or float32, what
            to add to the logits.
        scale: float. Factor of the logits. Defaults to `1 / sqrt(H)`.
        upcast: bool. Whether to multiply queries and keys in float32. Defaults to
            False.
        dropout: layer applied to the weights. Optional.
        training: bool. Whether dropout is active.

    Returns:
        (B, N, T, H) in the query's dtype. Softmax runs in float32.
    """
    if upcast:
        query, key = tf.cast(query, tf.float32), tf.cast(key, tf.float32)
    scale = scale or 1.0 / math.sqrt(query.shape[-1])
    query = query * tf.cast(scale, query.dtype)
    logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    if mask.dtype == tf.bool:
        logits = tf.where(mask, logits, MASKED_LOGIT)
    else:
        logits += mask
    weights = tf.nn.softmax(logits, axis=-1)
    if dropout is not None:
        weights = dropout(weights, training=training)
    return tf.matmul(tf.cast(weights, value.dtype), value)


@keras.saving.register_keras_serializable(package="keras_gpt")
class CausalSelfAttention(keras.layers.Layer):
    """Attention of a sequence to its own past.

    One projection makes queries, keys and values, in this order and each split
    into heads, as in GPT-2.

    Args:
        num_heads: int (N).
        head_dim: int (H).
        hidden_dim: int (D).
        dropout: float. Rate on the attention weights.
        use_bias: bool. Whether the projections have biases.
        scale: float. Factor of the attention logits. Defaults to `1 / sqrt(H)`.
        upcast: bool. Whether queries and keys are multiplied in float32. Defaults to
            False.
        kernel_initializer: initializer of the first projection.
        residual_initializer: initializer of the projection that ends the branch.

    Call arguments:
        inputs: (B, T, D).
        mask: bool (B or 1, 1, T, S). True where attention is allowed.
        cache: `LayerCache` to read and extend, or () to attend to `inputs` alone.
        cache_rows: int32 (B * N * T,). Rows of the cache that the new tokens take,
            as `kv_cache.cache_rows` numbers them. Only with a cache.
        training: bool. Whether dropout is active.

    Returns:
        `AttentionOutput`.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        hidden_dim: int,
        dropout: float,
        use_bias: bool,
        kernel_initializer: Any,
        residual_initializer: Any,
        scale: float | None = None,
        upcast: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.upcast = upcast
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.query_key_value = Projection(
            3 * num_heads * head_dim,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="query_key_value",
        )
        self.output_projection = Projection(
            hidden_dim,
            use_bias=use_bias,
            kernel_initializer=residual_initializer,
            dtype=self.dtype_policy,
            name="output_projection",
        )
        self.weights_dropout = (
            Dropout(dropout, dtype="float32", name="weights_dropout")
            if dropout
            else None
        )

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        projections = (self.query_key_value, self.output_projection)
        return self.weights_dropout is not None or any(p.drops for p in projections)

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.query_key_value.build(input_shape)
        width = self.num_heads * self.head_dim
        self.output_projection.build((*input_shape[:-1], width))
        self.built = True

    def call(
        self,
        inputs: tf.Tensor,
        mask: tf.Tensor,
        cache: LayerCache | tuple[()] = (),
        cache_rows: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> AttentionOutput:
        """Attends; see the class."""
        batch_size, length = tf.unstack(tf.shape(inputs)[:2])
        # Dense layers are quickest on matrices: a product with its bias is one op.
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        rows = self.query_key_value(rows, training=training, batch=inputs)
        if _columns_by_head.get():
            # (B, T, N, 3, H) -> (3, B, N, T, H)
            columns, order = [self.num_heads, 3], [3, 0, 2, 1, 4]
        else:
            # (B, T, 3, N, H) -> (3, B, N, T, H)
            columns, order = [3, self.num_heads], [2, 0, 3, 1, 4]
        heads = tf.reshape(rows, [batch_size, length, *columns, self.head_dim])
        query, key, value = tf.unstack(tf.transpose(heads, order))
        if cache:
            cache = kv_cache.write(
                LayerCache(*cache), key=key, value=value, rows=cache_rows
            )
            key, value = cache
        context = attend(
            query,
            key=key,
            value=value,
            mask=mask,
            scale=self.scale,
            upcast=self.upcast,
            dropout=self.weights_dropout,
            training=training,
        )
        # (B, N, T, H) -> (B * T, N * H)
        rows = tf.reshape(
            tf.transpose(context, [0, 2, 1, 3]), [-1, self.num_heads * self.head_dim]
        )
        hidden = tf.reshape(
            self.output_projection(rows, training=training, batch=inputs),
            [batch_size, length, self.output_projection.units],
        )
        hidden = tf.ensure_shape(
            hidden, [*inputs.shape[:2], self.output_projection.units]
        )
        return AttentionOutput(hidden, cache)
