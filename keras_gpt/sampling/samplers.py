"""Choosing the next token from logits, with every setting a tensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.sampling import rng
from keras_gpt.sampling.logits_processors import BANNED_LOGIT

# Sorting so many takes a tenth of the time that 50,000 take, and most draws of trained
# models end among them.
FEW_TOKENS = 512
SMALLEST = float(np.finfo(np.float32).tiny)


class SamplingSettings(NamedTuple):
    """How each row samples.

    Attributes:
        temperature: float32 (B,). Divides the logits; 0 is greedy.
        top_k: int32 (B,). Keeps the k likeliest tokens; 0 keeps all.
        top_p: float32 (B,). Keeps the fewest tokens whose probabilities reach p
            (Holtzman et al. 2020); 1 keeps all.
        min_p: float32 (B,). Keeps tokens of at least this share of the likeliest
            token's probability; 0 keeps all.
        typical_p: float32 (B,). Keeps the tokens whose surprise is nearest to the
            expected one, up to this probability (Meister et al. 2022); 1 keeps all.
        epsilon_cutoff: float32 (B,). Keeps tokens of at least this probability
            (Hewitt et al. 2022); 0 keeps all.
        eta_cutoff: float32 (B,). As `epsilon_cutoff`, but less where the distribution
            is flat: min(eta, sqrt(eta) * exp(-entropy)) (likewise); 0 keeps all.
        seed: int64 (B,). Seed of the row's random numbers.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    typical_p: tf.Tensor
    epsilon_cutoff: tf.Tensor
    eta_cutoff: tf.Tensor
    seed: tf.Tensor


def sample(
    logits: tf.Tensor, *, settings: SamplingSettings, step: tf.Tensor
) -> tf.Tensor:
    """Draws one token per row.

    The token is found by inverse CDF over the kept tokens in order of falling
    probability, ties in order of rising id, so it is a fixed function of (logits,
    settings, step).

    Args:
        logits: float32 (B, V).
        settings: `SamplingSettings` of B rows, within their ranges.
        step: int32 scalar. Number of tokens that the row has drawn before.

    Returns:
        int32 (B,). The token ids.
    """
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)
    is_greedy = settings.temperature <= 0.0

    def draw() -> tf.Tensor:
        drawn = _draw(logits, settings=settings, step=step)
        return tf.where(is_greedy, greedy, drawn)

    return tf.cond(tf.reduce_all(is_greedy), lambda: greedy, draw)


def _draw(
    logits: tf.Tensor, *, settings: SamplingSettings, step: tf.Tensor
) -> tf.Tensor:
    """Draws from the likeliest tokens alone where they decide, else from all."""
    few = tf.minimum(FEW_TOKENS, tf.shape(logits)[-1])
    share = rng.uniform(settings.seed, step)
    token_ids, is_decided = _pick(keep(logits, settings=settings, count=few), share)
    is_decided |= settings.temperature <= 0.0  # nobody looks

    def draw_from_all() -> tf.Tensor:
        # A row that the few decide stays as it is, whatever its neighbours need.
        everything = keep(logits, settings=settings, count=tf.shape(logits)[-1])
        return tf.where(is_decided, token_ids, _pick(everything, share)[0])

    return tf.cond(tf.reduce_all(is_decided), lambda: token_ids, draw_from_all)


class KeptTokens(NamedTuple):
    """What the filters leave of the distribution, or its beginning.

    Attributes:
        token_ids: int32 (B, K). In order of falling probability.
        weights: float32 (B, K). In proportion to their probabilities; 0 for tokens
            that a filter took away.
        total: float32 (B,). Sum of the weights, those beyond the first K included.
        is_known: bool (B,). Whether the first K tell what the filters leave.
        is_whole: bool (B,). Whether the filters leave nothing beyond the first K.
    """

    token_ids: tf.Tensor
    weights: tf.Tensor
    total: tf.Tensor
    is_known: tf.Tensor
    is_whole: tf.Tensor


