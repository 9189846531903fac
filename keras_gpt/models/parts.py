"""The parts of a model: its network, and what a task has besides."""

from __future__ import annotations

from typing import Any

import keras


def backbone_of(model: Any) -> Any:
    """Returns the network of a task, or a network itself.

    Args:
        model: task or `GPTBackbone`.

    Raises:
        ValueError: if it is neither.
    """
    backbone = getattr(model, "backbone", model)
    if not hasattr(backbone, "transformer_layers"):
        raise ValueError(
            "model must be a task of keras_gpt or a GPTBackbone, "
            f"got {type(model).__name__}."
        )
    return backbone


def linear_head(backbone: Any, units: int, **kwargs: Any) -> keras.layers.Dense:
    """Makes the layer of a task that reads hidden states, in float32.

    Args:
        backbone: `GPTBackbone`, whose spread of first weights it gets.
        units: int.
        **kwargs: further arguments of `keras.layers.Dense`.
    """
    stddev = backbone.config.initializer_stddev
    return keras.layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        dtype="float32",
        name="head",
        **kwargs,
    )


def head_weights(model: Any) -> list[Any]:
    """Returns the weights of a task outside its network; none of a network."""
    own = set(map(id, backbone_of(model).weights))
    return [weight for weight in model.weights if id(weight) not in own]


def let_all_learn(backbone: Any) -> None:
    """Makes all weights of a network trainable that can be: not quantized ones."""
    for layer in backbone._flatten_layers():
        layer.trainable = False  # Keras passes over a value that is there already
        layer.trainable = True
