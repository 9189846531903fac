"""Penalties on logits, from what a text holds so far.

Order and meaning are those of transformers' logits processors; presence and frequency
penalties, which it lacks, are those of OpenAI's API and follow the repetition penalty.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

BANNED_LOGIT = -1e30  # far below any logit; finite, so that no NaN can arise


class History(NamedTuple):
    """The tokens of each row so far.

    Attributes:
        token_ids: int32 (B, S). The prompt and the new tokens, without a gap; after
            a row's end, anything.
        lengths: int32 (B,). Tokens of prompt and continuation.
        prompt_lengths: int32 (B,).
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    prompt_lengths: tf.Tensor


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
    def need_history(self) -> tf.Tensor:
        """Bool scalar. Whether some row looks at its text."""
        return tf.reduce_any(self._count_tokens | (self.no_repeat_ngram_size > 0))

    @property
    def _count_tokens(self) -> tf.Tensor:
        return (
            (self.repetition_penalty != 1.0)
            | (self.presence_penalty != 0.0)
            | (self.frequency_penalty != 0.0)
        )


def penalize(logits: tf.Tensor, *, penalties: Penalties, history: History) -> tf.Tensor:
    """Applies the penalties that look at the text.

    Args:
        logits: float32 (B, V).
        penalties: `Penalties` of B rows.
        history: `History`.

    Returns:
        float32 (B, V).
    """
    logits = _penalize_counts(logits, penalties, history)
    return tf.cond(
        tf.reduce_any(penalties.no_repeat_ngram_size > 0),
        lambda: _ban_repeated_ngrams(logits, penalties.no_repeat_ngram_size, history),
        lambda: logits,
    )


def ban_early_stops(
    logits: tf.Tensor,
    *,
    min_new_tokens: tf.Tensor,
    num_new_tokens: tf.Tensor,
    stop_token_ids: tf.Tensor,
) -> tf.Tensor:
    """Bans the stop tokens (E,) of rows that have too few new tokens.

    Args:
        logits: float32 (B, V).
        min_new_tokens: int32 (B,).
        num_new_tokens: int32 (B,) or scalar.
        stop_token_ids: int32 (E,).

    Returns:
        float32 (B, V).
    """
    ids = tf.range(tf.shape(logits)[-1])
    stops = tf.reduce_any(ids[:, None] == stop_token_ids, axis=-1)
    is_early = num_new_tokens < min_new_tokens
    return tf.where(is_early[:, None] & stops, BANNED_LOGIT, logits)


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
        before = tf.pad(tokens, [[0, 0], [back, 0]], constant_values=-1)[:, :width]
        last = tf.gather(tokens, tf.maximum(lengths - back, 0), batch_dims=1)
        is_outside = back > sizes[:, None] - 1
        return back + 1, matches & (is_outside | (before == last[:, None]))

    longest = tf.reduce_max(sizes)
    _, matches = tf.while_loop(
        lambda back, _: back < longest,
        narrow,
        (tf.constant(1), is_end & (sizes[:, None] > 0)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    return tf.where(_counts(tokens, matches, like=logits) > 0.0, BANNED_LOGIT, logits)


def _counts(tokens: tf.Tensor, which: tf.Tensor, *, like: tf.Tensor) -> tf.Tensor:
    """float32 (B, V). How often each token stands at the places `which` (B, S)."""
    rows = tf.range(tf.shape(tokens)[0])[:, None]
    indices = tf.stack([tf.broadcast_to(rows, tf.shape(tokens)), tokens], axis=-1)
    inside = tf.where(which[:, :, None], indices, 0)
    return tf.scatter_nd(inside, tf.cast(which, tf.float32), tf.shape(like))
