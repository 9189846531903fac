"""Drafts of the next tokens, which one forward pass then checks together.

The sampler is a fixed function of logits, settings, seed and step, so a draft is kept
exactly where it is the token that would have been chosen: speculation (Leviathan et
al. 2023) changes the time that a text takes and never the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_gpt.generation.feeding import feed
from keras_gpt.generation.state import DecodeState, LanguageModel, Request

NUM_TOKENS, LONGEST_NGRAM = 10, 3  # Saxena 2023
# Of all texts together: a pass over so many tokens takes less than twice the time of
# one over a token of each, and where drafts are wrong no more than that is lost.
TOKENS_AT_ONCE = 32


class Drafts(NamedTuple):
    """Tokens that may come next.

    Attributes:
        token_ids: int32 (B, K). A round feeds so many places in each row.
        counts: int32 (B,). How many of them are meant.
    """

    token_ids: tf.Tensor
    counts: tf.Tensor


class Drafter(Protocol):
    """Proposes up to `num_tokens` (K) tokens for each row."""

    num_tokens: int

    def begin(self, batch_size: tf.Tensor) -> Any:
        """Returns the drafter's state before the first round: nested tensors."""

    def propose(
        self, state: DecodeState, request: Request, choose: Callable[..., Any]
    ) -> tuple[Drafts, Any]:
        """Returns drafts for each row of `state`, and the drafter's new state."""


class PromptLookup:
    """Drafts what followed the last time that the text ended as it does now.

    Saxena 2023, "Prompt Lookup Decoding". The longest of the n-grams that recur is
    taken, the latest of its places; where fewer than K tokens follow it, they repeat.

    Args:
        num_tokens: int (K). Tokens to draft. Defaults to 10, and fewer where many texts
            are running.
        longest_ngram: int. Tokens at the text's end to look for. Defaults to 3.
        is_steady: bool. Whether rounds are as wide whatever the rows hold, so that a
            row's numbers do not depend on its neighbours, to the last bit. Defaults to
            False: no wider than need be.

    Raises:
        ValueError: if one of them is below 1.
    """

    def __init__(
        self,
        num_tokens: int | None = None,
        *,
        longest_ngram: int = LONGEST_NGRAM,
        is_steady: bool = False,
    ) -> None:
        self._is_steady = is_steady
        self._is_given = num_tokens is not None
        num_tokens = NUM_TOKENS if num_tokens is None else num_tokens
        for name, value in (
            ("num_tokens", num_tokens),
            ("longest_ngram", longest_ngram),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.num_tokens = num_tokens
        self.longest_ngram = longest_ngram

    def begin(self, batch_size: tf.Tensor) -> Any:
        """Nothing to remember."""
        return ()

    def propose(
        self, state: DecodeState, request: Request, choose: Callable[..., Any]
    ) -> tuple[Drafts, Any]:
        """Looks for the text's end within the text; see the class."""
        tokens, lengths = state.token_ids, state.lengths
        width = tf.shape(tokens)[1]
        places = tf.range(width)[None, :]
        matches = places < lengths[:, None]
        score = tf.zeros_like(tokens)
        for back in range(1, self.longest_ngram + 1):
            # Whether the tokens before each place are those before the text's end.
            before = tf.pad(tokens, [[0, 0], [back, 0]], constant_values=-1)[:, :width]
            last = tf.gather(tokens, tf.maximum(lengths - back, 0), batch_dims=1)
            matches &= (before == last[:, None]) & (places >= back)
            score = tf.where(matches, back * width + places, score)
        best = tf.argmax(score, axis=1, output_type=tf.int32)
        found = tf.reduce_max(score, axis=1) > 0
        period = tf.maximum(lengths - best, 1)[:, None]
        source = best[:, None] + tf.range(self.num_tokens) % period
        drafts = tf.gather(tokens, tf.where(found[:, None], source, 0), batch_dims=1)
        most: Any = self.num_tokens
        if not self._is_given:
            counted = tf.cast(self._is_steady | state.is_running, tf.int32)
            share = TOKENS_AT_ONCE // tf.maximum(tf.reduce_sum(counted), 1) - 1
            most = tf.clip_by_value(share, 1, self.num_tokens)
        counts = _useful(tf.where(found & state.is_running, most, 0), state)
        width = most if self._is_steady else tf.reduce_max(counts)
        return Drafts(drafts[:, :width], counts), ()


class _ModelState(NamedTuple):
    """Tokens of each row that the model's cache holds (B,), and the cache."""

    num_cached: tf.Tensor
    cache: Any


class DraftModel:
    """Drafts what a smaller model would say, with the same settings and seed.

    Args:
        model: a `LanguageModel` of the same vocabulary. Texts beyond its context, and
            texts whose beginning slid away, get no drafts.
        num_tokens: int (K). Tokens to draft. Defaults to 4.

    Raises:
        ValueError: if `num_tokens` is below 1.
    """

    def __init__(self, model: LanguageModel, num_tokens: int = 4) -> None:
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}.")
        self.model = model
        self.num_tokens = num_tokens

    def begin(self, batch_size: tf.Tensor) -> Any:
        """Returns an empty cache."""
        cache = self.model.empty_cache(batch_size, num_slots=0)
        return _ModelState(tf.zeros([batch_size], tf.int32), cache)

    def propose(
        self, state: DecodeState, request: Request, choose: Callable[..., Any]
    ) -> tuple[Drafts, Any]:
        """Runs the model for K tokens; see the class."""
        context = self.model.config.max_sequence_length
        fits = state.lengths + self.num_tokens <= context
        rows = state.is_running & fits & (state.starts == 0)
        # What was cached beyond the text were drafts that were wrong.
        cached = tf.where(
            rows, tf.minimum(state.draft.num_cached, state.lengths - 1), 0
        )
        now, cache, drafts = state, state.draft.cache, []
        for _ in range(self.num_tokens):
            fed = feed(
                self.model,
                token_ids=now.token_ids,
                lengths=now.lengths,
                num_cached=cached,
                cache=cache,
                rows=rows,
                num_hidden=1,
            )
            cache, cached = fed.cache, tf.where(rows, now.lengths, cached)
            logits = self.model.logits(fed.hidden[:, 0])
            token = choose(logits, now, request).token_ids
            drafts.append(token)
            place = tf.range(tf.shape(now.token_ids)[1]) == now.lengths[:, None]
            now = now._replace(
                token_ids=tf.where(place, token[:, None], now.token_ids),
                lengths=now.lengths + 1,
            )
        counts = _useful(tf.where(rows, self.num_tokens, 0), state)
        token_ids = tf.stack(drafts, axis=1)[:, : tf.reduce_max(counts)]
        return Drafts(token_ids, counts), _ModelState(cached, cache)


def _useful(counts: tf.Tensor, state: DecodeState) -> tf.Tensor:
    """Limits drafts to the tokens that a row may still get, less the last."""
    left = state.limits - state.history.num_new_tokens - 1
    return tf.clip_by_value(left, 0, counts)
