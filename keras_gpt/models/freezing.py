"""Which weights of a model learn: the upper blocks, while the lower ones stay."""

from __future__ import annotations

from typing import Any

from keras_gpt.models.parts import backbone_of, let_all_learn


def freeze_layers(model: Any, *, num_layers: int = 0, embeddings: bool = True) -> None:
    """Freezes the embeddings and the lowest blocks of a network, and no others.

    What was frozen before and is not named here learns again, so that calls with fewer
    and fewer blocks unfreeze a network gradually, from the top (Howard & Ruder 2018,
    section 3.3). While an adapter is active, its part of a block is what the call
    freezes or not, and the network's own weights stay frozen. A task's head is left as
    it is. A task that was trained before must be compiled again.

    Args:
        model: task or `GPTBackbone`.
        num_layers: int from 0 to the number of blocks. Blocks to freeze, from the
            lowest. Defaults to 0.
        embeddings: bool. Whether tokens' and positions' tables are frozen; where they
            are tied, so is the projection to logits. Defaults to True.

    Raises:
        ValueError: if `num_layers` is out of its range.
    """
    backbone = backbone_of(model)
    blocks = backbone.transformer_layers
    if type(num_layers) is not int or not 0 <= num_layers <= len(blocks):
        raise ValueError(
            f"num_layers must be an integer from 0 to {len(blocks)}, "
            f"got {num_layers!r}."
        )
    frozen_layers = list(blocks[:num_layers])
    if embeddings:
        frozen_layers += [backbone.token_embedding, backbone.position_embedding]
    frozen = {id(weight) for layer in frozen_layers for weight in layer.weights}
    adapters = backbone.adapters
    learning = backbone.weights
    if adapters.active is not None:
        learning = adapters.named(None).variables
    kept = {id(weight) for weight in learning} - frozen
    let_all_learn(backbone)
    for weight in backbone.weights:
        weight.trainable = weight.trainable and id(weight) in kept


def unfreeze_layers(model: Any) -> None:
    """Lets all of a network learn; with an active adapter, all of that.

    Args:
        model: task or `GPTBackbone`.
    """
    freeze_layers(model, num_layers=0, embeddings=False)
