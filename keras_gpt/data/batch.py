"""A batch of token windows.

Axes: B batch, T positions. A window holds T + 1 ids: T inputs and, one place
later, T targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class ExampleBatch(NamedTuple):
    """Windows to train or evaluate on, as arrays or tensors.

    Attributes:
        windows: int32 (B, T + 1). Token ids.
        mask: bool (B, T). True where the target counts; None where all do.
        segments: int32 (B, T + 1). Number of each token's document within its row;
            None where a row is one text.
    """

    windows: Any
    mask: Any = None
    segments: Any = None

    def map(self, function: Callable[[Any], Any]) -> ExampleBatch:
        """Applies a function to each field that is there."""
        return ExampleBatch(*(None if f is None else function(f) for f in self))
