"""The decode loop as one XLA computation, whose shapes are all known beforehand.

XLA compiles it anew for each size of batch, prompt and continuation, and of the lists
of stop tokens and rules; so all but the first are rounded up to powers of two.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.generation.decoder import Decoder, new_tokens
from keras_gpt.generation.settings import GenerationSettings
from keras_gpt.generation.state import (
    Alternatives,
    DecodeState,
    GeneratedTokens,
    Prompts,
    Request,
    Stops,
)
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.layers.runtime import graphs_for
from keras_gpt.sampling.logits_processors import TokenRules
from keras_gpt.sampling.stop_strings import NOT_FOUND

SMALLEST_SIZE = 16  # of a prompt, and of a continuation


class _Begin(NamedTuple):
    """Where each row begins; all that a state is made of beside tables.

    Attributes:
        lengths: int32 (B,). Tokens of each prompt.
        limits: int32 (B,). Most new tokens.
        finish_reason: int32 (B,).
    """

    lengths: tf.Tensor
    limits: tf.Tensor
    finish_reason: tf.Tensor


class CompiledDecoder:
    """Continues prompts as a `Decoder` does, in XLA; without drafts or stop strings.

    Args:
        decoder: `Decoder`.
    """

    def __init__(self, decoder: Decoder) -> None:
        # XLA has no strings, so this one knows no text.
        self._decoder = Decoder(decoder.model, processors=decoder.processors)
        self._loop = tf.function(self._run_loop, jit_compile=True, autograph=False)
        sizes = [SMALLEST_SIZE]
        while sizes[-1] < decoder.context:
            sizes.append(2 * sizes[-1])
        self._sizes = sizes

    def generate(self, prompts: Prompts, request: Request) -> GeneratedTokens:
        """Continues each prompt, of no prefix, until it stops."""
        limits, finish_reason = prompts.limits(
            request.settings.max_new_tokens,
            room=self._decoder.context - prompts.lengths,
        )
        begin = _Begin(prompts.lengths, limits, finish_reason)
        width = tf.shape(prompts.token_ids)[1]
        most = tf.reduce_max(tf.concat([limits, [0]], axis=0))
        token_ids, log_probs, lengths, finish_reason = self._loop(
            tf.pad(prompts.token_ids, [[0, 0], [0, self._size(width) - width]]),
            # XLA takes shapes from what it is given: this one is all shape.
            tf.zeros([self._size(most)], tf.bool),
            begin,
            request.settings,
            _padded(request.stops.sequences),
            TokenRules(*map(_padded, request.rules)),
        )
        state = fixed_state(token_ids, cache=KVCache(()), **begin._asdict())
        return new_tokens(
            state._replace(
                log_probs=log_probs, lengths=lengths, finish_reason=finish_reason
            )
        )

    def _size(self, count: tf.Tensor) -> tf.Tensor:
        """Returns the first size that is no less than a count."""
        sizes = tf.constant(self._sizes)
        return tf.reduce_min(tf.where(sizes >= count, sizes, self._sizes[-1]))

    def _run_loop(
        self,
        prompts: tf.Tensor,
        room: tf.Tensor,
        begin: _Begin,
        settings: GenerationSettings,
        stop_sequences: tf.Tensor,
        rules: TokenRules,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        token_ids = tf.pad(prompts, [[0, 0], [0, tf.shape(room)[0]]])
        rows, size = tf.unstack(tf.shape(token_ids))
        # One more, which nobody reads, for padding.
        cache = self._decoder.model.empty_cache(rows, num_slots=size + 1)
        none = tf.zeros([1, 0], tf.int32)
        request = Request.of(settings, stops=Stops(stop_sequences, none), rules=rules)
        with graphs_for("xla"):
            state = self._decoder.advance(
                fixed_state(token_ids, cache=cache, **begin._asdict()),
                request,
                num_steps=1,
                width=tf.shape(prompts)[1],
            )
            state = self._decoder.advance(
                state, request, num_steps=tf.int32.max, width=1
            )
        return state.token_ids, state.log_probs, state.lengths, state.finish_reason


def _padded(table: tf.Tensor) -> tf.Tensor:
    """Returns a list of each row (B', W) or (B', W, L), W and L rounded up.

    Sequences are padded in front, as they are; what is added stands for nothing.
    """
    powers = tf.constant([0, *(2**power for power in range(31))])
    sizes = tf.shape(table)[1:]
    missing = tf.reduce_min(tf.where(powers >= sizes[:, None], powers, powers[-1]), 1)
    missing -= sizes
    paddings = [[0, 0], [0, missing[0]]]
    if table.shape.rank == 3:
        paddings.append([missing[1], 0])
    nothing = -1 if table.dtype.is_integer else 0.0
    return tf.pad(table, paddings, constant_values=tf.cast(nothing, table.dtype))


def fixed_state(
    token_ids: tf.Tensor,
    *,
    lengths: tf.Tensor,
    limits: tf.Tensor,
    finish_reason: tf.Tensor,
    cache: KVCache,
) -> DecodeState:
    """Returns a state before its first token, in which there are no strings.

    Args:
        token_ids: int32 (B, S). Prompts, with room for what continues them.
        lengths: int32 (B,). Tokens of each prompt.
        limits: int32 (B,). Most new tokens.
        finish_reason: int32 (B,).
        cache: `KVCache` of no tokens.
    """
    none = tf.zeros_like(lengths)
    shape = tf.concat([tf.shape(token_ids), [0]], axis=0)
    return DecodeState(
        token_ids=token_ids,
        log_probs=tf.zeros_like(token_ids, tf.float32),
        alternatives=Alternatives(tf.zeros(shape, tf.int32), tf.zeros(shape)),
        lengths=lengths,
        prompt_lengths=lengths,
        limits=limits,
        finish_reason=finish_reason,
        text=none,
        text_lengths=tf.fill(tf.shape(none), NOT_FOUND),
        starts=none,
        num_cached=none,
        cache=cache,
        num_drafted=none,
        num_accepted=none,
        draft=(),
    )
