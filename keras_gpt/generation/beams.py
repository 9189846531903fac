"""Beam search over a model: the rounds that `keras_gpt.sampling.beam_search` scores."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.generation.decoder import Decoder
from keras_gpt.generation.feeding import feed
from keras_gpt.generation.state import (
    INVALID_LOGITS,
    LENGTH,
    STOP,
    UNFINISHED,
    Prefix,
    Prompts,
    Request,
)
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import Beams, BeamSettings, BeamState, BeamStops
from keras_gpt.sampling.history import History, join


class FoundTokens(NamedTuple):
    """Result of a beam search: K beams of each row, best first.

    Attributes:
        token_ids: int32 (B, K, N). New tokens without those that stopped the beam; 0
            after its end.
        log_probs: float32 (B, K, N). Log-probabilities of those tokens; 0 after the
            beam's end.
        num_tokens: int32 (B, K).
        finish_reason: int32 (B, K). Index into `FINISH_REASONS`.
        scores: float32 (B, K). Sum of the log-probabilities after the logits
            processors, the stop token's included, over length ** length_penalty.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    num_tokens: tf.Tensor
    finish_reason: tf.Tensor
    scores: tf.Tensor
    text_lengths: tf.Tensor


class _Loop(NamedTuple):
    """State of a search.

    Attributes:
        step: int32 scalar. Tokens that running beams have.
        is_number: bool (B,). False where logits were no numbers.
        groups: a `BeamState` of each group of beams.
        num_cached: int32 (B * K,).
        cache: `KVCache` of all beams of all rows.
    """

    step: tf.Tensor
    is_number: tf.Tensor
    groups: tuple[BeamState, ...]
    num_cached: tf.Tensor
    cache: KVCache


def search_tokens(
    decoder: Decoder,
    prompts: Prompts,
    request: Request,
    *,
    settings: BeamSettings,
    num_beams: int,
    num_groups: int = 1,
    diversity_penalty: tf.Tensor | None = None,
) -> FoundTokens:
    """Continues each prompt by beam search.

    The rules are transformers'; see `keras_gpt.sampling.beam_search`. Logits
    processors change log-probabilities, as there. With groups, it is diverse beam
    search (Vijayakumar et al. 2018): each group searches for itself, after those
    before it, and loses `diversity_penalty` for each of their beams that has just
    taken the same token. Its rules are those of transformers 4, the last to have it.

    Args:
        decoder: `Decoder`.
        prompts: `Prompts` of B rows.
        request: `Request` of B rows; of its settings, those of sampling count for
            nothing.
        settings: `BeamSettings` of B rows.
        num_beams: int (K), at least 1.
        num_groups: int (G). Divides `num_beams`. Defaults to 1.
        diversity_penalty: float32 (B,). Optional; defaults to 0.

    Returns:
        `FoundTokens`, beams best first.
    """
    # One prefill serves all beams of a row.
    whole = decoder.prefill(prompts)
    limits, finish_reason = prompts.limits(
        request.settings.max_new_tokens, room=decoder.context - whole.lengths
    )
    num_steps = tf.reduce_max(tf.concat([limits, [0]], axis=0))
    if diversity_penalty is None:
        diversity_penalty = tf.zeros_like(limits, tf.float32)
    rows = tf.repeat(tf.range(tf.shape(limits)[0]), num_beams)
    group = beam_search.begin(
        num_beams=num_beams // num_groups,
        num_steps=num_steps,
        is_open=finish_reason == UNFINISHED,
        text_start=decoder.text_start,
    )
    lengths = tf.gather(whole.lengths, rows)
    loop = _Loop(
        step=tf.constant(0),
        is_number=tf.ones_like(limits, tf.bool),
        groups=(group,) * num_groups,
        num_cached=lengths - 1,
        cache=kv_cache.take_rows(whole.cache, rows),
    )

    def is_open(now: _Loop) -> tf.Tensor:
        rows_open = tf.stack([tf.reduce_any(group.is_open) for group in now.groups])
        return (now.step < num_steps) & tf.reduce_any(rows_open)

    def go_on(now: _Loop) -> tuple[_Loop]:
        history = _history(whole, rows, now)
        fed = feed(
            decoder.model,
            token_ids=history.token_ids,
            lengths=history.lengths,
            num_cached=now.num_cached,
            cache=now.cache,
            num_hidden=1,
        )
        log_probs = tf.nn.log_softmax(decoder.model.logits(fed.hidden[:, 0]))
        groups, are_numbers = _advance_groups(
            now,
            decoder=decoder,
            log_probs=log_probs,
            history=history,
            request=request,
            limits=limits,
            settings=settings,
            diversity_penalty=diversity_penalty,
        )
        is_number = now.is_number & are_numbers
        groups = tuple(
            group._replace(is_open=group.is_open & is_number) for group in groups
        )
        cache = _reorder(fed.cache, _beam_rows(groups, num_beams=num_beams))
        return (_Loop(now.step + 1, is_number, groups, history.lengths, cache),)

    shapes = tf.nest.map_structure(lambda x: x.shape, loop)
    shapes = shapes._replace(cache=kv_cache.growing_shapes(loop.cache))
    (loop,) = tf.while_loop(
        is_open, go_on, (loop,), shape_invariants=(shapes,), parallel_iterations=1
    )
    finish_reason = tf.where(
        (finish_reason == UNFINISHED) & ~loop.is_number, INVALID_LOGITS, finish_reason
    )
    return _found_tokens(_best(loop.groups, num_beams=num_beams), finish_reason)


