"""Recomputing a block in the backward pass instead of keeping what it computed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_gpt.layers.dropout import current_noise, step_noise


def rematerialized(
    block: Any, hidden: tf.Tensor, *, mask: tf.Tensor, training: bool | None
) -> tf.Tensor:
    """Runs a block so that only its input is kept for the backward pass.

    The backward pass runs the block again, dropout included: a third more work, for
    the memory of one block's insides instead of all blocks'.

    Args:
        block: `TransformerBlock`.
        hidden: (B, T, D).
        mask: bool (B or 1, 1, T, T). As in the block.
        training: bool. Whether dropout is active.

    Returns:
        (B, T, D). The same values and gradients as the block's own.

    Raises:
        ValueError: if dropout is active outside `step_noise`: a second run would then
            draw other noise.

    Reference: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    noise = current_noise()
    if training and noise is None and block.drops:
        raise ValueError("remat must run within step_noise where dropout is active.")
    first_stream = noise.stream if noise else 0
    variables = block.trainable_variables
    # Frozen weights as constants: the second run then computes no gradients for them.
    frozen = [
        (variable, tf.stop_gradient(tf.convert_to_tensor(variable.value)))
        for variable in block.weights
        if not variable.trainable
    ]

    def run(hidden: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        if noise:
            noise.stream = first_stream  # the second run draws what the first drew
        # As arguments, not as captured variables: the gradient then also flows where
        # a variable stands for a tensor (a mesh).
        values = [*frozen, *zip(variables, weights, strict=True)]
        with step_noise(noise), keras.StatelessScope(values):
            return block(hidden, mask, training=training).hidden

    weights = [tf.convert_to_tensor(variable.value) for variable in variables]
    return tf.recompute_grad(run)(hidden, *weights)
