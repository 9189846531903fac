"""What training holds besides activations, in bytes on one device.

Weights, gradients and optimizer state are float32 in both dtype policies, and split
over a mesh's `model` dimension as `training/layouts.py` says.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras_gpt.checkpoints.weight_names import Weight, weights_of
from keras_gpt.config import GPTConfig
from keras_gpt.planning.activations import COMPUTE_BYTES, FLOAT32_BYTES
from keras_gpt.training.layouts import split_axis

OPTIMIZERS = ("adamw", "adafactor")


class StateBytes(NamedTuple):
    """Bytes that one device holds of weights and what belongs to them.

    Attributes:
        weights: int. The weights, float32.
        compute_copies: int. Copies of the matrices in the compute dtype, which the
            forward pass makes and the backward pass reads; 0 in float32. With remat, of
            one block at a time and of the logits' matrix.
        gradients: int. One for each weight, and with accumulation their sum so far.
        optimizer_state: int. The optimizer's moments.
    """

    weights: int
    compute_copies: int
    gradients: int
    optimizer_state: int


def model_weights(config: GPTConfig) -> list[Weight]:
    """Lists every weight of a network, by path and shape, without making any."""
    return weights_of(config, "keras_gpt")


def model_summary(config: GPTConfig) -> dict[str, Any]:
    """Returns a network's config, weights and number of parameters, as plain data."""
    return {
        "config": config.to_dict(),
        "num_parameters": config.num_parameters,
        "weights": [
            {
                "path": weight.path,
                "shape": list(weight.shape),
                "parameters": math.prod(weight.shape),
            }
            for weight in model_weights(config)
        ],
    }


def state_bytes(
    config: GPTConfig,
    *,
    optimizer: str = "adamw",
    dtype_policy: str = "float32",
    accumulate: int = 1,
    remat: bool = False,
    model_parts: int = 1,
) -> StateBytes:
    """Counts the bytes of weights, gradients and optimizer state on one device.

    AdamW has two moments of each weight (Loshchilov & Hutter 2019). Adafactor, as Keras
    has it, has one, and of each matrix the means of its squared gradients by row and
    by column (Shazeer & Stern 2018, algorithm 4, and the update that Keras keeps).

    Args:
        config: `GPTConfig`.
        optimizer: string. One of `OPTIMIZERS`. Defaults to `"adamw"`.
        dtype_policy: string. A key of `COMPUTE_BYTES`. Defaults to `"float32"`.
        accumulate: int. Parts of the batch whose gradients are summed. Defaults to 1.
        remat: bool. Whether blocks are computed again in the backward pass. Defaults
            to False.
        model_parts: int. Size of the mesh's `model` dimension. Defaults to 1.
    """
    weights = model_weights(config)
    own = FLOAT32_BYTES * sum(_own_size(weight, model_parts) for weight in weights)
    state = 2 * own
    if optimizer == "adafactor":
        means = sum(_own_means(weight, model_parts) for weight in weights)
        state = own + FLOAT32_BYTES * means
    return StateBytes(
        weights=own,
        compute_copies=_copies(config, dtype_policy, remat, model_parts),
        gradients=own * (2 if accumulate > 1 else 1),
        optimizer_state=state,
    )


def kv_cache_bytes(
    config: GPTConfig,
    *,
    batch_size: int,
    num_slots: int,
    dtype_policy: str = "float32",
    model_parts: int = 1,
) -> int:
    """Counts the bytes of the keys and values that generation keeps.

    Args:
        config: `GPTConfig`.
        batch_size: int. Texts at a time.
        num_slots: int. Tokens of each text.
        dtype_policy: string. A key of `COMPUTE_BYTES`. Defaults to `"float32"`.
        model_parts: int. Devices among which the heads are split. Defaults to 1.
    """
    token = 2 * config.num_layers * config.attention_dim * COMPUTE_BYTES[dtype_policy]
    return batch_size * num_slots * token // model_parts


def _own_size(weight: Weight, model_parts: int) -> int:
    split = split_axis(weight.path) is not None
    return math.prod(weight.shape) // (model_parts if split else 1)


def _own_means(weight: Weight, model_parts: int) -> int:
    if len(weight.shape) < 2:
        return 0
    axis = split_axis(weight.path)
    return sum(
        size // (model_parts if place == axis else 1)
        for place, size in enumerate(weight.shape)
    )


def _copies(config: GPTConfig, dtype_policy: str, remat: bool, model_parts: int) -> int:
    size = COMPUTE_BYTES[dtype_policy]
    if size == FLOAT32_BYTES:
        return 0
    kernels = sum(
        _own_size(weight, model_parts)
        for weight in model_weights(config)
        if weight.path.endswith("/kernel")
    )
    if remat:
        kernels //= config.num_layers
    table = config.vocabulary_size * config.hidden_dim // model_parts
    return size * (kernels + table)
