"""Merging against `tokenizers` on vocabularies that no training would give."""

import itertools
import random

import pytest
import tokenizers

from keras_gpt.tokenizer import GPTTokenizer
from keras_gpt.tokenizer.byte_pair_merge import MergeTable


def reference_ids(vocabulary, merges, strings):
    pairs = [tuple(m.split(" ")) for m in merges]
    reference = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=pairs)
    )
    return [e.ids for e in reference.encode_batch(strings)]


def random_vocabulary(draw, *, shuffled):
    """Merges of a and b, in the order they were made or in any."""
    tokens, merges = ["a", "b"], []
    for _ in range(draw.randrange(1, 12)):
        left, right = draw.choice(tokens), draw.choice(tokens)
        if f"{left} {right}" not in merges:
            merges.append(f"{left} {right}")
            if left + right not in tokens:
                tokens.append(left + right)
    if shuffled:
        draw.shuffle(merges)
    return {token: i for i, token in enumerate(tokens)}, merges


@pytest.mark.parametrize("shuffled", [False, True])
def test_random_vocabularies_merge_as_the_reference(shuffled):
    draw = random.Random(7)
    strings = [
        "".join(s) for n in (1, 2, 3, 7) for s in itertools.product("ab", repeat=n)
    ]
    strings += ["a" * n for n in range(8, 20)]
    for _ in range(40):
        vocabulary, merges = random_vocabulary(draw, shuffled=shuffled)
        tokenizer = GPTTokenizer(vocabulary=vocabulary, merges=merges)
        expected = reference_ids(vocabulary, merges, strings)
        assert tokenizer.tokenize(strings).to_list() == expected, merges


def test_order_of_ranks_is_noticed():
    in_order = MergeTable([[0, 1, 2], [2, 1, 3]])
    assert in_order.in_rank_order
    # (2, 1) ranks before (0, 1), which makes the 2.
    assert not MergeTable([[2, 1, 3], [0, 1, 2]]).in_rank_order


def test_repeated_pair_has_its_last_rank():
    vocabulary = {"a": 0, "b": 1, "ab": 2, "ba": 3}
    merges = ["a b", "b a", "a b"]
    tokenizer = GPTTokenizer(vocabulary=vocabulary, merges=merges)
    strings = ["aba", "bab", "abab"]
    expected = reference_ids(vocabulary, merges, strings)
    assert tokenizer.tokenize(strings).to_list() == expected
