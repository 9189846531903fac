"""How a mesh of devices splits a network's weights.

A mesh has two dimensions. Over `batch` every weight is replicated and the rows of the
batch are split; over `model` weights are split as `SPLIT_RULES` says, so that each
block needs its devices to sum activations twice, after the output projection and after
the contraction (Shoeybi et al. 2019, "Megatron-LM", section 3). Gradients and optimizer
state lie as their weights.

Nothing here needs TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from keras_gpt.config import GPTConfig

MESH_DIMENSIONS = ("batch", "model")


class SplitRule(NamedTuple):
    """Where the weights of some paths are split.

    Attributes:
        pattern: string. Regular expression of the end of the weight's path.
        axis: int or None. The axis split over `model`; None is replicated.
    """

    pattern: str
    axis: int | None


# Shapes: D hidden, N heads, H head size, F intermediate, V vocabulary, P positions.
SPLIT_RULES = (
    SplitRule(r"token_embedding/embeddings", 0),  # [V, D], by rows
    SplitRule(r"token_embedding/reverse_embeddings", 1),  # [D, V], if untied
    SplitRule(r"position_embedding/embeddings", None),  # [P, D]
    SplitRule(r"attention/query_key_value/kernel", 1),  # [D, 3NH], by heads
    SplitRule(r"attention/query_key_value/bias", 0),  # [3NH], by heads
    SplitRule(r"attention/output_projection/kernel", 0),  # [NH, D], by heads
    SplitRule(r"attention/output_projection/bias", None),  # [D], after the sum
    SplitRule(r"mlp/expand/kernel", 1),  # [D, F], by columns
    SplitRule(r"mlp/expand/bias", 0),  # [F]
    SplitRule(r"mlp/contract/kernel", 0),  # [F, D], by rows
    SplitRule(r"mlp/contract/bias", None),  # [D], after the sum
    SplitRule(r"\w*norm/(gamma|beta)", None),  # [D]
    # Of adapters, the matrix on the side that the kernel is split; R rank.
    SplitRule(r"(query_key_value|expand)/lora_kernel_a", None),  # [D, R]
    SplitRule(r"(query_key_value|expand)/lora_kernel_b", 1),  # [R, 3NH or F]
    SplitRule(r"(output_projection|contract)/lora_kernel_a", 0),  # [NH or F, R]
    SplitRule(r"(output_projection|contract)/lora_kernel_b", None),  # [R, D]
)
_COMPILED = [
    (re.compile(rf"(?:^|/){rule.pattern}$"), rule.axis) for rule in SPLIT_RULES
]

# What `model` must divide, for all parts to be equal.
SPLIT_FIELDS = ("num_heads", "intermediate_dim", "vocabulary_size")


def split_axis(path: str) -> int | None:
    """Returns the axis along which a weight is split over `model`.

    Args:
        path: string. The weight's `path`, such as `"transformer_layer_0/mlp/expand/
            kernel"`.

    Returns:
        The axis, or None where each device has the whole of it. Weights without a
        rule, such as the seeds of dropout, are whole everywhere.
    """
    return next((axis for pattern, axis in _COMPILED if pattern.search(path)), None)


def parse_mesh(text: str) -> dict[str, int]:
    """Reads a mesh such as `"batch:4,model:2"`.

    Args:
        text: string. Dimensions and their sizes; one that is left out has size 1.

    Returns:
        Both dimensions, in the order of `MESH_DIMENSIONS`, to their sizes.

    Raises:
        ValueError: if it is not of that form.
    """
    mesh: dict[str, int] = {}
    for part in text.split(","):
        name, colon, size = (word.strip() for word in part.partition(":"))
        if not colon or not re.fullmatch(r"[0-9]{1,9}", size):
            raise ValueError(
                "mesh must be dimensions and sizes such as batch:4,model:2, "
                f"got {text!r}."
            )
        if name in mesh:
            raise ValueError(f"mesh must name {name} once, got {text!r}.")
        mesh[name] = int(size)
    _check_dimensions(mesh)
    return {name: mesh.get(name, 1) for name in MESH_DIMENSIONS}


def check_mesh(config: GPTConfig, mesh: Mapping[str, int]) -> None:
    """Checks that a mesh can split a network into equal parts.

    Args:
        config: `GPTConfig`.
        mesh: dimension to size. One that is left out has size 1.

    Raises:
        ValueError: if a dimension is unknown, its size is not positive, or `model`
            does not divide `num_heads`, `intermediate_dim` or `vocabulary_size`.
    """
    _check_dimensions(mesh)
    parts = mesh.get("model", 1)
    for field in SPLIT_FIELDS:
        if getattr(config, field) % parts:
            raise ValueError(
                f"{field} must be divisible by the mesh's model dimension, "
                f"got {getattr(config, field)} and {parts}."
            )


def padded_vocabulary_size(vocabulary_size: int, mesh: Mapping[str, int]) -> int:
    """Returns the least size, from that on, which `model` divides.

    GPT-2's 50257 tokens fit no mesh; a table with rows that no token takes does.
    """
    parts = mesh.get("model", 1)
    return -(-vocabulary_size // parts) * parts


def _check_dimensions(mesh: Mapping[str, int]) -> None:
    for name, size in mesh.items():
        if name not in MESH_DIMENSIONS:
            raise ValueError(
                f"mesh must have dimensions {' and '.join(MESH_DIMENSIONS)}, "
                f"got {name!r}."
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"mesh's {name} must be a positive integer, got {size!r}.")
