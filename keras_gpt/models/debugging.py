"""Finding where in a network numbers go wrong."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def first_invalid_layer(backbone: Any, token_ids: np.ndarray) -> str:
    """Returns the name of the first layer whose output is not finite.

    Args:
        backbone: `keras.Model` over `token_ids` and `padding_mask`, with `logits`.
        token_ids: int32 (T,).

    Returns:
        The layer's name; "the logits" if the hidden states are finite and they are
        not; "a logits processor" if all of that is finite.
    """
    layers = [
        layer
        for layer in backbone.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    probe = keras.Model(backbone.inputs, [layer.output for layer in layers])
    ids = tf.constant(np.asarray(token_ids, np.int32)[None])
    inputs = {"token_ids": ids, "padding_mask": tf.ones_like(ids)}
    for layer, output in zip(layers, probe(inputs), strict=True):
        if not all(map(_is_finite, tf.nest.flatten(output))):
            return layer.name
    hidden = backbone(inputs)
    return "a logits processor" if _is_finite(backbone.logits(hidden)) else "the logits"


def _is_finite(tensor: tf.Tensor) -> bool:
    if not tensor.dtype.is_floating:
        return True
    return bool(tf.reduce_all(tf.math.is_finite(tensor)))