def _repeat_rows(request: Request, rows: tf.Tensor) -> Request:
    """Returns the request of each beam: that of the row numbered `rows` (B * K,)."""

    def take(field: tf.Tensor) -> tf.Tensor:
        # What is the same in every row has one row.
        return tf.gather(field, tf.minimum(rows, tf.shape(field)[0] - 1))

    per_row = request._replace(num_alternatives=tf.zeros([1], tf.int32))
    return tf.nest.map_structure(take, per_row)._replace(
        num_alternatives=request.num_alternatives
    )


def _history(whole: Prefix, rows: tf.Tensor, now: _Loop) -> History:
    """Returns the text of each beam: `History` of B * K rows."""
    new = tf.concat([group.running.token_ids for group in now.groups], axis=1)
    new = tf.reshape(new, [tf.shape(rows)[0], tf.shape(new)[2]])
    before, first = (tf.gather(x, rows) for x in (whole.lengths, whole.token_ids))
    size = tf.shape(first)[1] + tf.shape(new)[1]
    tokens = join(first, before, new, now.step, size=size)
    return History(tokens, before + now.step, before)


def _advance_groups(
    now: _Loop,
    *,
    decoder: Decoder,
    log_probs: tf.Tensor,
    history: History,
    request: Request,
    limits: tf.Tensor,
    settings: BeamSettings,
    diversity_penalty: tf.Tensor,
) -> tuple[tuple[BeamState, ...], tf.Tensor]:
    """Continues each group, the later ones away from what the earlier ones took.

    Also tells, bool (B,), whether log-probabilities and gains are numbers.

    `log_probs` (B * K, V) and `history` are of each running beam, the rest of each row.
    """
    size = now.groups[0].running.scores.shape[1]
    num_rows, vocabulary_size = tf.shape(limits)[0], tf.shape(log_probs)[1]
    first_beams = tf.range(num_rows)[:, None] * size * len(now.groups)
    stops = BeamStops(
        sequences=request.stops.sequences,
        strings=request.stops.strings,
        token_text=decoder.token_text,
        min_new_tokens=request.settings.min_new_tokens,
    )
    request = _repeat_rows(request, tf.repeat(tf.range(num_rows), size))
    groups: list[BeamState] = []
    are_numbers = tf.ones([num_rows], tf.bool)
    taken = tf.zeros([num_rows, vocabulary_size])  # how many beams took each token
    for index, group in enumerate(now.groups):
        mine = tf.reshape(first_beams + index * size + tf.range(size), [-1])
        gains = own = tf.gather(log_probs, mine)
        if index:
            penalty = diversity_penalty[:, None] * taken
            gains -= tf.repeat(penalty, size, axis=0)
        gains = decoder.process(
            gains, History(*(tf.gather(field, mine) for field in history)), request
        )
        shape = [num_rows, size, vocabulary_size]
        # What is NaN in the log-probabilities is NaN in the gains.
        has_nan = tf.reduce_any(tf.math.is_nan(tf.reshape(gains, shape)), axis=[1, 2])
        are_numbers &= ~has_nan
        group = beam_search.advance(
            group,
            log_probs=tf.reshape(own, shape),
            gains=tf.reshape(gains, shape),
            step=now.step,
            limits=limits,
            settings=settings,
            stops=stops,
            counts_ended=len(now.groups) > 1,
        )
        chosen = tf.reduce_sum(tf.one_hot(group.next_tokens, vocabulary_size), axis=1)
        taken += tf.where(now.groups[index].is_open[:, None], chosen, 0.0)
        groups.append(group)
    return tuple(groups), are_numbers


def _beam_rows(groups: tuple[BeamState, ...], *, num_beams: int) -> tf.Tensor:
    """int32 (B * K,). Row of the cache that each running beam continues."""
    size = num_beams // len(groups)
    sources = tf.concat(
        [size * index + group.sources for index, group in enumerate(groups)], axis=1
    )
    rows = tf.range(tf.shape(sources)[0])[:, None] * num_beams
    return tf.reshape(rows + sources, [-1])


def _reorder(cache: KVCache, rows: tf.Tensor) -> KVCache:
    is_same = tf.reduce_all(rows == tf.range(tf.shape(rows)[0]))
    reordered = tf.cond(is_same, lambda: cache, lambda: kv_cache.take_rows(cache, rows))
    return tf.nest.map_structure(
        lambda new, old: tf.ensure_shape(new, old.shape), reordered, cache
    )


def _best(groups: tuple[BeamState, ...], *, num_beams: int) -> Beams:
    """Returns the finished beams of all groups, best first."""
    beams = groups[0].finished
    for group in groups[1:]:
        beams = beams.merge(group.finished)
    return beams.take(tf.math.top_k(beams.scores, num_beams)[1])


def _found_tokens(beams: Beams, finish_reason: tf.Tensor) -> FoundTokens:
    ended = tf.where(beams.ended, STOP, LENGTH)
    unused = finish_reason[:, None] != UNFINISHED
    num_tokens = tf.where(unused, 0, beams.num_tokens)
    longest = tf.reduce_max(tf.concat([tf.reshape(num_tokens, [-1]), [0]], axis=0))
    is_there = tf.range(longest) < num_tokens[:, :, None]
    return FoundTokens(
        token_ids=tf.where(is_there, beams.token_ids[:, :, :longest], 0),
        log_probs=tf.where(is_there, beams.log_probs[:, :, :longest], 0.0),
        num_tokens=num_tokens,
        finish_reason=tf.where(unused, finish_reason[:, None], ended),
        scores=tf.where(unused, 0.0, beams.scores),
        text_lengths=beams.text_lengths,
    )
