"""The signatures `prefill` and `decode`: a generation in steps, its state in between.

The server keeps nothing: what `prefill` and `decode` return goes into the next
`decode`, on any server that has the model. All of it has the batch as dimension 0 and
no other size that changes, so that servers can join requests.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.export.signatures.generate import Generation, reason_names, valid_utf8
from keras_gpt.export.signatures.inputs import Input, Outputs, spread
from keras_gpt.export.signatures.knobs import ServedRequest
from keras_gpt.generation import (
    FINISH_REASONS,
    INVALID_INPUT,
    LENGTH,
    UNFINISHED,
    Alternatives,
    DecodeState,
    new_tokens,
)
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache, LayerCache
from keras_gpt.sampling.partial_text import num_bytes_held_back, num_tokens_held_back

STATE = "state_"  # begins the names of all that goes back in
MAX_TOKENS = 4  # of a call of `decode`


class StreamState(NamedTuple):
    """A generation at rest, beside its knobs.

    Attributes:
        token_ids: int32 (B, C). The prompt and the new tokens; C is the context.
        log_probs: float32 (B, C). Of the new tokens.
        length: int32 (B,). Tokens of both.
        prompt_length: int32 (B,).
        limit: int32 (B,). Most new tokens.
        finish_reason: int32 (B,). Index into `FINISH_REASONS`.
        text_length: int32 (B,). Bytes of the new text before a stop string; -1 for all.
        text_bytes: string (B,). The new text, where there are stop strings; it may
            end inside a character.
        num_tokens_given: int32 (B,). New tokens that calls have returned: the first
            one is chosen with the prompt, and waits.
        num_bytes_given: int32 (B,). Bytes of the new text that calls have returned.
        cache: (B, 2 * L, N, C, H). Keys and values of each block, in turn.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    length: tf.Tensor
    prompt_length: tf.Tensor
    limit: tf.Tensor
    finish_reason: tf.Tensor
    text_length: tf.Tensor
    text_bytes: tf.Tensor
    num_tokens_given: tf.Tensor
    num_bytes_given: tf.Tensor
    cache: tf.Tensor


