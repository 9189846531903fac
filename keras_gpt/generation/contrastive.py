"""Contrastive search: likely tokens that do not repeat what the text has said.

Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5; the
rules are those of transformers 4 (`GenerationMixin._contrastive_search`).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.generation.decoder import Decoder, new_tokens, shapes_of_rounds
from keras_gpt.generation.feeding import feed
from keras_gpt.generation.state import (
    DecodeState,
    GeneratedTokens,
    Prompts,
    Request,
)
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.sampling.logits_processors import BANNED_LOGIT


class ContrastiveSettings(NamedTuple):
    """How each row weighs its candidates.

    Attributes:
        penalty_alpha: float32 (B,). In [0, 1]: weight of the likeness to the text so
            far, against that of the probability; 0 is greedy.
        top_k: int32 (B,). How many of the likeliest tokens are candidates; at least 1.
    """

    penalty_alpha: tf.Tensor
    top_k: tf.Tensor


class _Loop(NamedTuple):
    """State of a row of tokens, with what the model makes of them.

    Attributes:
        state: `DecodeState`; its cache holds all tokens.
        hidden: (B, S, D). Of each token, of unit length.
        logits: float32 (B, V). After the last token.
    """

    state: DecodeState
    hidden: tf.Tensor
    logits: tf.Tensor


def search_contrastively(
    decoder: Decoder,
    prompts: Prompts,
    request: Request,
    *,
    settings: ContrastiveSettings,
) -> GeneratedTokens:
    """Continues each prompt by contrastive search.

    Args:
        decoder: `Decoder`.
        prompts: `Prompts` of B rows.
        request: `Request` of B rows; of its settings, those of sampling count for
            nothing.
        settings: `ContrastiveSettings` of B rows.
    """
    state = decoder.begin(prompts, request)
    # Likeness is to hidden states of the whole text, of which a prefix keeps none.
    fed = feed(
        decoder.model,
        token_ids=state.token_ids,
        lengths=state.lengths,
        num_cached=tf.zeros_like(state.lengths),
        cache=decoder.model.empty_cache(tf.shape(state.lengths)[0], num_slots=0),
        num_hidden=1,
    )
    beyond = tf.shape(state.token_ids)[1] - tf.shape(fed.all_hidden)[1]
    hidden = tf.pad(_unit(fed.all_hidden), [[0, 0], [0, tf.maximum(beyond, 0)], [0, 0]])
    hidden = hidden[:, : tf.shape(state.token_ids)[1]]
    loop = _Loop(
        state._replace(cache=fed.cache), hidden, decoder.model.logits(fed.hidden[:, 0])
    )
    shapes = tf.nest.map_structure(lambda x: x.shape, loop)
    shapes = shapes._replace(state=shapes_of_rounds(loop.state))
    (loop,) = tf.while_loop(
        lambda now: tf.reduce_any(now.state.is_running),
        lambda now: (_round(decoder, now, request, settings),),
        (loop,),
        shape_invariants=(shapes,),
        parallel_iterations=1,
    )
    return new_tokens(loop.state)


def _round(
    decoder: Decoder, now: _Loop, request: Request, settings: ContrastiveSettings
) -> _Loop:
    """Weighs the candidates for the next token, and takes one in each running row."""
    state = now.state
    running, lengths = state.is_running, state.lengths
    processed = decoder.process(now.logits, state.history, request)
    count = tf.minimum(tf.reduce_max(settings.top_k), tf.shape(processed)[1])
    probabilities, candidates = tf.math.top_k(tf.nn.softmax(processed), count)
    hidden, cache = _feed_candidates(decoder, state, candidates)
    likeness = _likeness(hidden, now.hidden, lengths=lengths)
    alpha = settings.penalty_alpha[:, None]
    scores = (1.0 - alpha) * probabilities - alpha * likeness
    is_candidate = tf.range(count) < settings.top_k[:, None]
    is_candidate &= tf.gather(processed, candidates, batch_dims=1) > BANNED_LOGIT
    best = tf.argmax(
        tf.where(is_candidate, scores, tf.float32.min), axis=1, output_type=tf.int32
    )
    tokens = tf.gather(candidates, best, batch_dims=1)
    after = decoder.commit(
        state,
        request,
        logits=now.logits,
        choice=decoder.choice_of(tokens, processed),
        rows=running,
    )
    # The chosen candidate moves from its own slot to that of the next token.
    cache = kv_cache.move(cache, source=lengths + best, target=lengths)
    chosen = tf.gather(hidden, best, batch_dims=1)
    place = tf.range(tf.shape(now.hidden)[1]) == lengths[:, None]
    return _Loop(
        state=after._replace(cache=cache),
        hidden=tf.where(place[:, :, None], _unit(chosen)[:, None], now.hidden),
        logits=tf.ensure_shape(decoder.model.logits(chosen), now.logits.shape),
    )


def _feed_candidates(
    decoder: Decoder, state: DecodeState, candidates: tf.Tensor
) -> tuple[tf.Tensor, KVCache]:
    """Runs candidates (B, K) for one place, each blind to the others."""
    lengths = state.lengths[:, None]
    slots = lengths + tf.range(tf.shape(candidates)[1])
    cache = kv_cache.grow(state.cache, 1 + tf.reduce_max(slots))
    keys = tf.range(cache.num_slots)
    mask = (keys < lengths[:, None]) | (keys == slots[:, :, None])
    last = decoder.context - 1  # of rows that have ended at the context's end
    output = decoder.model.forward(
        candidates,
        positions=tf.broadcast_to(tf.minimum(lengths, last), tf.shape(candidates)),
        slots=slots,
        mask=mask[:, None],
        cache=cache,
        training=False,
    )
    return output.hidden, output.cache


def _likeness(
    candidates: tf.Tensor, hidden: tf.Tensor, *, lengths: tf.Tensor
) -> tf.Tensor:
    """float32 (B, K). Largest cosine of each candidate with a token of the text."""
    cosines = tf.matmul(_unit(candidates), hidden, transpose_b=True)
    is_text = tf.range(tf.shape(hidden)[1]) < lengths[:, None]
    return tf.reduce_max(tf.where(is_text[:, None], cosines, -1.0), axis=2)


def _unit(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(vectors, tf.float32), axis=-1)
