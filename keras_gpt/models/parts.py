"""The parts of a model: its network, and what a task has besides."""

from __future__ import annotations

from typing import Any


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


def head_weights(model: Any) -> list[Any]:
    """Returns the weights of a task outside its network; none of a network."""
    own = set(map(id, backbone_of(model).weights))
    return [weight for weight in model.weights if id(weight) not in own]


def let_all_learn(backbone: Any) -> None:
    """Makes all weights of a network trainable that can be: not quantized ones."""
    for layer in backbone._flatten_layers():
        layer.trainable = False  # Keras passes over a value that is there already
        layer.trainable = True