class Streaming:
    """A generation by sampling, in steps.

    Args:
        generation: `Generation`, whose method is sampling.
        knobs: `Input` of each knob by name.
    """

    def __init__(self, generation: Generation, knobs: dict[str, Input]) -> None:
        self._generator = generation.generator
        self._decoder = generation.generator.decoder
        self._knobs = generation.knobs
        # By their names in the state. The limit stands for the first of those left out,
        # and the prompt is cut once and for all. Strings may be no UTF-8: with such a
        # name, TF Serving's REST API gives them as base64.
        self._carried = {
            f"{name}_bytes" if knob.dtype == tf.string else name: name
            for name, knob in knobs.items()
            if name not in ("max_new_tokens", "truncate_prompt")
        }
        self.inputs = self._decode_inputs(knobs)

    def _decode_inputs(self, knobs: dict[str, Input]) -> dict[str, Input]:
        """Returns the inputs of `decode`."""
        model, context = self._decoder.model, self._decoder.context
        table = model.empty_cache(1, num_slots=0).layers[0].key
        num_tables = 2 * model.config.num_layers
        _, heads, _, size = table.shape
        cache = Input(table.dtype, (num_tables, heads, context, size))
        number, row = Input(tf.int32), Input(tf.int32, (context,))
        parts = StreamState(
            token_ids=row,
            log_probs=row._replace(dtype=tf.float32),
            length=number,
            prompt_length=number,
            limit=number,
            finish_reason=number,
            text_length=number,
            text_bytes=Input(tf.string),
            num_tokens_given=number,
            num_bytes_given=number,
            cache=cache,
        )
        carried = {
            key: knobs[name]._replace(default=None)
            for key, name in self._carried.items()
        }
        state = {f"{STATE}{k}": v for k, v in {**parts._asdict(), **carried}.items()}
        return {**state, "max_tokens": Input(tf.int32, (), MAX_TOKENS)}

    def prefill(self, text: tf.Tensor, **knobs: tf.Tensor) -> Outputs:
        """Computes prompts (B,) and their first tokens, and returns the state."""
        rows = tf.shape(text)[0]
        served = self._knobs.read(knobs, rows)
        prompts = self._generator.prompts(
            text,
            settings=served.request.settings,
            are_valid=served.are_valid,
            truncates=served.truncates,
        )
        # Whole prompts, as in `generate`: numbers are the same to the last bit.
        state = self._decoder.begin(prompts, served.request)
        after = self._decoder.advance(state, served.request, num_steps=1)
        none = tf.zeros_like(after.lengths)
        stream = self._stream_state(
            after,
            served,
            limit=state.limits,
            num_tokens_given=none,
            num_bytes_given=none,
        )
        carried = {
            key: spread(knobs[name], rows) for key, name in self._carried.items()
        }
        return {f"{STATE}{k}": v for k, v in {**stream._asdict(), **carried}.items()}

    def _stream_state(
        self,
        state: DecodeState,
        served: ServedRequest,
        *,
        limit: tf.Tensor,
        **given: tf.Tensor,
    ) -> StreamState:
        context = self._decoder.context
        # The decoder keeps the texts of all rows where one has a stop string.
        needs_text = tf.reduce_any(served.request.stops.strings != "", axis=1)
        return StreamState(
            token_ids=_resized(state.token_ids, context),
            log_probs=_resized(state.log_probs, context),
            length=state.lengths,
            prompt_length=state.prompt_lengths,
            limit=limit,
            finish_reason=state.finish_reason,
            text_length=state.text_lengths,
            text_bytes=tf.where(needs_text, state.text, self._decoder.text_start),
            cache=_packed(state.cache, context, used=state.lengths - 1),
            **given,
        )

    def decode(self, max_tokens: tf.Tensor, **state: tf.Tensor) -> Outputs:
        """Goes on by up to `max_tokens` (B,) tokens in each row."""
        given = {name.removeprefix(STATE): value for name, value in state.items()}
        stream = StreamState(*(given[name] for name in StreamState._fields))
        rows = tf.shape(stream.length)[0]
        knobs = {name: given[key] for key, name in self._carried.items()}
        knobs["max_new_tokens"] = stream.limit
        knobs["truncate_prompt"] = tf.constant([False])
        served = self._knobs.read(knobs, rows)
        are_valid = served.are_valid & served.request.settings.are_valid
        stream = self._checked(stream, are_valid)
        share = tf.maximum(spread(max_tokens, rows), 0)
        most = stream.num_tokens_given + tf.minimum(share, self._decoder.context)
        # What waits because a stop sequence may begin with it must not stop the rest.
        ahead = tf.shape(served.request.stops.sequences)[2] - 1
        after = self._advance(stream, served, most + ahead)
        outputs, stream = self._give(stream, after, served, most)
        state = {f"{STATE}{k}": v for k, v in stream._asdict().items()}
        carried = {f"{STATE}{key}": given[key] for key in self._carried}
        return {**outputs, **state, **carried}

    def _checked(self, stream: StreamState, are_valid: tf.Tensor) -> StreamState:
        """Ends the rows whose numbers, or knobs, no call can have returned."""
        size = self._decoder.model.config.vocabulary_size
        ids, context = stream.token_ids, self._decoder.context
        num_new = stream.length - stream.prompt_length
        is_state = tf.reduce_all((ids >= 0) & (ids < size), axis=1)
        # Rows that have ended keep the knobs that may have ended them.
        is_state &= are_valid | (stream.finish_reason != UNFINISHED)
        # Compared before they are added up: sums of forged numbers may wrap.
        is_state &= stream.prompt_length >= 1
        is_state &= stream.length >= stream.prompt_length
        is_state &= (stream.length <= context) & (stream.limit >= 0)
        is_state &= stream.limit <= context - stream.prompt_length
        is_state &= (stream.finish_reason >= 0) & (
            stream.finish_reason < len(FINISH_REASONS)
        )
        is_state &= (stream.num_tokens_given >= 0) & (stream.num_bytes_given >= 0)
        is_state &= stream.num_tokens_given <= num_new

        def number(value: tf.Tensor, otherwise: int) -> tf.Tensor:
            return tf.where(is_state, value, otherwise)

        return stream._replace(
            token_ids=tf.where(is_state[:, None], ids, 0),
            length=number(stream.length, 1),
            prompt_length=number(stream.prompt_length, 1),
            limit=number(stream.limit, 0),
            finish_reason=number(stream.finish_reason, INVALID_INPUT),
            text_length=number(stream.text_length, 0),
            num_tokens_given=number(stream.num_tokens_given, 0),
            num_bytes_given=number(stream.num_bytes_given, 0),
        )

    def _advance(
        self, stream: StreamState, served: ServedRequest, most: tf.Tensor
    ) -> DecodeState:
        """Runs until each row has ended or has so many new tokens."""
        num_new = stream.length - stream.prompt_length
        is_open = stream.finish_reason == UNFINISHED
        most = tf.minimum(most, stream.limit)
        # A row that pauses has ended for the time being, by its length.
        pauses = is_open & (num_new >= most)
        after = self._decoder.advance(
            self._decode_state(
                stream,
                limits=most,
                finish_reason=tf.where(pauses, LENGTH, stream.finish_reason),
            ),
            served.request,
            num_steps=tf.int32.max,
        )
        goes_on = is_open & (after.finish_reason == LENGTH)
        goes_on &= after.history.num_new_tokens < stream.limit
        return after._replace(
            finish_reason=tf.where(goes_on, UNFINISHED, after.finish_reason)
        )

    def _decode_state(
        self, stream: StreamState, *, limits: tf.Tensor, finish_reason: tf.Tensor
    ) -> DecodeState:
        none = tf.zeros_like(stream.length)
        spare = self._decoder.num_spare_places
        token_ids, log_probs = (
            tf.pad(table, [[0, 0], [0, spare]])
            for table in (stream.token_ids, stream.log_probs)
        )
        shape = tf.concat([tf.shape(token_ids), [0]], axis=0)
        cached = tf.where(finish_reason == UNFINISHED, stream.length - 1, 0)
        return DecodeState(
            token_ids=token_ids,
            log_probs=log_probs,
            alternatives=Alternatives(tf.zeros(shape, tf.int32), tf.zeros(shape)),
            lengths=stream.length,
            prompt_lengths=stream.prompt_length,
            limits=limits,
            finish_reason=finish_reason,
            text=stream.text_bytes,
            text_lengths=stream.text_length,
            starts=none,
            num_cached=stream.length - 1,
            cache=_unpacked(stream.cache, num_slots=tf.reduce_max(_or_zero(cached))),
            num_drafted=none,
            num_accepted=none,
            draft=(),
        )

    def _give(
        self,
        stream: StreamState,
        after: DecodeState,
        served: ServedRequest,
        most: tf.Tensor,
    ) -> tuple[Outputs, StreamState]:
        """Returns what is new and final, and the state after it was given."""
        tokens, stops = new_tokens(after), served.request.stops
        held = num_tokens_held_back(
            tokens.token_ids, tokens.num_tokens, stops.sequences
        )
        has_ended = after.finish_reason != UNFINISHED
        ready = tf.minimum(tokens.num_tokens - tf.where(has_ended, 0, held), most)
        ready = tf.maximum(ready, stream.num_tokens_given)
        is_last = has_ended & (ready >= tokens.num_tokens)
        text = self._generator.text_of(tokens._replace(num_tokens=ready))
        held = num_bytes_held_back(text, stops.strings)
        size = tf.strings.length(text)
        first = tf.minimum(stream.num_bytes_given, size)
        until = tf.maximum(size - tf.where(is_last, 0, held), first)
        new = tf.strings.substr(text, first, until - first)
        count = ready - stream.num_tokens_given
        places = tf.range(tf.reduce_max(_or_zero(count)))
        is_there = places < count[:, None]
        source = tf.where(is_there, stream.num_tokens_given[:, None] + places, 0)
        outputs = {
            "new_text": valid_utf8(new),
            "new_token_ids": _taken(tokens.token_ids, source, is_there),
            "new_token_log_probs": _taken(tokens.log_probs, source, is_there),
            "new_num_tokens": count,
            "finish_reason": reason_names(
                tf.where(is_last, after.finish_reason, UNFINISHED)
            ),
        }
        return outputs, self._stream_state(
            after,
            served,
            limit=stream.limit,
            num_tokens_given=ready,
            num_bytes_given=until,
        )


