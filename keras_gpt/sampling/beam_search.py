"""Beam search, one step at a time, without a model.

The rules are those of transformers 5 (`GenerationMixin._beam_search`): each row keeps
K running beams and its K best finished ones. A step looks at the likeliest
continuations of all running beams; those among the first K that end are finished,
with their log-probability over length ** length_penalty as the score, and never
extended; the best K that do not end run on.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.sampling.history import History, completed_by
from keras_gpt.sampling.stop_strings import NOT_FOUND, grow_text

LOWEST_SCORE = -1e9  # of beams that are not there yet
# Codes of `BeamSettings.early_stopping`.
HEURISTIC, WHEN_FULL, NEVER = range(3)


class BeamSettings(NamedTuple):
    """How each row searches.

    Attributes:
        length_penalty: float32 (B,). Power of the length, the end token included,
            that divides a finished beam's log-probability.
        early_stopping: int32 (B,). When a row stops before its limit: `HEURISTIC`,
            once the best running beam would not enter the finished ones if it ended
            now; `WHEN_FULL`, once K beams are finished; `NEVER`, once it could not
            enter them at any length.
    """

    length_penalty: tf.Tensor
    early_stopping: tf.Tensor


class BeamStops(NamedTuple):
    """What ends a beam, beside its length. B' is B, or 1 for the same in every row.

    Attributes:
        sequences: int32 (B', Q, L), padded in front with -1. Tokens, and sequences of
            tokens, that end a beam and are left out of it.
        strings: string (B', S). Strings that end a beam's text, which is cut where
            the first of them begins; empty ones stand for nothing.
        token_text: string (V,). What each token adds to a text; None without strings.
        min_new_tokens: int32 (B,). No stop string counts before so many tokens.
    """

    sequences: tf.Tensor
    strings: tf.Tensor
    token_text: tf.Tensor | None
    min_new_tokens: tf.Tensor


class Beams(NamedTuple):
    """K beams of each row, with their new tokens.

    Attributes:
        token_ids: int32 (B, K, N). 0 after the end; without the end token.
        log_probs: float32 (B, K, N). Log-probabilities of those tokens.
        num_tokens: int32 (B, K).
        scores: float32 (B, K). Sum of the log-probabilities of a running beam, the
            end token's included; over the length penalty of a finished one.
        ended: bool (B, K). Whether it ended with a stop token.
        is_there: bool (B, K). False for a place not filled yet.
        text: string (B, K). The new text, where there are stop strings.
        text_lengths: int32 (B, K). Bytes of it to keep; -1 for all.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    num_tokens: tf.Tensor
    scores: tf.Tensor
    ended: tf.Tensor
    is_there: tf.Tensor
    text: tf.Tensor
    text_lengths: tf.Tensor

    def take(self, places: tf.Tensor) -> Beams:
        """Returns the beams at `places`, int32 (B, K')."""
        return Beams(*(tf.gather(field, places, batch_dims=1) for field in self))

    def where(self, rows: tf.Tensor, other: Beams) -> Beams:
        """Returns these beams in `rows`, bool (B,), and the others elsewhere."""

        def choose(mine: tf.Tensor, its: tf.Tensor) -> tf.Tensor:
            shape = [-1] + [1] * (mine.shape.rank - 1)
            return tf.where(tf.reshape(rows, shape), mine, its)

        return Beams(*(choose(*pair) for pair in zip(self, other, strict=True)))

    def merge(self, other: Beams) -> Beams:
        """Returns both, one after the other."""
        pairs = zip(self, other, strict=True)
        return Beams(*(tf.concat(pair, axis=1) for pair in pairs))


class BeamState(NamedTuple):
    """State of the search between two steps.

    Attributes:
        running: `Beams`, best first.
        finished: `Beams`, best first.
        is_open: bool (B,). Whether the row is still searching.
        next_tokens: int32 (B, K). Last token of each running beam.
        sources: int32 (B, K). Running beam of the step before that each continues.
    """

    running: Beams
    finished: Beams
    is_open: tf.Tensor
    next_tokens: tf.Tensor
    sources: tf.Tensor


def begin(
    *, num_beams: int, num_steps: tf.Tensor, is_open: tf.Tensor, text_start: str = ""
) -> BeamState:
    """Returns the state before the first step: one empty beam in each row.

    Args:
        num_beams: int (K).
        num_steps: int32 scalar (N). Longest continuation.
        is_open: bool (B,). Rows to search.
        text_start: string. What stands before the first new token's text. Defaults
            to none.
    """
    batch_size = tf.shape(is_open)[0]
    shape = [batch_size, num_beams]
    empty = Beams(
        token_ids=tf.zeros([*shape, num_steps], tf.int32),
        log_probs=tf.zeros([*shape, num_steps], tf.float32),
        num_tokens=tf.zeros(shape, tf.int32),
        scores=tf.fill(shape, LOWEST_SCORE),
        ended=tf.zeros(shape, tf.bool),
        is_there=tf.zeros(shape, tf.bool),
        text=tf.fill(shape, text_start),
        text_lengths=tf.fill(shape, NOT_FOUND),
    )
    # All beams would be the same at first, so that only one of them counts.
    first = tf.tile(tf.range(num_beams)[None] == 0, [batch_size, 1])
    running = empty._replace(scores=tf.where(first, 0.0, empty.scores))
    places = tf.tile(tf.range(num_beams)[None], [batch_size, 1])
    return BeamState(running, empty, is_open, tf.zeros(shape, tf.int32), places)


def advance(
    state: BeamState,
    *,
    log_probs: tf.Tensor,
    gains: tf.Tensor,
    step: tf.Tensor,
    limits: tf.Tensor,
    settings: BeamSettings,
    stops: BeamStops,
    counts_ended: bool = False,
) -> BeamState:
    """Continues every beam by one token.

    Args:
        state: `BeamState`.
        log_probs: float32 (B, K, V). Of the token after each running beam.
        gains: float32 (B, K, V). What each token adds to the beam's score: its
            log-probability, after the logits processors.
        step: int32 scalar. Tokens that running beams have.
        limits: int32 (B,). Longest continuation of each row.
        settings: `BeamSettings`.
        stops: `BeamStops`.
        counts_ended: bool. Whether a row stops by its likeliest continuation of all,
            one that has ended too, rather than by its best running beam: the rule of
            transformers 4. Defaults to False.

    Returns:
        `BeamState`; rows that are not open stay as they are.
    """
    num_beams = state.running.scores.shape[1]
    length = step + 1
    candidates, tokens, sources, is_stop = _candidates(
        state.running,
        log_probs=log_probs,
        gains=gains,
        step=step,
        stops=stops,
    )
    ends = is_stop | (length >= limits)[:, None]

    going_on = candidates.scores + tf.where(ends, LOWEST_SCORE, 0.0)
    scores, places = tf.math.top_k(going_on, num_beams)
    running = candidates.take(places)._replace(scores=scores)

    # Below are continuations of beams that are not there, and banned ones.
    is_real = candidates.scores > LOWEST_SCORE
    is_new = ends & is_real & (tf.range(tf.shape(ends)[1]) < num_beams)
    penalty = tf.cast(length, tf.float32) ** settings.length_penalty
    new = candidates._replace(
        scores=candidates.scores / penalty[:, None]
        + tf.where(is_new, 0.0, LOWEST_SCORE),
        is_there=is_new,
        ended=is_stop,
    )
    merged = state.finished.merge(new)
    finished = merged.take(tf.math.top_k(merged.scores, num_beams)[1])

    best = candidates.scores if counts_ended else running.scores
    may_improve = _may_improve(
        best[:, 0], finished, length=length, limits=limits, settings=settings
    )
    is_full = tf.reduce_all(finished.is_there, axis=1)
    stops_full = is_full & (settings.early_stopping == WHEN_FULL)
    goes_on = tf.reduce_any(~ends & is_real, axis=1)
    rows = state.is_open
    return BeamState(
        running=running.where(rows, state.running),
        finished=finished.where(rows, state.finished),
        is_open=rows & may_improve & ~stops_full & goes_on,
        next_tokens=tf.gather(tokens, places, batch_dims=1),
        sources=tf.gather(sources, places, batch_dims=1),
    )


def _candidates(
    running: Beams,
    *,
    log_probs: tf.Tensor,
    gains: tf.Tensor,
    step: tf.Tensor,
    stops: BeamStops,
) -> tuple[Beams, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The likeliest continuations (B, C), enough that K of them do not stop.

    Returns:
        `Beams`; token and running beam of each, int32 (B, C); and whether it stops.
    """
    num_beams, vocabulary_size = running.scores.shape[1], tf.shape(gains)[2]
    flat = [-1, num_beams * vocabulary_size]
    totals = tf.reshape(running.scores[:, :, None] + gains, flat)
    count = tf.maximum(2, 1 + tf.shape(stops.sequences)[1]) * num_beams
    scores, places = tf.math.top_k(totals, tf.minimum(count, tf.shape(totals)[1]))
    sources, tokens = places // vocabulary_size, places % vocabulary_size
    stop_lengths = _stop_lengths(
        running, tokens=tokens, sources=sources, stop_sequences=stops.sequences
    )
    is_left_out = stop_lengths > 0
    beams = running.take(sources)
    text, text_lengths = _grown_text(
        beams, tokens=tokens, rows=~is_left_out, step=step, stops=stops
    )
    own = tf.gather(tf.reshape(log_probs, flat), places, batch_dims=1)
    writes = ~is_left_out[:, :, None] & (tf.range(tf.shape(beams.token_ids)[2]) == step)
    candidates = beams._replace(
        token_ids=tf.where(writes, tokens[:, :, None], beams.token_ids),
        log_probs=tf.where(writes, own[:, :, None], beams.log_probs),
        # The stop sequence is left out, its tokens before the last one too.
        num_tokens=beams.num_tokens + 1 - stop_lengths,
        scores=scores,
        text=text,
        text_lengths=text_lengths,
    )
    return candidates, tokens, sources, is_left_out | (text_lengths != NOT_FOUND)


def _grown_text(
    beams: Beams,
    *,
    tokens: tf.Tensor,
    rows: tf.Tensor,
    step: tf.Tensor,
    stops: BeamStops,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Appends the text of tokens (B, C) where `rows` say so; looks for stop strings.

    Returns:
        The texts, string (B, C), and the bytes to keep, int32 (B, C), -1 for all.
    """
    if stops.token_text is None:
        return beams.text, beams.text_lengths
    shape = tf.shape(tokens)
    row_numbers = tf.repeat(tf.range(shape[0]), shape[1])
    last_row = tf.shape(stops.strings)[0] - 1
    text, found = grow_text(
        tf.reshape(beams.text, [-1]),
        tf.reshape(tokens, [-1]),
        token_text=stops.token_text,
        stop_strings=tf.gather(stops.strings, tf.minimum(row_numbers, last_row)),
        rows=tf.reshape(rows, [-1]),
        counts=tf.repeat(step + 1 >= stops.min_new_tokens, shape[1]),
    )
    return tf.reshape(text, shape), tf.reshape(found, shape)


def _stop_lengths(
    running: Beams,
    *,
    tokens: tf.Tensor,
    sources: tf.Tensor,
    stop_sequences: tf.Tensor,
) -> tf.Tensor:
    """int32 (B, C). Length of the stop sequence that a token completes, or 0."""
    rows, num_beams = tf.unstack(tf.shape(running.num_tokens))
    lengths = tf.reshape(running.num_tokens, [-1])
    texts = tf.reshape(running.token_ids, [rows * num_beams, -1])
    # One token more, since texts may be as long as the array, but not empty.
    history = History(tf.pad(texts, [[0, 0], [0, 1]]), lengths, tf.zeros_like(lengths))
    beam_rows = tf.repeat(tf.range(rows), num_beams)
    last_row = tf.shape(stop_sequences)[0] - 1
    sequences = tf.gather(stop_sequences, tf.minimum(beam_rows, last_row))
    begun = completed_by(history, sequences)
    begun = tf.reshape(begun, [rows, num_beams, tf.shape(begun)[1]])
    begun = tf.gather(begun, sources, batch_dims=1)
    is_last = tokens[:, :, None] == stop_sequences[:, None, :, -1]
    sizes = tf.reduce_sum(tf.cast(stop_sequences >= 0, tf.int32), axis=-1)
    found = tf.where(begun & is_last, sizes[:, None], 0)
    return tf.reduce_max(tf.pad(found, [[0, 0], [0, 0], [0, 1]]), axis=-1)


def _may_improve(
    best: tf.Tensor,
    finished: Beams,
    *,
    length: tf.Tensor,
    limits: tf.Tensor,
    settings: BeamSettings,
) -> tf.Tensor:
    """Bool (B,). Whether a beam of that score could still enter the finished ones."""
    # A beam's log-probability falls with its length, but a positive penalty may lift
    # its score: at its limit it would be highest.
    looks_ahead = (settings.early_stopping == NEVER) & (settings.length_penalty > 0.0)
    best_length = tf.cast(tf.where(looks_ahead, limits, length), tf.float32)
    reachable = best / best_length**settings.length_penalty
    worst = tf.reduce_min(finished.scores, axis=1, keepdims=True)
    worst = tf.where(finished.is_there, worst, LOWEST_SCORE)
    return tf.reduce_any(reachable[:, None] > worst, axis=1)
