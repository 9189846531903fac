"""Choosing the next token from logits, with every setting a tensor."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.sampling import rng


class SamplingSettings(NamedTuple):
    """How each row samples.

    Attributes:
        temperature: float32 (B,). Divides the logits; 0 is greedy.
        top_k: int32 (B,). Keeps the k likeliest tokens; 0 keeps all.
        top_p: float32 (B,). Keeps the fewest tokens whose probabilities reach p
            (Holtzman et al. 2020); 1 keeps all.
        min_p: float32 (B,). Keeps tokens of at least this share of the likeliest
            token's probability; 0 keeps all.
        seed: int64 (B,). Seed of the row's random numbers.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    seed: tf.Tensor


class SampledToken(NamedTuple):
    """What sampling returns.

    Attributes:
        token_ids: int32 (B,).
        log_probs: float32 (B,). Log-probability of the token under the model's own
            distribution, before temperature and filters.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor


def sample(
    logits: tf.Tensor, *, settings: SamplingSettings, step: tf.Tensor
) -> SampledToken:
    """Draws one token per row.

    Filters apply in the order temperature, top-k, top-p, min-p, each to the
    distribution that the one before left. The token is found by inverse CDF over
    the kept tokens in order of falling probability, ties in order of rising id, so
    it is a fixed function of (logits, settings, step).

    Args:
        logits: float32 (B, V).
        settings: `SamplingSettings` of B rows, within their ranges.
        step: int32 scalar. Number of tokens that the row has drawn before.

    Returns:
        `SampledToken`.
    """
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)
    is_greedy = settings.temperature <= 0.0
    token_ids = tf.cond(
        tf.reduce_all(is_greedy),
        lambda: greedy,
        lambda: tf.where(is_greedy, greedy, _draw(logits, settings, step)),
    )
    chosen = tf.gather(logits, token_ids, batch_dims=1)
    log_probs = chosen - tf.reduce_logsumexp(logits, axis=-1)
    return SampledToken(token_ids, log_probs)


def _draw(logits: tf.Tensor, settings: SamplingSettings, step: tf.Tensor) -> tf.Tensor:
    """Draws from the filtered distribution; greedy rows get some valid token."""
    temperature = tf.where(settings.temperature > 0.0, settings.temperature, 1.0)
    vocabulary_size = tf.shape(logits)[-1]
    top_k = tf.where(settings.top_k > 0, settings.top_k, vocabulary_size)
    top_k = tf.minimum(top_k, vocabulary_size)
    # Only as many tokens are sorted as some row may keep.
    ordered, ids = tf.math.top_k(logits, k=tf.reduce_max(top_k))
    ordered = ordered / temperature[:, None]
    ranks = tf.range(tf.shape(ids)[-1])
    kept = ranks[None, :] < top_k[:, None]
    weights = tf.where(kept, tf.exp(ordered - ordered[:, :1]), 0.0)
    before = tf.cumsum(weights, axis=-1, exclusive=True)
    total = tf.reduce_sum(weights, axis=-1, keepdims=True)
    first = ranks[None, :] == 0  # the likeliest token always stays
    nucleus = (settings.top_p >= 1.0)[:, None] | (
        before < settings.top_p[:, None] * total
    )
    likely = weights >= settings.min_p[:, None]  # the likeliest weight is 1
    weights = tf.where((nucleus & likely) | first, weights, 0.0)
    cumulative = tf.cumsum(weights, axis=-1)
    target = rng.uniform(settings.seed, step)[:, None] * cumulative[:, -1:]
    index = tf.reduce_sum(tf.cast(cumulative <= target, tf.int32), axis=-1)
    last = tf.reduce_sum(tf.cast(weights > 0.0, tf.int32), axis=-1) - 1
    return tf.gather(ids, tf.minimum(index, last), batch_dims=1)