def _taken(table: tf.Tensor, source: tf.Tensor, is_there: tf.Tensor) -> tf.Tensor:
    padded = tf.pad(table, [[0, 0], [0, 1]])  # never empty
    taken = tf.gather(padded, source, batch_dims=1)
    return tf.where(is_there, taken, tf.zeros([], table.dtype))


def _or_zero(numbers: tf.Tensor) -> tf.Tensor:
    return tf.concat([numbers, [0]], axis=0)


def _resized(table: tf.Tensor, width: int) -> tf.Tensor:
    """Returns a table (B, W) as (B, width), 0 where it had nothing."""
    padded = tf.pad(table, [[0, 0], [0, width]])[:, :width]
    return tf.ensure_shape(padded, [None, width])


def _packed(cache: KVCache, num_slots: int, *, used: tf.Tensor) -> tf.Tensor:
    """Returns the used slots (B,) of a cache as one tensor (B, 2 * L, N, num_slots, H).

    The others are 0, whatever padding and drafts have left there: a row's state does
    not tell what its neighbours were.
    """
    tables = [table[:, :, :num_slots] for layer in cache.layers for table in layer]
    packed = tf.stack(tables, axis=1)
    size = tf.shape(packed)[3]
    is_used = (tf.range(size) < used[:, None])[:, None, None, :, None]
    packed = tf.where(is_used, packed, tf.zeros([], packed.dtype))
    missing = num_slots - size
    packed = tf.pad(packed, [[0, 0], [0, 0], [0, 0], [0, missing], [0, 0]])
    _, heads, _, size = tables[0].shape
    return tf.ensure_shape(packed, [None, len(tables), heads, num_slots, size])


def _unpacked(packed: tf.Tensor, *, num_slots: tf.Tensor) -> KVCache:
    """Returns the first slots as a cache that is free to be written to."""
    # As many as a generation in one go has, so that sums run alike.
    step = kv_cache.SLOTS_AT_ONCE
    width = (num_slots // step + 1) * step
    used = packed[:, :, :, :width]
    missing = width - tf.shape(used)[3]
    used = tf.pad(used, [[0, 0], [0, 0], [0, 0], [0, missing], [0, 0]])
    tables = tf.unstack(used, num=packed.shape[1], axis=1)
    rows = tf.range(tf.shape(packed)[0])
    cache = KVCache(
        tuple(LayerCache(*pair) for pair in zip(tables[::2], tables[1::2], strict=True))
    )
    return kv_cache.take_rows(cache, rows)
