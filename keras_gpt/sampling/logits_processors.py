"""Changes to the logits before a token is chosen.

Order and meaning are those of transformers' logits processors; presence and frequency
penalties, which it lacks, are those of OpenAI's API and follow the repetition penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_gpt.sampling.history import History, completed_by

BANNED_LOGIT = -1e30  # far below any logit; finite, so that no NaN can arise

# A user's own: (logits float32 (B, V), history) -> logits, in graph code.
LogitsProcessor = Callable[[tf.Tensor, History], tf.Tensor]


class Penalties(NamedTuple):
    """How each row penalizes tokens.

    Attributes:
        min_new_tokens: int32 (B,). No stop token before so many new tokens; 0 is off.
        repetition_penalty: float32 (B,). Divides positive and multiplies negative
            logits of tokens that the text holds, the prompt included (Keskar et al.
            2019); 1 is off.
        presence_penalty: float32 (B,). Taken from the logits of tokens that the new
            text holds; 0 is off.
        frequency_penalty: float32 (B,). Taken from them for each time that it holds
            them; 0 is off.
        no_repeat_ngram_size: int32 (B,). No n tokens in a row may occur twice, the
            prompt included (Paulus et al. 2017); 0 is off.
    """

    min_new_tokens: tf.Tensor
    repetition_penalty: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    no_repeat_ngram_size: tf.Tensor

    @property
    def _count_tokens(self) -> tf.Tensor:
        return tf.reduce_any(
            (self.repetition_penalty != 1.0)
            | (self.presence_penalty != 0.0)
            | (self.frequency_penalty != 0.0)
        )

    @property
    def are_on(self) -> tf.Tensor:
        """Bool scalar. Whether some row is penalized."""
        counts = (self.no_repeat_ngram_size > 0) | (self.min_new_tokens > 0)
        return self._count_tokens | tf.reduce_any(counts)


class TokenRules(NamedTuple):
    """Tokens, and sequences of tokens, that rows favour or ban.

    B' is B, or 1 for the same in every row. Sequences are padded in front with -1;
    ids out of the vocabulary stand for nothing.

    Attributes:
        bias_sequences: int32 (B', W, L). Sequences whose last token is biased where
            the text ends with those before it.
        bias_values: float32 (B', W). Added to the logit; several add up.
        bad_words: int32 (B', W, L). Sequences that the text never gets.
        allowed_tokens: int32 (B', M). The only tokens that may come, in rows that
            have any.
        suppressed_tokens: int32 (B', M). Tokens that never come.
        begin_suppressed_tokens: int32 (B', M). Tokens that are not the first new one.
    """

    bias_sequences: tf.Tensor
    bias_values: tf.Tensor
    bad_words: tf.Tensor
    allowed_tokens: tf.Tensor
    suppressed_tokens: tf.Tensor
    begin_suppressed_tokens: tf.Tensor

    @classmethod
    def none(cls) -> TokenRules:
        """Returns rules that change nothing."""
        no_sequences, no_tokens = (
            tf.zeros([1, 0, 1], tf.int32),
            tf.zeros([1, 0], tf.int32),
        )
        return cls(
            bias_sequences=no_sequences,
            bias_values=tf.zeros([1, 0]),
            bad_words=no_sequences,
            allowed_tokens=no_tokens,
            suppressed_tokens=no_tokens,
            begin_suppressed_tokens=no_tokens,
        )

    @property
    def are_on(self) -> tf.Tensor:
        """Bool scalar. Whether there is any."""
        return tf.add_n([tf.size(field) for field in self]) > 0


def process_logits(
    logits: tf.Tensor,
    *,
    penalties: Penalties,
    rules: TokenRules,
    stop_sequences: tf.Tensor,
    history: History,
    processors: Sequence[LogitsProcessor] = (),
) -> tf.Tensor:
    """Applies everything that precedes the filters, in transformers' order.

    Args:
        logits: float32 (B, V).
        penalties: `Penalties` of B rows.
        rules: `TokenRules` of B rows, or of one for all.
        stop_sequences: int32 (B', Q, L), padded in front with -1. Sequences that end
            a text.
        history: `History` of B rows.
        processors: `LogitsProcessor`s to apply after all others, in order.

    Returns:
        float32 (B, V).
    """
    shape = logits.shape

    def apply() -> tf.Tensor:
        changed = bias(logits, rules, history)
        changed = penalize(changed, penalties, history)
        changed = ban_sequences(changed, rules.bad_words, history)
        early = history.num_new_tokens < penalties.min_new_tokens
        changed = ban_sequences(
            changed, stop_sequences, history, rows=early, in_new_text=True
        )
        return tf.ensure_shape(restrict(changed, rules, history), shape)

    logits = tf.cond(penalties.are_on | rules.are_on, apply, lambda: logits)
    for processor in processors:
        logits = tf.ensure_shape(processor(logits, history), shape)
    return logits


def bias(logits: tf.Tensor, rules: TokenRules, history: History) -> tf.Tensor:
    """Adds `bias_values` to tokens that would complete `bias_sequences`."""
    matches = completed_by(history, rules.bias_sequences)
    values = tf.where(matches, rules.bias_values, 0.0)
    return logits + _sums(rules.bias_sequences[:, :, -1], values, like=logits)


def penalize(logits: tf.Tensor, penalties: Penalties, history: History) -> tf.Tensor:
    """Applies the penalties that look at the text."""
    logits = tf.cond(
        penalties._count_tokens,
        lambda: _penalize_counts(logits, penalties, history),
        lambda: logits,
    )
    return tf.cond(
        tf.reduce_any(penalties.no_repeat_ngram_size > 0),
        lambda: _ban_repeated_ngrams(logits, penalties.no_repeat_ngram_size, history),
        lambda: logits,
    )


def ban_sequences(
    logits: tf.Tensor,
    sequences: tf.Tensor,
    history: History,
    *,
    rows: tf.Tensor | bool = True,
    in_new_text: bool = False,
) -> tf.Tensor:
    """Bans tokens that would complete a sequence.

    Args:
        logits: float32 (B, V).
        sequences: int32 (B', W, L), padded in front with -1.
        history: `History`.
        rows: bool (B,). Rows to look at. Defaults to all.
        in_new_text: bool. Whether sequences count only behind the prompt.

    Returns:
        float32 (B, V).
    """
    matches = completed_by(history, sequences, in_new_text=in_new_text)
    matches &= tf.reshape(rows, [-1, 1])
    return _ban(logits, sequences[:, :, -1], matches)


def restrict(logits: tf.Tensor, rules: TokenRules, history: History) -> tf.Tensor:
    """Leaves the allowed tokens, less those that are suppressed."""
    counts = _counts(rules.allowed_tokens, rules.allowed_tokens >= 0, like=logits)
    allowed, is_free = counts > 0.0, tf.reduce_all(counts == 0.0, axis=1, keepdims=True)
    logits = tf.where(allowed | is_free, logits, BANNED_LOGIT)
    # Where all of the allowed tokens are banned, the ban gives way, as in transformers.
    is_empty = tf.reduce_all(logits <= BANNED_LOGIT, axis=1, keepdims=True)
    logits = tf.where(is_empty & allowed, 0.0, logits)
    logits = _ban(logits, rules.suppressed_tokens, True)
    is_first = (history.num_new_tokens == 0)[:, None]
    return _ban(logits, rules.begin_suppressed_tokens, is_first)


def _penalize_counts(
    logits: tf.Tensor, penalties: Penalties, history: History
) -> tf.Tensor:
    places = tf.range(tf.shape(history.token_ids)[1])
    is_there = places < history.lengths[:, None]
    is_new = is_there & (places >= history.prompt_lengths[:, None])
    seen = _counts(history.token_ids, is_there, like=logits) > 0.0
    penalty = penalties.repetition_penalty[:, None]
    penalized = tf.where(logits < 0.0, logits * penalty, logits / penalty)
    logits = tf.where(seen, penalized, logits)
    new = _counts(history.token_ids, is_new, like=logits)
    logits -= penalties.presence_penalty[:, None] * tf.cast(new > 0.0, tf.float32)
    return logits - penalties.frequency_penalty[:, None] * new


def _ban_repeated_ngrams(
    logits: tf.Tensor, sizes: tf.Tensor, history: History
) -> tf.Tensor:
    """Bans each token that once followed the n - 1 tokens at the text's end."""
    tokens, lengths = history.token_ids, history.lengths
    width = tf.shape(tokens)[1]
    places = tf.range(width)
    is_end = (places >= sizes[:, None] - 1) & (places < lengths[:, None])

    def narrow(back: tf.Tensor, matches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The token `back` places before each place, and before the text's end.
        before = tf.gather(tokens, tf.maximum(places - back, 0), axis=1)
        before = tf.where(places >= back, before, -1)
        last = tf.gather(tokens, tf.maximum(lengths - back, 0), batch_dims=1)
        is_outside = back > sizes[:, None] - 1
        return back + 1, matches & (is_outside | (before == last[:, None]))

    # An n-gram that is longer than the text costs its neighbours nothing.
    longest = tf.reduce_max(tf.where(sizes <= lengths, sizes, 1))
    _, matches = tf.while_loop(
        lambda back, _: back < longest,
        narrow,
        (tf.constant(1), is_end & (sizes[:, None] > 0)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    return _ban(logits, tokens, matches)


def _ban(logits: tf.Tensor, tokens: tf.Tensor, which: tf.Tensor | bool) -> tf.Tensor:
    return tf.where(_counts(tokens, which, like=logits) > 0.0, BANNED_LOGIT, logits)


def _counts(
    tokens: tf.Tensor, which: tf.Tensor | bool, *, like: tf.Tensor
) -> tf.Tensor:
    """float32 (B, V). How often each token stands at the places `which` (B, S)."""
    return _sums(tokens, tf.cast(which, tf.float32), like=like)


def _sums(tokens: tf.Tensor, values: tf.Tensor, *, like: tf.Tensor) -> tf.Tensor:
    """float32 (B, V). Sums of the `values` (B', S) that each token has."""
    rows, vocabulary_size = tf.unstack(tf.shape(like))
    shape = [rows, tf.shape(tokens)[1]]
    values, tokens = (tf.broadcast_to(x, shape) for x in (values, tokens))
    is_known = (tokens >= 0) & (tokens < vocabulary_size)
    numbers = tf.broadcast_to(tf.range(rows)[:, None], shape)
    indices = tf.where(is_known[:, :, None], tf.stack([numbers, tokens], axis=-1), 0)
    return tf.scatter_nd(indices, tf.where(is_known, values, 0.0), tf.shape(like))
