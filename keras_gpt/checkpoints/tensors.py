"""The tensors of a checkpoint by their names, whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

TORCH_HEAD = "lm_head.weight"


class Tensors(Protocol):
    """Named arrays that are read one at a time."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each by its name."""

    def dtype(self, name: str) -> np.dtype:
        """Returns the dtype of one."""

    def read(self, name: str) -> np.ndarray:
        """Reads one."""


class RenamedTensors:
    """Some of the `Tensors`, under other names.

    Args:
        tensors: `Tensors`.
        names: dict. Stored name by new name.

    Attributes:
        stored: the tensors under their stored names.
        names: as given.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        self.stored = tensors
        self.names = names
        self.shapes = {new: tensors.shapes[old] for new, old in names.items()}

    def dtype(self, name: str) -> np.dtype:
        """Returns the dtype of one."""
        return self.stored.dtype(self.names[name])

    def read(self, name: str) -> np.ndarray:
        """Reads one."""
        return self.stored.read(self.names[name])


def without_tied_head(
    tensors: RenamedTensors, *, table: str, location: str
) -> RenamedTensors:
    """Returns the weights of a network with tied embeddings, each once.

    Formats of torch may hold the shared table a second time, as the head, or under
    the head's name alone.

    Args:
        tensors: `RenamedTensors`.
        table: string. Name of the table.
        location: string. For messages.

    Raises:
        ValueError: if the head is there and differs from the table.
    """
    names = dict(tensors.names)
    head = names.pop(TORCH_HEAD, None)
    if head is None:
        return tensors
    if table not in names:
        names[table] = head
    elif not np.array_equal(tensors.read(TORCH_HEAD), tensors.read(table)):
        raise ValueError(
            f"{location}: {TORCH_HEAD} must equal {table}, since the config ties them, "
            "but differs."
        )
    return RenamedTensors(tensors.stored, names)
