"""Prompts of a given number of tokens, and a tokenizer for them without files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from keras_gpt import GPTTokenizer
from keras_gpt.tokenizer.gpt2_files import byte_characters

# A phrase of a text that repeats itself.
PHRASE = "the quick brown fox jumps over the lazy dog and runs away"


def made_tokenizer(vocabulary_size: int) -> GPTTokenizer:
    """Returns a tokenizer of all bytes, and of pairs of bytes up to a size.

    Made for a model of as many tokens, it leaves none of them out as a text is
    decoded; and it has no end token, so that nothing ends a text.
    """
    characters = list(byte_characters().values())
    pairs = itertools.product(characters, characters)
    merges = list(itertools.islice(pairs, vocabulary_size - len(characters)))
    tokens = [*characters, *("".join(pair) for pair in merges)]
    return GPTTokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)},
        merges=[" ".join(pair) for pair in merges],
    )


def without_end_token(tokenizer: GPTTokenizer) -> GPTTokenizer:
    """Returns the same tokenizer, but that nothing ends a text.

    `min_new_tokens` would do so too, at a cost in each step.
    """
    ids = {token: index for index, token in enumerate(tokenizer.get_vocabulary())}
    if tokenizer.end_token_id is not None:
        ids["<|unused|>"] = ids.pop(tokenizer.end_token)
    return GPTTokenizer(vocabulary=ids, merges=tokenizer.merges)


def plain_prompts(tokenizer: GPTTokenizer, count: int, *, num_tokens: int) -> list[str]:
    """Returns prompts of `num_tokens` tokens, each of other words."""
    from pydoc_data.topics import topics

    words = re.findall("[a-z]+", " ".join(topics.values()))
    return [
        make_prompt(tokenizer, words[row * num_tokens :], num_tokens=num_tokens)
        for row in range(count)
    ]


def repeating_prompts(
    tokenizer: GPTTokenizer, count: int, *, num_tokens: int
) -> list[str]:
    """Returns prompts of `num_tokens` tokens, each one phrase again and again."""
    words = PHRASE.split() * num_tokens
    return [
        make_prompt(tokenizer, words[row:], num_tokens=num_tokens)  # begins elsewhere
        for row in range(count)
    ]


def make_prompt(
    tokenizer: GPTTokenizer, words: Sequence[str], *, num_tokens: int
) -> str:
    """Returns words as long as there is room, filled up to `num_tokens` tokens.

    Raises:
        ValueError: if the tokenizer is not one whose words add up.
    """
    spaced = [f" {word}" for word in words[:num_tokens]]
    ends = np.cumsum(tokenizer.tokenize(spaced).row_lengths().numpy())
    fitting = int(np.searchsorted(ends, num_tokens, side="right"))
    room = num_tokens - (int(ends[fitting - 1]) if fitting else 0)
    # Digits and letters in turn do not merge: each is a token.
    filling = "1a" * num_tokens
    text = "".join(spaced[:fitting]) + filling[:room]
    made = len(tokenizer.tokenize(text))
    if made != num_tokens:
        raise ValueError(f"prompts must have {num_tokens} tokens, got {made}.")
    return text
