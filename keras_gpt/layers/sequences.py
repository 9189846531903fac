"""Several sequences of a row, and the token of each that has seen it whole."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def merged_rows(tensor: tf.Tensor) -> tf.Tensor:
    """Lays the sequences of all rows one below the other.

    Args:
        tensor: (B, T), returned as it is, or (B, C, T) for C sequences in a row.

    Returns:
        (B, T) or (B * C, T).
    """
    if len(tensor.shape) == 2:
        return tensor
    merged = tf.reshape(tensor, [-1, tf.shape(tensor)[-1]])
    return tf.ensure_shape(merged, [None, tensor.shape[-1]])


@keras.saving.register_keras_serializable(package="keras_gpt")
class MergeRows(keras.layers.Layer):
    """`merged_rows` as a layer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Merges; see the class."""
        return merged_rows(inputs)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Static shape in a functional model."""
        return keras.KerasTensor((None, inputs.shape[-1]), dtype=inputs.dtype)


@keras.saving.register_keras_serializable(package="keras_gpt")
class SplitRows(keras.layers.Layer):
    """Undoes `merged_rows`, of what was computed for each sequence.

    Call arguments:
        inputs: (B * C, F).
        like: (B, C, T), what was merged.

    Returns:
        (B, C, F).
    """

    def call(self, inputs: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Splits; see the class."""
        shape = [-1, tf.shape(like)[1], inputs.shape[-1]]
        return tf.ensure_shape(
            tf.reshape(inputs, shape), [None, like.shape[1], inputs.shape[-1]]
        )

    def compute_output_spec(self, inputs: Any, like: Any) -> keras.KerasTensor:
        """Static shape in a functional model."""
        return keras.KerasTensor((*like.shape[:2], inputs.shape[-1]), inputs.dtype)


@keras.saving.register_keras_serializable(package="keras_gpt")
class LastToken(keras.layers.Layer):
    """Takes the hidden state of the last token of each sequence.

    Under the causal mask it is the one that has seen the whole text (Radford et al.
    2018, section 3.2).

    Call arguments:
        hidden: (B, T, D).
        padding_mask: int or bool (B, T), true at real tokens, which come first.

    Returns:
        (B, D). Of a sequence without tokens, that of its first place.
    """

    def call(self, hidden: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
        """Selects; see the class."""
        lengths = tf.reduce_sum(tf.cast(padding_mask, tf.int32), axis=1)
        places = tf.maximum(lengths - 1, 0)
        return tf.gather(hidden, places, axis=1, batch_dims=1)

    def compute_output_spec(self, hidden: Any, padding_mask: Any) -> keras.KerasTensor:
        """Static shape in a functional model."""
        return keras.KerasTensor((hidden.shape[0], hidden.shape[2]), hidden.dtype)
