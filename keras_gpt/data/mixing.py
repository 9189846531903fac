"""Orders that are pure functions: permutations by key, and sources by weight.

Nothing here draws from a state that moves on. A permutation is the stable order of
raw words of a Philox generator (Salmon et al. 2011) whose key is a hash of numbers, so
that each can be had at any time, alone, and stays the same in every version of NumPy,
which promises that for raw words but not for `Generator.permutation`.
"""

from __future__ import annotations

import collections
import hashlib
import struct
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

# Positions of the sequence that the sources share out anew, by their weights.
BLOCK_SLOTS = 1024


def permutation(size: int, *key: int) -> np.ndarray:
    """Returns a permutation of `size` numbers, a pure function of the key.

    Args:
        size: int.
        *key: ints of 64 bits: seed, epoch and whatever else it depends on.

    Returns:
        int64 (size,).
    """
    packed = struct.pack(f"<{len(key)}q", *key)
    words = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), "<u8")
    raw = np.random.Philox(key=words).random_raw(size)
    return np.argsort(raw, kind="stable")


class Cache:
    """Keeps the results used last.

    Args:
        max_items: int. How many numbers all results together may hold; the newest
            result is kept whatever it holds.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._num_items = 0
        self._results: collections.OrderedDict[Hashable, Any] = (
            collections.OrderedDict()
        )

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the array that `make` returns, or returned for the same key."""
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        result = self._results[key] = make()
        self._num_items += result.size
        while self._num_items > self._max_items and len(self._results) > 1:
            self._num_items -= self._results.popitem(last=False)[1].size
        return result


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises `ValueError` unless each source's weight is worth a slot."""
    if not weights:
        raise ValueError("sources must be at least one, got none.")
    for name, count in zip(weights, slot_counts(list(weights.values())), strict=True):
        if not count:
            raise ValueError(
                f"weight of source {name!r} must be at least about one in "
                f"{BLOCK_SLOTS} of all, got {weights[name]} of "
                f"{sum(weights.values())}."
            )


def slot_counts(weights: list[float]) -> list[int]:
    """Returns how many of a block's slots each weight gets, by largest remainder."""
    shares = [weight / sum(weights) * BLOCK_SLOTS for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(
        range(len(shares)), key=lambda i: counts[i] - shares[i]
    )  # stable: the first listed wins
    for index in by_remainder[: BLOCK_SLOTS - sum(counts)]:
        counts[index] += 1
    return counts


class Mixed(NamedTuple):
    """Where positions of the sequence fall.

    Attributes:
        sources: int64 (B,). Number of the source.
        indices: int64 (B,). Place in the source's own sequence.
    """

    sources: np.ndarray
    indices: np.ndarray


class Mixture:
    """Shares positions out between sources, a pure function of (seed, position).

    Each block of 1,024 positions gives each source as many as its weight says, in an
    order of the block's own. A source's own sequence goes on from block to block: its
    place there follows by counting, so that nothing of it is left out or repeated.

    Args:
        weights: float by source; see `check_weights`.
    """

    def __init__(self, weights: list[float]) -> None:
        self._counts = np.array(slot_counts(weights), np.int64)
        self._pattern = np.repeat(np.arange(len(weights)), self._counts)
        # Place of each slot among those of its source, in the pattern's own order.
        self._cache = Cache(64 * BLOCK_SLOTS)

    def at(self, positions: np.ndarray, *, seed: int) -> Mixed:
        """Returns source and place of each position: int64 (B,)."""
        if len(self._counts) == 1:
            return Mixed(np.zeros_like(positions), positions)
        blocks, slots = np.divmod(positions, BLOCK_SLOTS)
        sources, ranks = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks):
            here = blocks == block
            shuffled = self._block(seed, int(block))
            sources[here], ranks[here] = shuffled[:, slots[here]]
        return Mixed(sources, blocks * self._counts[sources] + ranks)

    def _block(self, seed: int, block: int) -> np.ndarray:
        """Source of each slot, and how many slots before it are the source's."""

        def make() -> np.ndarray:
            sources = self._pattern[permutation(BLOCK_SLOTS, seed, block)]
            by_source = np.argsort(sources, kind="stable")
            first = np.cumsum(self._counts) - self._counts
            ranks = np.empty_like(sources)
            ranks[by_source] = np.arange(BLOCK_SLOTS) - first[sources[by_source]]
            return np.stack([sources, ranks])

        return self._cache.get((seed, block), make)
