"""The decode loop: feed the tokens not fed yet, choose the next one, again.

The first round feeds the prompts, the later ones a token each, or a token and drafts
of those that may follow it. All is graph code over tensors, so that one trace serves
every setting and the exported model runs what Python runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.generation.drafts import Drafter
from keras_gpt.generation.feeding import Fed, feed
from keras_gpt.generation.state import (
    INVALID_LOGITS,
    LENGTH,
    STOP,
    Alternatives,
    DecodeState,
    GeneratedTokens,
    LanguageModel,
    Prefix,
    Prompts,
    Request,
)
from keras_gpt.layers import kv_cache
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.sampling.history import History, completed_length
from keras_gpt.sampling.logits_processors import (
    BANNED_LOGIT,
    LogitsProcessor,
    process_logits,
)
from keras_gpt.sampling.samplers import sample
from keras_gpt.sampling.stop_strings import NOT_FOUND, grow_text


class Choice(NamedTuple):
    """What the sampler takes.

    Attributes:
        token_ids: int32 (B,).
        is_allowed: bool (B,). False where every token is banned.
        is_number: bool (B,). False where a user's processor has made a NaN.
    """

    token_ids: tf.Tensor
    is_allowed: tf.Tensor
    is_number: tf.Tensor


class Decoder:
    """Continues prompts by one token after the other.

    Args:
        model: a `LanguageModel`.
        token_text: string (V,). What each token adds to a text; needed for stop
            strings alone. Optional.
        text_start: string. What stands before the first new token's text. Defaults
            to none.
        processors: `LogitsProcessor`s to apply after the others. Defaults to none.
        drafter: `Drafter` of tokens to check several of at once. Optional; the
            result is the same without.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        token_text: tf.Tensor | None = None,
        text_start: str = "",
        processors: Sequence[LogitsProcessor] = (),
        drafter: Drafter | None = None,
    ) -> None:
        self.model = model
        self.context = model.config.max_sequence_length
        self.drafter = drafter
        self.token_text = token_text
        self.text_start = text_start
        self.processors = tuple(processors)

    def begin(self, prompts: Prompts, request: Request) -> DecodeState:
        """Returns the state before the first token, for B rows of each."""
        before = prompts.prefix_lengths
        lengths = before + prompts.lengths
        most = request.settings.max_new_tokens
        room = tf.where(request.slides, most, self.context - lengths)
        limits, finish_reason = prompts.limits(most, room=room)
        size = tf.reduce_max(tf.concat([lengths + limits, [1]], axis=0))
        token_ids = prompts.whole(size=size + self.num_spare_places)
        none = tf.zeros_like(lengths)
        shape = tf.shape(token_ids)
        alternatives = tf.concat([shape, [request.num_alternatives]], axis=0)
        return DecodeState(
            token_ids=token_ids,
            log_probs=tf.zeros(shape),
            alternatives=Alternatives(
                tf.zeros(alternatives, tf.int32), tf.zeros(alternatives)
            ),
            lengths=lengths,
            prompt_lengths=lengths,
            limits=limits,
            finish_reason=finish_reason,
            text=tf.fill(shape[:1], self.text_start),
            text_lengths=tf.fill(shape[:1], NOT_FOUND),
            starts=none,
            num_cached=tf.maximum(before - 1, 0),
            cache=prompts.copy_of_cache(),
            num_drafted=none,
            num_accepted=none,
            draft=self.drafter.begin(shape[0]) if self.drafter else (),
        )

    @property
    def num_spare_places(self) -> int:
        """Places behind the last token, for drafts."""
        return self.drafter.num_tokens if self.drafter else 0

    def advance(
        self,
        state: DecodeState,
        request: Request,
        *,
        num_steps: tf.Tensor,
        width: tf.Tensor | None = None,
    ) -> DecodeState:
        """Goes on for some rounds, each a token or more, or until all rows end.

        Args:
            state: `DecodeState`. Its cache is used up.
            request: the `Request` that it began with.
            num_steps: int32 scalar.
            width: int32 scalar. Tokens of a row to feed in a round, as in `feed`.
                Optional.
        """
        _, state = tf.while_loop(
            lambda step, now: (step < num_steps) & tf.reduce_any(now.is_running),
            lambda step, now: (step + 1, self._round(now, request, width=width)),
            (tf.constant(0), state),
            shape_invariants=(tf.TensorShape([]), shapes_of_rounds(state)),
            parallel_iterations=1,
        )
        return state

    def generate(self, prompts: Prompts, request: Request) -> GeneratedTokens:
        """Continues each prompt until it stops."""
        state = self.begin(prompts, request)
        return new_tokens(self.advance(state, request, num_steps=tf.int32.max))

    def prefill(self, prompts: Prompts) -> Prefix:
        """Computes a `Prefix` of prompts, which others may then follow."""
        before = prompts.prefix_lengths
        lengths = before + prompts.lengths
        size = tf.reduce_max(tf.concat([lengths, [1]], axis=0))
        token_ids = prompts.whole(size=size)
        fed = feed(
            self.model,
            token_ids=token_ids,
            lengths=tf.maximum(lengths - 1, 1),
            num_cached=tf.maximum(before - 1, 0),
            cache=prompts.copy_of_cache(),
            num_hidden=1,
        )
        return Prefix(token_ids, lengths, fed.cache)

    def _round(
        self, state: DecodeState, request: Request, *, width: tf.Tensor | None = None
    ) -> DecodeState:
        """Feeds what was not fed, and chooses a token in each running row."""
        state = self._slide(state)
        drafts = None
        if self.drafter is not None:
            drafts, draft = self.drafter.propose(state, request, self.choose)
            state = state._replace(draft=draft)
        fed = self._feed(state, drafts, width=width)
        state = state._replace(cache=fed.cache)
        if drafts is None:
            logits = self.model.logits(fed.hidden[:, 0])
            return self.take(state, request, logits=logits)
        logits = self.model.logits(fed.hidden)
        after = self._check_drafts(state, request, drafts=drafts, logits=logits)
        return _all_fed(after, rows=state.is_running)

    def take(
        self, state: DecodeState, request: Request, *, logits: tf.Tensor
    ) -> DecodeState:
        """Chooses a token in each running row, and writes it down.

        Args:
            state: `DecodeState` whose tokens were all fed.
            request: the `Request` that it began with.
            logits: float32 (B, V). After the last token of each row.
        """
        running = state.is_running
        choice = self.choose(logits, state, request)
        after = self.commit(state, request, logits=logits, choice=choice, rows=running)
        return _all_fed(after, rows=running)

    def _slide(self, state: DecodeState) -> DecodeState:
        """Lets rows that overflow the context go on with the last half of it."""
        # Positions are learnt, so what stays is computed anew from position 0.
        overflows = state.is_running & (state.lengths - state.starts > self.context)
        kept = max(self.context // 2, 1)
        return state._replace(
            starts=tf.where(overflows, state.lengths - kept, state.starts),
            num_cached=tf.where(overflows, 0, state.num_cached),
        )

    def _feed(self, state: DecodeState, drafts: Any, *, width: tf.Tensor | None) -> Fed:
        if drafts is None:
            token_ids, num_drafts = state.token_ids, None
        else:
            token_ids = _put_drafts(state, drafts.token_ids)
            num_drafts = drafts.counts
        most = 0 if drafts is None else tf.shape(drafts.token_ids)[1]
        return feed(
            self.model,
            token_ids=token_ids,
            lengths=state.lengths,
            starts=state.starts,
            num_cached=state.num_cached,
            cache=state.cache,
            rows=state.is_running,
            num_drafts=num_drafts,
            num_hidden=1 + most,
            width=width,
        )

    def choose(self, logits: tf.Tensor, state: DecodeState, request: Request) -> Choice:
        """Takes the next token of each row: a fixed function of its arguments.

        Args:
            logits: float32 (B, V). After the state's last token.
            state: `DecodeState`.
            request: `Request`.
        """
        processed = self.process(logits, state.history, request)
        tokens = sample(
            processed,
            settings=request.settings.sampling,
            step=state.history.num_new_tokens,
        )
        return self.choice_of(tokens, processed)

    def choice_of(self, token_ids: tf.Tensor, processed: tf.Tensor) -> Choice:
        """Returns tokens (B,) that were chosen by `processed` logits (B, V)."""
        is_number = tf.ones_like(token_ids, tf.bool)
        if self.processors:
            # Ours keep numbers finite, and the model's own are looked at in `commit`.
            is_number = ~tf.reduce_any(tf.math.is_nan(processed), axis=-1)
        chosen = tf.gather(processed, token_ids, batch_dims=1)
        return Choice(token_ids, ~is_number | (chosen > BANNED_LOGIT), is_number)

    def process(
        self, logits: tf.Tensor, history: History, request: Request
    ) -> tf.Tensor:
        """Returns the logits (B, V) after all that precedes the sampler's filters."""
        return process_logits(
            logits,
            penalties=request.settings.penalties,
            rules=request.rules,
            stop_sequences=request.stops.sequences,
            history=history,
            processors=self.processors,
        )

    def commit(
        self,
        state: DecodeState,
        request: Request,
        *,
        logits: tf.Tensor,
        choice: Choice,
        rows: tf.Tensor,
    ) -> DecodeState:
        """Writes tokens down in some rows, and ends the rows that they end.

        Args:
            state: `DecodeState`.
            request: `Request`.
            logits: float32 (B, V). From which they were chosen.
            choice: `Choice`.
            rows: bool (B,). Rows to write to.
        """
        total = tf.reduce_logsumexp(logits, axis=-1)
        # Of the model's own distribution, before penalties and filters.
        log_probs = tf.gather(logits, choice.token_ids, batch_dims=1) - total
        is_number = choice.is_number & tf.math.is_finite(total)
        is_number &= ~tf.math.is_nan(log_probs)
        written = rows & is_number & choice.is_allowed
        place = tf.range(tf.shape(state.token_ids)[1]) == state.lengths[:, None]
        place &= written[:, None]
        reason = tf.where(rows & ~choice.is_allowed, STOP, state.finish_reason)
        after = state._replace(
            token_ids=tf.where(place, choice.token_ids[:, None], state.token_ids),
            log_probs=tf.where(place, log_probs[:, None], state.log_probs),
            alternatives=_put_alternatives(
                state.alternatives, place, log_probs=logits - total[:, None]
            ),
            lengths=state.lengths + tf.cast(written, tf.int32),
            finish_reason=tf.where(rows & ~is_number, INVALID_LOGITS, reason),
        )
        return self._end(after, request, written=written)

    def _end(
        self, state: DecodeState, request: Request, *, written: tf.Tensor
    ) -> DecodeState:
        """Ends rows that were written to, where a stop or their length says so."""
        stop_lengths = completed_length(state.history, request.stops.sequences)
        stops = written & (stop_lengths > 0)
        text, text_lengths = self._grow_text(state, request, written & ~stops)
        cut = written & (text_lengths != NOT_FOUND)
        full = written & (state.history.num_new_tokens >= state.limits)
        return state._replace(
            lengths=state.lengths - tf.where(stops, stop_lengths, 0),
            text=text,
            text_lengths=text_lengths,
            finish_reason=tf.where(
                stops | cut, STOP, tf.where(full, LENGTH, state.finish_reason)
            ),
        )

    def _grow_text(
        self, state: DecodeState, request: Request, written: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Appends the last tokens' text, and looks for stop strings."""
        if self.token_text is None:
            return state.text, state.text_lengths
        is_late = state.history.num_new_tokens >= request.settings.min_new_tokens
        text, found = grow_text(
            state.text,
            tf.gather(state.token_ids, tf.maximum(state.lengths - 1, 0), batch_dims=1),
            token_text=self.token_text,
            stop_strings=request.stops.strings,
            rows=written,
            counts=is_late,
        )
        return text, tf.where(written, found, state.text_lengths)

    def _check_drafts(
        self, state: DecodeState, request: Request, *, drafts: Any, logits: tf.Tensor
    ) -> DecodeState:
        """Chooses tokens as long as the drafts have foreseen them.

        Args:
            state: `DecodeState`.
            request: `Request`.
            drafts: `Drafts` of K tokens.
            logits: float32 (B, 1 + K, V). After the last token, and after each draft.
        """
        in_window = state.lengths - state.starts
        running = state.is_running
        # After the last draft, none is right.
        draft_ids = tf.pad(drafts.token_ids, [[0, 0], [0, 1]])

        def check(
            index: tf.Tensor, now: DecodeState, rows: tf.Tensor
        ) -> tuple[tf.Tensor, DecodeState, tf.Tensor]:
            choice = self.choose(logits[:, index], now, request)
            after = self.commit(
                now, request, logits=logits[:, index], choice=choice, rows=rows
            )
            right = rows & (index < drafts.counts)
            right &= draft_ids[:, index] == choice.token_ids
            # A draft beyond the context was fed at no position of its own.
            right &= in_window + index < self.context
            accepted = now.num_accepted + tf.cast(right, tf.int32)
            after = after._replace(num_accepted=accepted)
            return index + 1, after, right & after.is_running

        # Nothing here changes the cache, so that it is no part of the loop.
        bare = state._replace(cache=KVCache(()), draft=())
        _, after, _ = tf.while_loop(
            lambda index, _, rows: tf.reduce_any(rows),
            check,
            (tf.constant(0), bare, running),
            parallel_iterations=1,
        )
        drafted = state.num_drafted + tf.where(running, drafts.counts, 0)
        return after._replace(cache=state.cache, draft=state.draft, num_drafted=drafted)


def new_tokens(state: DecodeState) -> GeneratedTokens:
    """Returns what a state has generated so far."""
    num_tokens = state.history.num_new_tokens
    longest = tf.reduce_max(tf.concat([num_tokens, [0]], axis=0))
    ranks = tf.range(longest)
    places = state.prompt_lengths[:, None] + ranks[None, :]
    is_there = ranks < num_tokens[:, None]
    places = tf.where(is_there, places, 0)

    def cut(table: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(is_there), [1] * (table.shape.rank - 2)], axis=0)
        mask = tf.reshape(is_there, shape)
        return tf.where(
            mask, tf.gather(table, places, batch_dims=1), tf.zeros([], table.dtype)
        )

    return GeneratedTokens(
        token_ids=cut(state.token_ids),
        log_probs=cut(state.log_probs),
        alternatives=Alternatives(*map(cut, state.alternatives)),
        num_tokens=num_tokens,
        finish_reason=state.finish_reason,
        text_lengths=state.text_lengths,
        num_drafted=state.num_drafted,
        num_accepted=state.num_accepted,
    )


def _all_fed(state: DecodeState, *, rows: tf.Tensor) -> DecodeState:
    """Notes that the cache holds all tokens of some rows but the last."""
    num_cached = state.lengths - state.starts - 1
    return state._replace(num_cached=tf.where(rows, num_cached, state.num_cached))


def _put_drafts(state: DecodeState, drafts: tf.Tensor) -> tf.Tensor:
    """int32 (B, S). The tokens so far, with drafts (B, K) behind them."""
    ranks = tf.range(tf.shape(state.token_ids)[1]) - state.lengths[:, None]
    num_drafts = tf.shape(drafts)[1]
    is_draft = (ranks >= 0) & (ranks < num_drafts)
    padded = tf.pad(drafts, [[0, 0], [0, 1]])  # never empty
    placed = tf.gather(padded, tf.where(is_draft, ranks, 0), batch_dims=1)
    return tf.where(is_draft, placed, state.token_ids)


def _put_alternatives(
    alternatives: Alternatives, place: tf.Tensor, *, log_probs: tf.Tensor
) -> Alternatives:
    count = tf.shape(alternatives.token_ids)[2]

    def put() -> Alternatives:
        values, ids = tf.math.top_k(log_probs, count)
        mask = place[:, :, None]
        return Alternatives(
            tf.where(mask, ids[:, None], alternatives.token_ids),
            tf.where(mask, values[:, None], alternatives.log_probs),
        )

    return tf.cond(count > 0, put, lambda: alternatives)


def shapes_of_rounds(state: DecodeState) -> DecodeState:
    """Shapes that hold in every round: a cache's number of slots changes."""

    def shape(tensor: tf.Tensor) -> tf.TensorShape:
        rank = tensor.shape.rank
        if rank == 4:
            return kv_cache.growing_shape(tensor.shape)
        # The number of alternatives is not known to all that writes them.
        return tf.TensorShape([None] * 3) if rank == 3 else tensor.shape

    return tf.nest.map_structure(shape, state)
