"""Special tokens, and finding them in text: all places of all tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

END_TOKEN = "<|endoftext|>"  # noqa: S105  GPT-2: Radford et al. 2019
UNKNOWN_TOKEN = "<unk>"  # noqa: S105  GPT-1: Radford et al. 2018

NO_TOKEN = -1
NO_CHARACTER = -1
# Edges of the trie are keyed by node * NODE_STRIDE + code point.
NODE_STRIDE = 2**21


class FoundTokens(NamedTuple):
    """Where special tokens stand among the code points of texts.

    Attributes:
        opens: int32 (C,). Number of the special token that begins here, else -1.
        inside: bool (C,). Whether one covers this place without beginning here.
    """

    opens: tf.Tensor
    inside: tf.Tensor


class SpecialTokenFinder:
    """Finds given strings, leftmost first and the longest at the same place.

    So do the added tokens of Hugging Face `tokenizers`. A trie is walked from all
    places at once, so the cost does not depend on the number of tokens.

    Args:
        tokens: strings that are not empty.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        edges: dict[int, int] = {}
        tokens_of_nodes = [NO_TOKEN]
        for number, token in enumerate(tokens):
            node = 0
            for character in token:
                key = node * NODE_STRIDE + ord(character)
                node = edges.setdefault(key, len(tokens_of_nodes))
                if node == len(tokens_of_nodes):
                    tokens_of_nodes.append(NO_TOKEN)
            tokens_of_nodes[node] = number
        keys = sorted(edges)
        # One more edge, which no key equals, for searches that end past the last.
        self._keys = np.array([*keys, np.iinfo(np.int64).max], np.int64)
        self._targets = np.array([*(edges[key] for key in keys), 0], np.int32)
        self._tokens_of_nodes = np.array(tokens_of_nodes, np.int32)
        self._lengths = np.array([len(token) for token in tokens] or [0], np.int64)

    def find(self, code_points: tf.Tensor, *, is_first: tf.Tensor) -> FoundTokens:
        """Finds the tokens.

        Args:
            code_points: int32 (C,). Characters of all texts, one text after another.
            is_first: bool (C,). Marks the texts' beginnings; no token spans two.

        Returns:
            `FoundTokens`.
        """
        longest = self._longest(code_points, is_first)
        starts = tf.where(longest >= 0)[:, 0]
        ends = starts + tf.gather(self._lengths, tf.gather(longest, starts))
        chosen = _leftmost(starts, ends)
        starts, ends = tf.boolean_mask(starts, chosen), tf.boolean_mask(ends, chosen)
        size = tf.size(code_points, tf.int64)
        edges = tf.scatter_nd(
            tf.concat([starts, ends], axis=0)[:, None],
            tf.concat([tf.ones_like(starts), -tf.ones_like(ends)], axis=0),
            [size + 1],
        )
        covered = tf.cumsum(edges)[:-1] > 0
        is_open = tf.scatter_nd(starts[:, None], tf.ones_like(starts), [size]) > 0
        return FoundTokens(tf.where(is_open, longest, NO_TOKEN), covered & ~is_open)

    def _longest(self, code_points: tf.Tensor, is_first: tf.Tensor) -> tf.Tensor:
        """int32 (C,). Longest token that the text spells from each place, or -1."""
        ahead = tf.concat([code_points, [NO_CHARACTER]], axis=0)
        ends_text = tf.concat([is_first, [True]], axis=0)

        def walk(
            offset: tf.Tensor, starts: tf.Tensor, nodes: tf.Tensor, longest: tf.Tensor
        ) -> list[tf.Tensor]:
            here = starts + offset
            keys = tf.cast(nodes, tf.int64) * NODE_STRIDE
            keys += tf.cast(tf.gather(ahead, here), tf.int64)
            edge = tf.searchsorted(self._keys, keys)
            follows = tf.gather(self._keys, edge) == keys
            follows &= (offset == 0) | ~tf.gather(ends_text, here)
            starts = tf.boolean_mask(starts, follows)
            nodes = tf.gather(self._targets, tf.boolean_mask(edge, follows))
            token = tf.gather(self._tokens_of_nodes, nodes)
            ends = token >= 0
            longest = tf.tensor_scatter_nd_update(
                longest,
                tf.boolean_mask(starts, ends)[:, None],
                tf.boolean_mask(token, ends),
            )
            return [offset + 1, starts, nodes, longest]

        places = tf.range(tf.size(code_points, tf.int64))
        vector = tf.TensorShape([None])
        return tf.while_loop(
            lambda offset, starts, *_: tf.size(starts) > 0,
            walk,
            [
                tf.constant(0, tf.int64),
                places,
                tf.zeros_like(code_points),
                tf.fill(tf.shape(code_points), NO_TOKEN),
            ],
            shape_invariants=[tf.TensorShape([]), vector, vector, vector],
            parallel_iterations=1,
        )[-1]


def _leftmost(starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Bool (K,). The spans that are taken from left to right without overlaps.

    Which span follows which is known for each; those reached from the first one are
    marked in log2(K) rounds, each of which doubles the length of the jumps.
    """
    count = tf.size(starts, tf.int32)
    following = tf.searchsorted(starts, ends)
    # One more span stands for the end.
    jumps = tf.concat([following, [count]], axis=0)
    reached = tf.range(count + 1) == 0

    def double(jumps: tf.Tensor, reached: tf.Tensor) -> list[tf.Tensor]:
        targets = tf.boolean_mask(jumps, reached)
        reached = tf.tensor_scatter_nd_update(
            reached, targets[:, None], tf.ones_like(targets, tf.bool)
        )
        return [tf.gather(jumps, jumps), reached]

    _, reached = tf.while_loop(
        lambda jumps, reached: jumps[0] < count,
        double,
        [jumps, reached],
        shape_invariants=[tf.TensorShape([None])] * 2,
        parallel_iterations=1,
    )
    return reached[:-1]
