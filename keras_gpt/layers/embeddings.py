"""Token and position embeddings."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_gpt.layers.runtime import runtime
from keras_gpt.zero_copy import as_array

FEW_ROWS = 64  # of a decoding step


@keras.saving.register_keras_serializable(package="keras_gpt")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """Token table that also projects hidden states to logits.

    As `keras.layers.ReversibleEmbedding`; the reverse direction multiplies by the
    table as it lies (no transposed copy) and gives float32 logits whatever the
    compute dtype.

    Call arguments:
        inputs: int (B, T) token ids, or float (..., D) hidden states.
        reverse: bool. Whether to project. Defaults to False.

    Returns:
        (B, T, D) in the compute dtype, or (..., V) in float32.
    """

    def call(self, inputs: tf.Tensor, reverse: bool = False) -> tf.Tensor:
        """Embeds or projects; see the class."""
        if not reverse and runtime() == "litert":
            return _looked_up(self, inputs)
        if not reverse or not self.tie_weights or self.quantization_mode:
            outputs = super().call(inputs, reverse=reverse)
            return tf.cast(outputs, tf.float32) if reverse else outputs
        table = tf.cast(tf.convert_to_tensor(self.embeddings), self.compute_dtype)
        inputs = tf.cast(inputs, self.compute_dtype)
        rows = tf.reshape(inputs, [-1, self.output_dim])
        logits = tf.cast(_project(rows, table), tf.float32)
        shape = tf.concat([tf.shape(inputs)[:-1], [self.input_dim]], axis=0)
        logits = tf.reshape(logits, shape)
        return tf.ensure_shape(logits, [*inputs.shape[:-1], self.input_dim])

    def save_own_variables(self, store: Any) -> None:
        """Saves the table; Keras alone would copy it twice to do so."""
        super().save_own_variables(_Views(store))

    def compute_output_spec(
        self, inputs: Any, reverse: bool = False
    ) -> keras.KerasTensor:
        """Static shape and dtype in a functional model."""
        spec = super().compute_output_spec(inputs, reverse=reverse)
        return keras.KerasTensor(spec.shape, "float32") if reverse else spec


def _project(rows: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Multiplies rows (R, D) by the transposed table (V, D): (R, V)."""

    def few() -> tf.Tensor:
        # The long side first: with 8 rows, half the time of the other order.
        return tf.transpose(tf.matmul(table, rows, transpose_b=True))

    def many() -> tf.Tensor:
        return tf.matmul(rows, table, transpose_b=True)

    if runtime() == "litert":  # whose kernels want the table as it lies
        return many()
    count = rows.shape[0]
    if count is not None:
        return few() if count <= FEW_ROWS else many()
    return tf.cond(tf.shape(rows)[0] <= FEW_ROWS, few, many)


def _looked_up(layer: keras.layers.Layer, ids: tf.Tensor) -> tf.Tensor:
    """Looks ids up by LiteRT's own op, which shares a quantized table with products."""
    table = tf.cast(tf.convert_to_tensor(layer.embeddings), layer.compute_dtype)
    rows = _lookup(table, tf.reshape(ids, [-1]))
    return tf.reshape(rows, [*ids.shape, table.shape[-1]])


# LiteRT's converter knows the op by this name and these arguments.
@tf.function(experimental_implements="embedding_matmul", autograph=False)
def _lookup(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    return tf.gather(table, ids)


class _Views:
    """Hands a store views of the variables instead of the variables."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[key] = as_array(value)


@keras.saving.register_keras_serializable(package="keras_gpt")
class PositionEmbedding(keras.layers.Embedding):
    """Learned position table (Radford et al. 2018, section 3.1).

    Call arguments:
        token_ids: int (B, T). Only its shape is read.
        positions: int32 (B, T). Position of each token. Optional; defaults to
            0 .. T-1 in every row.

    Returns:
        (B or 1, T, D) in the compute dtype.
    """

    def call(
        self, token_ids: tf.Tensor, positions: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Looks the positions up; see the class."""
        if positions is None:
            positions = tf.range(tf.shape(token_ids)[1])[None, :]
        if runtime() == "litert":
            return _looked_up(self, positions)
        return super().call(positions)

    def compute_output_spec(
        self, token_ids: Any, positions: Any = None
    ) -> keras.KerasTensor:
        """Static shape and dtype in a functional model."""
        shape = (*token_ids.shape, self.output_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)