def keep(
    logits: tf.Tensor, *, settings: SamplingSettings, count: tf.Tensor | None = None
) -> KeptTokens:
    """Filters the distribution of each row.

    The filters apply in transformers' order, that of the fields of
    `SamplingSettings`, each to the distribution that the one before left. One token
    is always left.

    Args:
        logits: float32 (B, V).
        settings: `SamplingSettings` of B rows, within their ranges; a row with
            temperature 0 is filtered as with 1.
        count: int32 scalar (K). How many of the likeliest tokens to look at. Defaults
            to as many as some row may keep.

    Returns:
        `KeptTokens`.
    """
    temperature = tf.where(settings.temperature > 0.0, settings.temperature, 1.0)
    vocabulary_size = tf.shape(logits)[-1]
    top_k = tf.where(settings.top_k > 0, settings.top_k, vocabulary_size)
    top_k = tf.minimum(top_k, vocabulary_size)
    count = tf.reduce_max(top_k) if count is None else count
    ordered, ids = tf.math.top_k(logits, k=count)
    best = ordered[:, :1]

    def weigh(values: tf.Tensor) -> tf.Tensor:
        weights = tf.exp((values - best) / temperature[:, None])
        # No temperature is high enough for what is banned.
        return tf.where(values > BANNED_LOGIT, weights, 0.0)

    weights, everything = weigh(ordered), tf.reduce_sum(weigh(logits), axis=-1)
    ranks = tf.range(count)
    weights = tf.where(ranks < top_k[:, None], weights, 0.0)
    of_top_k = tf.reduce_sum(weights, axis=-1)
    total = tf.where(top_k < vocabulary_size, of_top_k, everything)
    before = tf.cumsum(weights, axis=-1, exclusive=True)
    nucleus = before < (settings.top_p * total)[:, None]
    nucleus |= (settings.top_p >= 1.0)[:, None]
    likely = weights >= settings.min_p[:, None]  # the likeliest weight is 1
    is_first = ranks == 0  # always stays
    weights = tf.where((nucleus & likely) | is_first, weights, 0.0)
    # What these filters take is a tail, so that the last token tells of those beyond.
    is_whole = (weights[:, -1] == 0.0) | (count >= vocabulary_size)
    is_whole |= (top_k <= count) & (top_k > 0)
    is_all = (top_k >= vocabulary_size) & (settings.top_p >= 1.0)
    is_all &= settings.min_p <= 0.0
    by_entropy = (
        (settings.typical_p < 1.0)
        | (settings.epsilon_cutoff > 0.0)
        | (settings.eta_cutoff > 0.0)
    )
    weights = tf.cond(
        tf.reduce_any(by_entropy),
        lambda: _keep_by_entropy(weights, settings),
        lambda: weights,
    )
    kept_total = tf.reduce_sum(weights, axis=-1)
    return KeptTokens(
        token_ids=ids,
        weights=weights,
        total=tf.where(is_all & ~by_entropy, everything, kept_total),
        is_known=is_whole | (is_all & ~by_entropy),
        is_whole=is_whole,
    )


def _pick(kept: KeptTokens, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the tokens (B,) at shares (B,) of the weights, and whether it is so."""
    cumulative = tf.cumsum(kept.weights, axis=-1)
    target = (share * kept.total)[:, None]
    index = tf.reduce_sum(tf.cast(cumulative <= target, tf.int32), axis=-1)
    is_inside = target[:, 0] < cumulative[:, -1]
    # Rounding may carry the target to the sum of all.
    ranks = tf.range(tf.shape(kept.weights)[-1])
    last = tf.reduce_max(tf.where(kept.weights > 0.0, ranks, 0), axis=-1)
    token_ids = tf.gather(kept.token_ids, tf.minimum(index, last), batch_dims=1)
    return token_ids, kept.is_known & (kept.is_whole | is_inside)


def _keep_by_entropy(weights: tf.Tensor, settings: SamplingSettings) -> tf.Tensor:
    weights = _keep_typical(weights, settings.typical_p)
    probabilities = _normalized(weights)
    weights = _keep_above(weights, probabilities, settings.epsilon_cutoff)
    probabilities = _normalized(weights)
    cutoff = tf.minimum(
        settings.eta_cutoff,
        tf.sqrt(settings.eta_cutoff) * tf.exp(-_entropy(probabilities)),
    )
    return _keep_above(weights, probabilities, cutoff)


def _keep_typical(weights: tf.Tensor, typical_p: tf.Tensor) -> tf.Tensor:
    """Keeps the tokens whose surprise is nearest to the entropy, up to a mass."""
    probabilities = _normalized(weights)
    surprise = -_log(probabilities)
    distance = tf.abs(surprise - _entropy(probabilities)[:, None])
    distance = tf.where(weights > 0.0, distance, tf.float32.max)
    order = tf.argsort(distance, axis=-1, stable=True)
    mass = tf.cumsum(tf.gather(probabilities, order, batch_dims=1), axis=-1)
    last = tf.reduce_sum(tf.cast(mass < typical_p[:, None], tf.int32), axis=-1)
    last = tf.minimum(last, tf.shape(weights)[-1] - 1)
    farthest = tf.gather(distance, tf.gather(order, last, batch_dims=1), batch_dims=1)
    is_on = (typical_p < 1.0)[:, None]
    return tf.where(is_on & (distance > farthest[:, None]), 0.0, weights)


def _keep_above(
    weights: tf.Tensor, probabilities: tf.Tensor, cutoff: tf.Tensor
) -> tf.Tensor:
    """Keeps tokens of at least some probability (B,), and always the likeliest."""
    likeliest = tf.reduce_max(weights, axis=-1, keepdims=True)
    is_low = (probabilities < cutoff[:, None]) & (weights < likeliest)
    return tf.where(is_low, 0.0, weights)


def _normalized(weights: tf.Tensor) -> tf.Tensor:
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """float32 (B,). In nats."""
    return -tf.reduce_sum(probabilities * _log(probabilities), axis=-1)


def _log(probabilities: tf.Tensor) -> tf.Tensor:
    return tf.math.log(tf.maximum(probabilities, SMALLEST))
