"""Byte-pair merging of many words at once, on flat vectors.

Sennrich et al. 2016, algorithm 1, as GPT-2 applies it: in each word the pair of the
lowest rank merges, wherever it stands, until no pair has a rank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

NO_RANK = 2**31 - 1
PAIR_SHIFT = 2**32


class MergeTable:
    """The merges of a vocabulary, as a static look-up table.

    Args:
        merges: int (M, 3). Left id, right id and merged id, in order of rank.
    """

    def __init__(self, merges: np.ndarray) -> None:
        merges = np.asarray(merges, np.int64).reshape(-1, 3)
        ranks = np.arange(len(merges), dtype=np.int64)
        # A pair given twice keeps its last rank, as in `tokenizers`.
        ranked = dict(zip(merges[:, 0] * PAIR_SHIFT + merges[:, 1], ranks, strict=True))
        self.is_empty = not ranked
        self.in_rank_order = _in_rank_order(merges)
        with tf.init_scope():
            self.merged_ids = tf.constant(np.append(merges[:, 2], 0), tf.int32)
            self.ranks = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    np.array(list(ranked) or [-1], np.int64),
                    np.array(list(ranked.values()) or [NO_RANK], np.int64),
                ),
                default_value=NO_RANK,
            )


def _in_rank_order(merges: np.ndarray) -> bool:
    """Whether no merge makes a pair that ranks before itself, as learnt merges do."""
    last_rank = {int(merged): rank for rank, merged in enumerate(merges[:, 2])}
    first_use: dict[int, int] = {}
    for rank, (left, right, _) in enumerate(merges):
        first_use.setdefault(int(left), rank)
        first_use.setdefault(int(right), rank)
    return all(first_use.get(token, NO_RANK) > r for token, r in last_rank.items())


class MergedWords(NamedTuple):
    """Tokens of words.

    Attributes:
        token_ids: int32 (S',). Tokens of all words, in order.
        words: int64 (S',). Number of the word of each token, ascending.
    """

    token_ids: tf.Tensor
    words: tf.Tensor


class _State(NamedTuple):
    """Symbols of the words that still merge, and the tokens found so far.

    Attributes:
        tokens: int32 (S,). Token at each original place, -1 where merged away.
        places: int64 (A,). Original place of each active symbol.
        symbols: int32 (A,).
        words: int64 (A,). Word of each active symbol, numbered from 0 without gaps.
    """

    tokens: tf.Tensor
    places: tf.Tensor
    symbols: tf.Tensor
    words: tf.Tensor


def merge_words(symbols: tf.Tensor, words: tf.Tensor, table: MergeTable) -> MergedWords:
    """Merges the symbols of each word.

    Args:
        symbols: int32 (S,). First symbols of all words, in order.
        words: int64 (S,). Number of the word of each symbol, ascending.
        table: `MergeTable`.

    Returns:
        `MergedWords`.
    """
    if table.is_empty:
        return MergedWords(symbols, words)
    state = _State(
        tokens=symbols,
        places=tf.range(tf.size(symbols, tf.int64)),
        symbols=symbols,
        words=_renumber(words),
    )
    state = _State(
        *tf.while_loop(
            lambda *now: tf.size(now[1]) > 1,
            lambda *now: list(_merge_round(_State(*now), table)),
            list(state),
            shape_invariants=[tf.TensorShape([None])] * 4,
            parallel_iterations=1,
        )
    )
    kept = state.tokens >= 0
    return MergedWords(
        tf.boolean_mask(state.tokens, kept), tf.boolean_mask(words, kept)
    )


def _merge_round(now: _State, table: MergeTable) -> _State:
    """Merges the best pair of each word and drops the words that have none."""
    ranks = _pair_ranks(now, table)
    best = tf.gather(tf.math.segment_min(ranks, now.words), now.words)
    merging = (best != NO_RANK) & (ranks == best)
    if table.in_rank_order:
        merging = _without_overlaps(merging)
    else:
        # A new pair may rank first, so only the leftmost pair may merge.
        merging = _leftmost(merging, now.words)
    merged = tf.boolean_mask(now.places, merging)
    ids = tf.gather(table.merged_ids, tf.cast(tf.boolean_mask(best, merging), tf.int32))
    consumed = tf.concat([[False], merging[:-1]], axis=0)
    gone = tf.boolean_mask(now.places, consumed)
    tokens = tf.tensor_scatter_nd_update(
        now.tokens,
        tf.concat([merged, gone], axis=0)[:, None],
        tf.concat([ids, tf.fill(tf.shape(gone), -1)], axis=0),
    )
    active = tf.where((best != NO_RANK) & ~consumed)[:, 0]
    places = tf.gather(now.places, active)
    return _State(
        tokens=tokens,
        places=places,
        symbols=tf.gather(tokens, places),
        words=_renumber(tf.gather(now.words, active)),
    )


def _pair_ranks(now: _State, table: MergeTable) -> tf.Tensor:
    """int64 (A,). Rank of each symbol with the next one of its word."""
    left = tf.cast(now.symbols[:-1], tf.int64) * PAIR_SHIFT
    pairs = left + tf.cast(now.symbols[1:], tf.int64)
    ranks = tf.where(
        now.words[:-1] == now.words[1:], table.ranks.lookup(pairs), NO_RANK
    )
    return tf.concat([ranks, [tf.constant(NO_RANK, tf.int64)]], axis=0)


def _without_overlaps(merging: tf.Tensor) -> tf.Tensor:
    """Keeps every other place of each run: in "aaa" only the first pair merges."""
    places = tf.range(tf.size(merging))
    opens = merging & ~tf.concat([[False], merging[:-1]], axis=0)
    run = tf.cumsum(tf.cast(opens, tf.int32)) - 1
    first = tf.concat([tf.where(opens)[:, 0], [0]], axis=0)
    start = tf.gather(tf.cast(first, tf.int32), tf.maximum(run, 0))
    return merging & ((places - start) % 2 == 0)


def _leftmost(merging: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """Keeps the first place of each word."""
    places = tf.range(tf.size(merging, tf.int64))
    candidates = tf.where(merging, places, NO_RANK)
    first = tf.gather(tf.math.segment_min(candidates, words), words)
    return merging & (places == first)


def _renumber(words: tf.Tensor) -> tf.Tensor:
    """Numbers ascending words from 0 without gaps."""
    changes = tf.cast(words[1:] != words[:-1], tf.int64)
    zero = tf.zeros_like(words[:1])
    return tf.concat([zero, tf.cumsum(changes)], axis=0)
