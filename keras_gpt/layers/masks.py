"""Attention masks. True where attention is allowed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_gpt")
class AttentionMask(keras.layers.Layer):
    """Builds the causal mask, with padded keys left out.

    Call arguments:
        token_ids: int (B, T). Only its shape is read.
        padding_mask: int or bool (B, T), true at real tokens. Optional.
        slots: int32 (B, T). Slot of each query when the keys are those of a cache.
            Optional; defaults to 0 .. T-1.
        num_keys: int32 scalar (S). Number of keys. Defaults to T.

    Returns:
        bool (B or 1, 1, T, S). True where the query may attend to the key. Padded
        keys are hidden from every query but their own, so no softmax is empty.
    """

    def call(
        self,
        token_ids: tf.Tensor,
        padding_mask: tf.Tensor | None = None,
        slots: tf.Tensor | None = None,
        num_keys: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Builds the mask; see the class."""
        length = tf.shape(token_ids)[1]
        if slots is None:
            slots = tf.range(length)[None, :]
        keys = tf.range(length if num_keys is None else num_keys)
        mask = keys[None, None, :] <= slots[:, :, None]
        if padding_mask is not None:
            real = tf.cast(padding_mask, tf.bool)[:, None, :]
            mask = mask & (real | (keys[None, None, :] == slots[:, :, None]))
        return mask[:, None]

    def compute_output_spec(
        self, token_ids: Any, padding_mask: Any = None, **kwargs: Any
    ) -> keras.KerasTensor:
        """Static shape of the mask in a functional model."""
        batch_size, length = token_ids.shape
        return keras.KerasTensor((batch_size, 1, length, length), dtype="bool")


def segment_mask(segments: tf.Tensor) -> tf.Tensor:
    """Returns the mask with which packed documents do not see each other.

    Args:
        segments: int32 (B, T). Number of each token's document within its row.

    Returns:
        bool (B, 1, T, T). True where the key is of the query's own segment, and not
        later.
    """
    places = tf.range(tf.shape(segments)[1])
    same = tf.expand_dims(segments, 2) == tf.expand_dims(segments, 1)
    return tf.expand_dims(same & (places[None, :] <= places[:, None]), 1)


def segment_positions(mask: tf.Tensor) -> tf.Tensor:
    """Returns int32 (B, T), each token's position in its own segment, from 0.

    Args:
        mask: bool (B, 1, T, T), from `segment_mask`.
    """
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=[1, 3]) - 1
