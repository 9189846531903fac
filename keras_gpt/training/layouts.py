"""How a mesh splits a model: one table of rules, for the trainer and the planner."""

from __future__ import annotations

import re
from collections.abc import Mapping

from keras_gpt.config import GPTConfig

DIMENSIONS = ("batch", "model")

# Path of a weight to the axis that the `model` dimension splits, counted from the
# end; every other weight is whole on each device. As in Shoeybi et al. 2019,
# "Megatron-LM", section 3: columns of what opens a branch, rows of what closes it.
SPLIT_RULES = (
    (r"attention/query_key_value/(kernel|bias)", -1),  # by heads
    (r"attention/output_projection/kernel", -2),
    (r"mlp/expand/(kernel|bias)", -1),
    (r"mlp/contract/kernel", -2),
    (r"token_embedding/embeddings", -2),  # by vocabulary
    (r"token_embedding/reverse_embeddings", -1),  # an untied head
)
_BY_HEAD = re.compile(r"(.*/)?attention/query_key_value/(kernel|bias)")


def split_axis(path: str) -> int | None:
    """Returns the axis, counted from the end, along which a weight is split.

    Args:
        path: string. Of a variable of `GPTBackbone`.

    Returns:
        Negative int, or None for a weight that every device has whole.
    """
    for pattern, axis in SPLIT_RULES:
        if re.fullmatch(rf"(.*/)?{pattern}", path):
            return axis
    return None


def is_split_by_head(path: str) -> bool:
    """Returns whether a weight's last axis is queries, keys and values of heads."""
    return bool(_BY_HEAD.fullmatch(path))


def parse_mesh(text: str) -> dict[str, int]:
    """Reads a mesh such as `"batch:4,model:2"`.

    Returns:
        Dict of `"batch"` and `"model"` to their sizes; one not given has size 1.

    Raises:
        ValueError: if the text is none, or names another dimension.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, colon, size = part.strip().partition(":")
        known = name in DIMENSIONS and name not in sizes
        if not (known and colon and size.isdecimal() and int(size) >= 1):
            raise ValueError(
                "mesh must be like 'batch:4,model:2', each dimension once with a "
                f"positive size, got {text!r}."
            )
        sizes[name] = int(size)
    return {name: sizes.get(name, 1) for name in DIMENSIONS}


def check_mesh(config: GPTConfig, mesh: Mapping[str, int]) -> None:
    """Checks that a mesh divides what it splits of a model.

    Raises:
        ValueError: if `model` does not divide the heads, the MLP's inner width or
            the vocabulary.
    """
    size = mesh["model"]
    for name in ("num_heads", "intermediate_dim", "vocabulary_size"):
        value = getattr(config, name)
        if value % size:
            raise ValueError(
                f"mesh must divide the model: {name} = {value} is no multiple of "
                f"model:{size}."
            )
