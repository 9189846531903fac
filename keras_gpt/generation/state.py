"""What a generation is asked for, what it has reached, and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_gpt.generation.settings import GenerationSettings
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.sampling.history import History, join
from keras_gpt.sampling.logits_processors import TokenRules

# Codes of `finish_reason`, and their names in exported models.
FINISH_REASONS = (
    "",
    "stop",
    "length",
    "prompt_too_long",
    "invalid_input",
    "invalid_logits",
)
UNFINISHED, STOP, LENGTH, PROMPT_TOO_LONG, INVALID_INPUT, INVALID_LOGITS = range(6)


class LanguageModel(Protocol):
    """What generation needs of a model; `GPTBackbone` is one."""

    config: Any

    def forward(self, token_ids: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns an object with `hidden` (B, T, D) and `cache`."""

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits (..., V)."""

    def empty_cache(self, batch_size: Any, *, num_slots: Any) -> KVCache:
        """Returns a cache of zeros."""


class Stops(NamedTuple):
    """What ends a text, beside its length. B' is B, or 1 for the same in every row.

    Attributes:
        sequences: int32 (B', Q, L), padded in front with -1. Tokens, and sequences of
            tokens, that end a row and are left out of it.
        strings: string (B', K). Strings that end a row's new text, which is cut where
            the first of them begins; empty ones stand for nothing.
    """

    sequences: tf.Tensor
    strings: tf.Tensor

    @classmethod
    def at(cls, token_ids: Any) -> Stops:
        """Returns stops at single tokens, a list or int32 tensor (Q,)."""
        tokens = tf.reshape(tf.convert_to_tensor(token_ids, tf.int32), [1, -1, 1])
        return cls(tokens, tf.zeros([1, 0], tf.string))


class Request(NamedTuple):
    """What a call asks for.

    Attributes:
        settings: `GenerationSettings` of B rows, within their ranges.
        stops: `Stops`.
        rules: `TokenRules`.
        slides: bool (B,). Whether a row that fills the context goes on, with the last
            half of it as the context of what follows.
        num_alternatives: int32 scalar (A). How many of the likeliest tokens to report
            at each place.
    """

    settings: GenerationSettings
    stops: Stops
    rules: TokenRules
    slides: tf.Tensor
    num_alternatives: tf.Tensor

    @classmethod
    def of(
        cls,
        settings: GenerationSettings,
        *,
        stops: Stops,
        rules: TokenRules | None = None,
    ) -> Request:
        """Returns a request of these settings and nothing else."""
        return cls(
            settings=settings,
            stops=stops,
            rules=TokenRules.none() if rules is None else rules,
            slides=tf.zeros_like(settings.max_new_tokens, tf.bool),
            num_alternatives=tf.constant(0),
        )


class Prefix(NamedTuple):
    """A beginning that was computed before, for prompts to follow it.

    Attributes:
        token_ids: int32 (P, L), right-padded.
        lengths: int32 (P,).
        cache: `KVCache` of P rows: of all tokens but each row's last.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    cache: KVCache

    @classmethod
    def none(cls, model: LanguageModel) -> Prefix:
        """Returns one empty beginning."""
        return cls(
            token_ids=tf.zeros([1, 0], tf.int32),
            lengths=tf.zeros([1], tf.int32),
            cache=model.empty_cache(1, num_slots=0),
        )


class Prompts(NamedTuple):
    """What to continue: rows of tokens, each behind a row of a prefix.

    Attributes:
        token_ids: int32 (B, T), right-padded.
        lengths: int32 (B,). With its prefix, a prompt has a token at least, and is
            shorter than the model's context.
        finish_reason: int32 (B,). Rows with a code other than `UNFINISHED` are left
            out.
        prefix: `Prefix` of P rows.
        prefix_rows: int32 (B,). Row of the prefix that each prompt follows.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    finish_reason: tf.Tensor
    prefix: Prefix
    prefix_rows: tf.Tensor

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        token_ids: Any,
        lengths: Any,
        finish_reason: tf.Tensor | None = None,
    ) -> Prompts:
        """Returns prompts without a prefix, by default all to be continued."""
        lengths = tf.convert_to_tensor(lengths, tf.int32)
        none = tf.zeros_like(lengths)
        return cls(
            token_ids=tf.convert_to_tensor(token_ids, tf.int32),
            lengths=lengths,
            finish_reason=none if finish_reason is None else finish_reason,
            prefix=Prefix.none(model),
            prefix_rows=none,
        )

    @property
    def prefix_lengths(self) -> tf.Tensor:
        """int32 (B,). Tokens of each row's prefix."""
        return tf.gather(self.prefix.lengths, self.prefix_rows)

    def whole(self, *, size: tf.Tensor) -> tf.Tensor:
        """Returns each prefix and its prompt, int32 (B, size), 0 behind them."""
        return join(
            tf.gather(self.prefix.token_ids, self.prefix_rows),
            self.prefix_lengths,
            self.token_ids,
            self.lengths,
            size=size,
        )

    def copy_of_cache(self) -> KVCache:
        """Returns each row's copy of its prefix's cache."""
        return kv_cache.take_rows(self.prefix.cache, self.prefix_rows)

    def limits(
        self, max_new_tokens: tf.Tensor, *, room: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns how many tokens each row may get, and the rows that end at once.

        Args:
            max_new_tokens: int32 (B,).
            room: int32 (B,). Tokens that the context leaves.

        Returns:
            int32 (B,), at least 0; and the finish reasons, int32 (B,).
        """
        limits = tf.minimum(max_new_tokens, room)
        is_full = (self.finish_reason == UNFINISHED) & (limits <= 0)
        finish_reason = tf.where(is_full, LENGTH, self.finish_reason)
        return tf.where(finish_reason == UNFINISHED, limits, 0), finish_reason


class Alternatives(NamedTuple):
    """The likeliest tokens at each place, best first.

    Attributes:
        token_ids: int32 (B, S, A).
        log_probs: float32 (B, S, A). Under the model's own distribution.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor


class DecodeState(NamedTuple):
    """A generation at rest: all that a next call needs to go on.

    The cache holds the tokens of each row from `starts` on, without those not fed to
    the model yet: the last one at least.

    Attributes:
        token_ids: int32 (B, S). The prompt and the new tokens; then anything.
        log_probs: float32 (B, S). Of the new tokens.
        alternatives: `Alternatives` to the new tokens.
        lengths: int32 (B,). Tokens of prompt and continuation.
        prompt_lengths: int32 (B,).
        limits: int32 (B,). Most new tokens.
        finish_reason: int32 (B,). Index into `FINISH_REASONS`.
        text: string (B,). The new text, where stop strings were given.
        text_lengths: int32 (B,). Bytes of the new text to keep; -1 for all.
        starts: int32 (B,). First token in the cache.
        num_cached: int32 (B,). Tokens in the cache.
        cache: `KVCache`.
        num_drafted: int32 (B,). Tokens that were drafted.
        num_accepted: int32 (B,). Those of them that were right.
        draft: state of the drafter, or ().
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    alternatives: Alternatives
    lengths: tf.Tensor
    prompt_lengths: tf.Tensor
    limits: tf.Tensor
    finish_reason: tf.Tensor
    text: tf.Tensor
    text_lengths: tf.Tensor
    starts: tf.Tensor
    num_cached: tf.Tensor
    cache: KVCache
    num_drafted: tf.Tensor
    num_accepted: tf.Tensor
    draft: Any

    @property
    def is_running(self) -> tf.Tensor:
        """Bool (B,). Rows that have not ended."""
        return self.finish_reason == UNFINISHED

    @property
    def history(self) -> History:
        """The tokens so far."""
        return History(self.token_ids, self.lengths, self.prompt_lengths)


class GeneratedTokens(NamedTuple):
    """New tokens of each row.

    Attributes:
        token_ids: int32 (B, N). Without the tokens that stopped the row; 0 after its
            end. A stop string cuts the text, not the tokens.
        log_probs: float32 (B, N). Log-probabilities of those tokens under the
            model's own distribution; 0 after a row's end.
        alternatives: `Alternatives` at those places.
        num_tokens: int32 (B,).
        finish_reason: int32 (B,). Index into `FINISH_REASONS`.
        text_lengths: int32 (B,). Bytes of the text to keep; -1 for all.
        num_drafted: int32 (B,). Tokens that were drafted.
        num_accepted: int32 (B,). Those of them that were right.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    alternatives: Alternatives
    num_tokens: tf.Tensor
    finish_reason: tf.Tensor
    text_lengths: tf.Tensor
    num_drafted: tf.Tensor
    num_accepted: tf.Tensor
