"""Text generation: prefill once, then a cached decode loop in the graph.

`generate_tokens` is the loop over ids; `TextGenerator` wraps it with a tokenizer,
strings in and strings out. Both are graph code over tensors, so that one trace
serves every setting and the exported model runs what Python runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import Beams, BeamSettings, BeamState
from keras_gpt.sampling.logits_processors import (
    BANNED_LOGIT,
    History,
    Penalties,
    ban_early_stops,
    penalize,
)
from keras_gpt.sampling.samplers import SamplingSettings, sample

# Codes of `GeneratedTokens.finish_reason`, and their names in exported models.
FINISH_REASONS = ("", "stop", "length", "prompt_too_long", "invalid_input")
UNFINISHED, STOP, LENGTH, PROMPT_TOO_LONG, INVALID_INPUT = range(5)


class LanguageModel(Protocol):
    """What generation needs of a model; `GPTBackbone` is one."""

    config: Any

    def forward(self, token_ids: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns an object with `hidden` (B, T, D) and `cache`."""

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits (..., V)."""

    def empty_cache(self, batch_size: Any, *, num_slots: Any) -> KVCache:
        """Returns a cache of zeros."""


class GenerationSettings(NamedTuple):
    """Settings of one call, each a tensor with one entry per row.

    Attributes:
        max_new_tokens: int32 (B,). Also ended by the model's context.
        min_new_tokens: int32 (B,). At least 0, like those below; see `Penalties` and
            `SamplingSettings` for their meaning.
        repetition_penalty: float32 (B,). Above 0; 1 is off.
        presence_penalty: float32 (B,). Any finite number; 0 is off.
        frequency_penalty: float32 (B,). Any finite number; 0 is off.
        no_repeat_ngram_size: int32 (B,). At least 0; 0 is off.
        temperature: float32 (B,). At least 0; 0 is greedy.
        top_k: int32 (B,). At least 0; 0 is off.
        top_p: float32 (B,). In (0, 1]; 1 is off.
        min_p: float32 (B,). In [0, 1]; 0 is off.
        typical_p: float32 (B,). In (0, 1]; 1 is off.
        epsilon_cutoff: float32 (B,). In [0, 1); 0 is off.
        eta_cutoff: float32 (B,). In [0, 1); 0 is off.
        seed: int64 (B,).
    """

    max_new_tokens: tf.Tensor
    min_new_tokens: tf.Tensor
    repetition_penalty: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    no_repeat_ngram_size: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    typical_p: tf.Tensor
    epsilon_cutoff: tf.Tensor
    eta_cutoff: tf.Tensor
    seed: tf.Tensor

    @property
    def sampling(self) -> SamplingSettings:
        """The part that sampling reads."""
        return SamplingSettings(
            *(getattr(self, name) for name in SamplingSettings._fields)
        )

    @property
    def penalties(self) -> Penalties:
        """The part that penalties read."""
        return Penalties(*(getattr(self, name) for name in Penalties._fields))

    @property
    def are_valid(self) -> tf.Tensor:
        """Bool (B,). Whether each row's settings are within their ranges."""
        valid = [SETTINGS[name].holds(value) for name, value in self._asdict().items()]
        return tf.reduce_all(tf.stack(valid), axis=0)


class Setting(NamedTuple):
    """A field of `GenerationSettings`.

    Attributes:
        dtype: TensorFlow dtype.
        default: number. Leaves the setting off.
        rule: string. What its values must be, for messages.
        holds: function from values, as tensor or array, to whether each is in range.
    """

    dtype: tf.DType
    default: float
    rule: str
    holds: Callable[[Any], Any]


def _is_finite(x: Any) -> Any:
    return (x > -math.inf) & (x < math.inf)


_COUNT = Setting(tf.int32, 0, "at least 0", lambda x: x >= 0)
_SHARE = Setting(tf.float32, 1.0, "in (0, 1]", lambda x: (x > 0) & (x <= 1))
_PENALTY = Setting(tf.float32, 0.0, "finite", _is_finite)
_CUTOFF = Setting(tf.float32, 0.0, "in [0, 1)", lambda x: (x >= 0) & (x < 1))
SETTINGS: dict[str, Setting] = {
    "max_new_tokens": _COUNT._replace(default=64),
    "min_new_tokens": _COUNT,
    "repetition_penalty": Setting(
        tf.float32, 1.0, "finite and above 0", lambda x: _is_finite(x) & (x > 0)
    ),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "no_repeat_ngram_size": _COUNT,
    "temperature": Setting(
        tf.float32, 1.0, "finite and at least 0", lambda x: _is_finite(x) & (x >= 0)
    ),
    "top_k": _COUNT,
    "top_p": _SHARE,
    "min_p": Setting(tf.float32, 0.0, "in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
    "typical_p": _SHARE,
    "epsilon_cutoff": _CUTOFF,
    "eta_cutoff": _CUTOFF,
    "seed": Setting(tf.int64, 0, "an integer", lambda x: x == x),
}


class GeneratedTokens(NamedTuple):
    """Result of the loop.

    Attributes:
        token_ids: int32 (B, N). New tokens without the one that stopped the row;
            0 after a row's end.
        log_probs: float32 (B, N). Log-probabilities of those tokens under the
            model's own distribution; 0 after a row's end.
        num_tokens: int32 (B,).
        finish_reason: int32 (B,). Index into `FINISH_REASONS`.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    num_tokens: tf.Tensor
    finish_reason: tf.Tensor


class FoundTokens(NamedTuple):
    """Result of a beam search: K beams of each row, best first.

    Attributes:
        token_ids: int32 (B, K, N). New tokens without the one that stopped the beam;
            0 after its end.
        log_probs: float32 (B, K, N). Log-probabilities of those tokens; 0 after the
            beam's end.
        num_tokens: int32 (B, K).
        finish_reason: int32 (B, K). Index into `FINISH_REASONS`.
        scores: float32 (B, K). Sum of the log-probabilities, the stop token's
            included, over length ** length_penalty.
    """

    token_ids: tf.Tensor
    log_probs: tf.Tensor
    num_tokens: tf.Tensor
    finish_reason: tf.Tensor
    scores: tf.Tensor


class GeneratedText(NamedTuple):
    """Result of generation from strings.

    Attributes:
        generated_bytes: string (B,). The new text, exactly; it may end or begin
            inside a character.
        tokens: `GeneratedTokens`.
    """

    generated_bytes: tf.Tensor
    tokens: GeneratedTokens


class FoundText(NamedTuple):
    """Result of a beam search from strings.

    Attributes:
        generated_bytes: string (B, K). As in `GeneratedText`, beams best first.
        tokens: `FoundTokens`.
    """

    generated_bytes: tf.Tensor
    tokens: FoundTokens


class _Prompts(NamedTuple):
    """Prompts as ids (B, T) right-padded, lengths (B,) and finish reasons (B,)."""

    token_ids: tf.Tensor
    lengths: tf.Tensor
    finish_reason: tf.Tensor


def generate_tokens(
    model: LanguageModel,
    *,
    prompt_ids: tf.Tensor,
    prompt_lengths: tf.Tensor,
    settings: GenerationSettings,
    stop_token_ids: tf.Tensor,
    finish_reason: tf.Tensor | None = None,
) -> GeneratedTokens:
    """Continues each prompt until a stop token, its length, or the context's end.

    Args:
        model: a `LanguageModel`.
        prompt_ids: int32 (B, T). Right-padded.
        prompt_lengths: int32 (B,). At least 1 and below the context's length.
        settings: `GenerationSettings` of B rows, within their ranges.
        stop_token_ids: int32 (K,). Tokens that end a row.
        finish_reason: int32 (B,). Rows with a code other than `UNFINISHED` are left
            out. Defaults to none.

    Returns:
        `GeneratedTokens`, N the longest row's count.
    """
    batch_size = tf.shape(prompt_ids)[0]
    limits, finish_reason, num_steps = _limits(
        model, prompt_lengths, settings.max_new_tokens, finish_reason
    )
    first_logits, cache = _prefill(
        model, prompt_ids, prompt_lengths, num_new_tokens=num_steps
    )
    state = _LoopState(
        step=tf.constant(0),
        logits=first_logits,
        cache=cache,
        token_ids=tf.zeros([batch_size, num_steps], tf.int32),
        log_probs=tf.zeros([batch_size, num_steps], tf.float32),
        num_tokens=tf.zeros([batch_size], tf.int32),
        finish_reason=finish_reason,
    )

    def is_running(*values: Any) -> tf.Tensor:
        now = _LoopState(*values)
        unfinished = tf.reduce_any(now.finish_reason == UNFINISHED)
        return (now.step < num_steps) & unfinished

    def step(*values: Any) -> _LoopState:
        now = _sample_step(
            _LoopState(*values),
            settings,
            prompt_ids=prompt_ids,
            prompt_lengths=prompt_lengths,
            limits=limits,
            stop_token_ids=stop_token_ids,
        )
        # The last token of a call is never fed back.
        logits, cache = tf.cond(
            is_running(*now),
            lambda: _decode(
                model,
                tf.gather(now.token_ids, now.step - 1, axis=1),
                slots=prompt_lengths + now.step - 1,
                cache=now.cache,
            ),
            lambda: (now.logits, now.cache),
        )
        return now._replace(logits=logits, cache=cache)

    state = _LoopState(
        *tf.while_loop(is_running, step, list(state), parallel_iterations=1)
    )
    longest = tf.reduce_max(tf.concat([state.num_tokens, [0]], axis=0))
    return GeneratedTokens(
        token_ids=state.token_ids[:, :longest],
        log_probs=state.log_probs[:, :longest],
        num_tokens=state.num_tokens,
        finish_reason=state.finish_reason,
    )


def _limits(
    model: LanguageModel,
    prompt_lengths: tf.Tensor,
    max_new_tokens: tf.Tensor,
    finish_reason: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each row's limit, its finish reason so far, and the largest limit."""
    limits = tf.minimum(
        max_new_tokens, model.config.max_sequence_length - prompt_lengths
    )
    if finish_reason is None:
        finish_reason = tf.fill(tf.shape(prompt_lengths), UNFINISHED)
    finish_reason = tf.where(
        (finish_reason == UNFINISHED) & (limits <= 0), LENGTH, finish_reason
    )
    limits = tf.where(finish_reason == UNFINISHED, limits, 0)
    largest = tf.maximum(tf.reduce_max(tf.concat([limits, [0]], axis=0)), 0)
    return limits, finish_reason, largest


class _LoopState(NamedTuple):
    """State between two steps: `logits` (B, V) are those of the token to choose."""

    step: tf.Tensor
    logits: tf.Tensor
    cache: KVCache
    token_ids: tf.Tensor
    log_probs: tf.Tensor
    num_tokens: tf.Tensor
    finish_reason: tf.Tensor


def _prefill(
    model: LanguageModel,
    prompt_ids: tf.Tensor,
    prompt_lengths: tf.Tensor,
    *,
    num_new_tokens: tf.Tensor,
) -> tuple[tf.Tensor, KVCache]:
    """Runs the prompts; returns the logits (B, V) after each and the cache."""
    batch_size, length = tf.unstack(tf.shape(prompt_ids))
    num_slots = tf.minimum(length + num_new_tokens, model.config.max_sequence_length)
    output = model.forward(
        prompt_ids,
        positions=tf.tile(tf.range(length)[None, :], [batch_size, 1]),
        cache=model.empty_cache(batch_size, num_slots=num_slots),
        training=False,
    )
    last = tf.gather(output.hidden, prompt_lengths - 1, batch_dims=1)
    return model.logits(last), output.cache


def _sample_step(
    now: _LoopState,
    settings: GenerationSettings,
    *,
    prompt_ids: tf.Tensor,
    prompt_lengths: tf.Tensor,
    limits: tf.Tensor,
    stop_token_ids: tf.Tensor,
) -> _LoopState:
    """Chooses a token in each running row and writes it down."""
    penalties = settings.penalties
    logits = tf.cond(
        penalties.need_history,
        lambda: penalize(
            now.logits,
            penalties=penalties,
            history=_history(now, prompt_ids, prompt_lengths),
        ),
        lambda: now.logits,
    )
    logits = ban_early_stops(
        logits,
        min_new_tokens=settings.min_new_tokens,
        num_new_tokens=now.step,
        stop_token_ids=stop_token_ids,
    )
    token_ids = sample(logits, settings=settings.sampling, step=now.step)
    # Of the model's own distribution, before penalties and filters.
    log_probs = tf.gather(now.logits, token_ids, batch_dims=1)
    log_probs -= tf.reduce_logsumexp(now.logits, axis=-1)
    running = now.finish_reason == UNFINISHED
    is_stop = tf.reduce_any(token_ids[:, None] == stop_token_ids, axis=-1)
    written = running & ~is_stop
    num_tokens = now.num_tokens + tf.cast(written, tf.int32)
    finish_reason = tf.where(
        running & is_stop,
        STOP,
        tf.where(running & (num_tokens >= limits), LENGTH, now.finish_reason),
    )
    column = tf.range(tf.shape(now.token_ids)[1]) == now.step
    place = written[:, None] & column[None, :]
    return now._replace(
        step=now.step + 1,
        token_ids=tf.where(place, token_ids[:, None], now.token_ids),
        log_probs=tf.where(place, log_probs[:, None], now.log_probs),
        num_tokens=num_tokens,
        finish_reason=finish_reason,
    )


def _history(
    now: _LoopState, prompt_ids: tf.Tensor, prompt_lengths: tf.Tensor
) -> History:
    """Joins each row's prompt and new tokens."""
    width, num_steps = tf.shape(prompt_ids)[1], tf.shape(now.token_ids)[1]
    places = tf.range(width + num_steps)[None, :]
    beyond = tf.minimum(width + places - prompt_lengths[:, None], width + num_steps - 1)
    is_prompt = places < prompt_lengths[:, None]
    both = tf.concat([prompt_ids, now.token_ids], axis=1)
    return History(
        token_ids=tf.gather(both, tf.where(is_prompt, places, beyond), batch_dims=1),
        lengths=prompt_lengths + now.num_tokens,
        prompt_lengths=prompt_lengths,
    )


def _decode(
    model: LanguageModel, tokens: tf.Tensor, *, slots: tf.Tensor, cache: KVCache
) -> tuple[tf.Tensor, KVCache]:
    """Feeds the tokens just chosen (B,); returns the next logits and the cache."""
    # Ended rows go on in place of their own last slot; nobody reads them.
    slots = tf.minimum(slots, cache.num_slots - 1)
    output = model.forward(
        tokens[:, None], positions=slots[:, None], cache=cache, training=False
    )
    return model.logits(output.hidden[:, 0]), output.cache


def search_tokens(
    model: LanguageModel,
    *,
    prompt_ids: tf.Tensor,
    prompt_lengths: tf.Tensor,
    max_new_tokens: tf.Tensor,
    settings: BeamSettings,
    stop_token_ids: tf.Tensor,
    num_beams: int,
    finish_reason: tf.Tensor | None = None,
) -> FoundTokens:
    """Continues each prompt by beam search.

    The rules are transformers'; see `keras_gpt.sampling.beam_search`.

    Args:
        model: a `LanguageModel`.
        prompt_ids: int32 (B, T). Right-padded.
        prompt_lengths: int32 (B,). At least 1 and below the context's length.
        max_new_tokens: int32 (B,). Also ended by the model's context.
        settings: `BeamSettings` of B rows.
        stop_token_ids: int32 (E,). Tokens that end a beam.
        num_beams: int (K), at least 1.
        finish_reason: int32 (B,). Rows with a code other than `UNFINISHED` are left
            out. Defaults to none.

    Returns:
        `FoundTokens`, beams best first.
    """
    batch_size = tf.shape(prompt_ids)[0]
    limits, finish_reason, num_steps = _limits(
        model, prompt_lengths, max_new_tokens, finish_reason
    )
    logits, cache = _prefill(
        model, prompt_ids, prompt_lengths, num_new_tokens=num_steps
    )
    # One prefill serves all beams of a row.
    cache = _rows_of_cache(cache, tf.repeat(tf.range(batch_size), num_beams))
    logits = tf.repeat(logits[:, None], num_beams, axis=1)
    lengths = tf.repeat(prompt_lengths, num_beams)
    state = beam_search.begin(
        num_beams=num_beams, num_steps=num_steps, is_open=finish_reason == UNFINISHED
    )

    def is_running(step: tf.Tensor, state: BeamState, *_: Any) -> tf.Tensor:
        return (step < num_steps) & tf.reduce_any(state.is_open)

    def search(
        step: tf.Tensor, state: BeamState, logits: tf.Tensor, cache: KVCache
    ) -> tuple[tf.Tensor, BeamState, tf.Tensor, KVCache]:
        state = beam_search.advance(
            state,
            logits=logits,
            step=step,
            limits=limits,
            settings=settings,
            stop_token_ids=stop_token_ids,
        )

        def decode() -> tuple[tf.Tensor, KVCache]:
            rows = tf.range(batch_size)[:, None] * num_beams + state.sources
            output = _decode(
                model,
                tf.reshape(state.next_tokens, [-1]),
                slots=lengths + step,
                cache=_rows_of_cache(cache, tf.reshape(rows, [-1])),
            )
            return tf.reshape(output[0], tf.shape(logits)), output[1]

        next_logits, next_cache = tf.cond(
            is_running(step + 1, state), decode, lambda: (logits, cache)
        )
        next_logits = tf.ensure_shape(next_logits, logits.shape)
        return step + 1, state, next_logits, next_cache

    _, state, _, _ = tf.while_loop(
        is_running,
        search,
        (tf.constant(0), state, logits, cache),
        parallel_iterations=1,
    )
    return _found_tokens(state.finished, finish_reason)


def _rows_of_cache(cache: KVCache, rows: tf.Tensor) -> KVCache:
    """Returns the cache of the rows numbered `rows`, int32 (B',)."""
    return tf.nest.map_structure(lambda table: tf.gather(table, rows), cache)


def _found_tokens(beams: Beams, finish_reason: tf.Tensor) -> FoundTokens:
    ended = tf.where(beams.ended, STOP, LENGTH)
    unused = finish_reason[:, None] != UNFINISHED
    num_tokens = tf.where(unused, 0, beams.num_tokens)
    longest = tf.reduce_max(tf.concat([tf.reshape(num_tokens, [-1]), [0]], axis=0))
    return FoundTokens(
        token_ids=beams.token_ids[:, :, :longest],
        log_probs=beams.log_probs[:, :, :longest],
        num_tokens=num_tokens,
        finish_reason=tf.where(unused, finish_reason[:, None], ended),
        scores=tf.where(unused, 0.0, beams.scores),
    )


class _WithinVocabulary:
    """A `LanguageModel` that never chooses an id of `num_ids` or above."""

    def __init__(self, model: LanguageModel, *, num_ids: int) -> None:
        self.config = model.config
        self.forward = model.forward
        self.empty_cache = model.empty_cache
        self._model = model
        self._num_ids = num_ids

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        logits = self._model.logits(hidden)
        ids = tf.range(tf.shape(logits)[-1])
        return tf.where(ids < self._num_ids, logits, BANNED_LOGIT)


class TextGenerator:
    """Strings in, strings out: tokenizer, loop and detokenizer as graph code.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `GPTTokenizer` of the same vocabulary size or smaller: ids that
            it lacks (models are often padded with some) are never generated.
        add_start_token: bool. Whether prompts begin with the end-of-text token, as
            they do in training when the preprocessor adds it. An empty prompt
            always does. Defaults to False.
    """

    def __init__(
        self, model: LanguageModel, *, tokenizer: Any, add_start_token: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        num_ids = tokenizer.vocabulary_size()
        if num_ids < model.config.vocabulary_size:
            model = _WithinVocabulary(model, num_ids=num_ids)
        self.model = model
        self.add_start_token = add_start_token

    def prompt_tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids (B, ragged) that the prompts `text` (B,) become."""
        tokens = self.tokenizer.tokenize(text)
        start_id = self.tokenizer.end_token_id or 0
        start = tf.fill([tf.shape(text)[0], 1], start_id)
        if not self.add_start_token:
            needed = tf.cast(tokens.row_lengths() == 0, tf.int64)
            start = tf.RaggedTensor.from_row_lengths(
                tf.fill([tf.reduce_sum(needed)], start_id), needed
            )
        else:
            start = tf.RaggedTensor.from_tensor(start)
        return tf.concat([tf.cast(start, tf.int32), tokens], axis=1)

    def __call__(
        self,
        text: tf.Tensor,
        *,
        settings: GenerationSettings,
        stop_token_ids: tf.Tensor,
    ) -> GeneratedText:
        """Generates one continuation per prompt; a bad row never fails the others.

        Args:
            text: string (B,). UTF-8 prompts. An empty prompt starts from the
                end-of-text token.
            settings: `GenerationSettings` of B rows. Rows out of range end with
                `INVALID_INPUT`.
            stop_token_ids: int32 (K,). Tokens that end a row.

        Returns:
            `GeneratedText`. Prompts that leave no room end with `PROMPT_TOO_LONG`,
            invalid UTF-8 with `INVALID_INPUT`; both with an empty text.
        """
        prompts = self._prompts(text, settings.are_valid)
        tokens = generate_tokens(
            self.model,
            prompt_ids=prompts.token_ids,
            prompt_lengths=prompts.lengths,
            settings=settings,
            stop_token_ids=stop_token_ids,
            finish_reason=prompts.finish_reason,
        )
        return GeneratedText(self._text(tokens.token_ids, tokens.num_tokens), tokens)

    def search(
        self,
        text: tf.Tensor,
        *,
        max_new_tokens: tf.Tensor,
        settings: BeamSettings,
        stop_token_ids: tf.Tensor,
        num_beams: int,
    ) -> FoundText:
        """Continues prompts by beam search; a bad row never fails the others.

        Args:
            text: string (B,). As in `__call__`.
            max_new_tokens: int32 (B,). At least 0.
            settings: `BeamSettings` of B rows.
            stop_token_ids: int32 (E,). Tokens that end a beam.
            num_beams: int (K).

        Returns:
            `FoundText`; bad rows as in `__call__`.
        """
        prompts = self._prompts(text, max_new_tokens >= 0)
        tokens = search_tokens(
            self.model,
            prompt_ids=prompts.token_ids,
            prompt_lengths=prompts.lengths,
            max_new_tokens=max_new_tokens,
            settings=settings,
            stop_token_ids=stop_token_ids,
            num_beams=num_beams,
            finish_reason=prompts.finish_reason,
        )
        length = tf.shape(tokens.token_ids)[2]
        flat = self._text(
            tf.reshape(tokens.token_ids, [-1, length]),
            tf.reshape(tokens.num_tokens, [-1]),
        )
        return FoundText(tf.reshape(flat, [-1, num_beams]), tokens)

    def _text(self, token_ids: tf.Tensor, num_tokens: tf.Tensor) -> tf.Tensor:
        """Returns what new tokens (B, N) add to their prompts: string (B,)."""
        ragged = tf.RaggedTensor.from_tensor(token_ids, num_tokens)
        text = self.tokenizer.detokenize(ragged)
        separator = self.tokenizer.continuation_separator
        if not separator:
            return text
        return tf.where(num_tokens > 0, tf.strings.join([separator, text]), text)

    def _prompts(self, text: tf.Tensor, are_valid: tf.Tensor) -> _Prompts:
        transcoded = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        prompts = self.prompt_tokens(text)
        lengths = tf.cast(prompts.row_lengths(), tf.int32)
        context = self.model.config.max_sequence_length
        finish_reason = tf.where(lengths >= context, PROMPT_TOO_LONG, UNFINISHED)
        is_valid = are_valid & (transcoded == text)
        finish_reason = tf.where(is_valid, finish_reason, INVALID_INPUT)
        usable = finish_reason == UNFINISHED
        # A bad row runs as one token, so that it costs its neighbours nothing.
        lengths = tf.where(usable, lengths, 1)
        longest = tf.reduce_max(tf.concat([lengths, [1]], axis=0))
        return _Prompts(prompts[:, :longest].to_tensor(), lengths, finish_reason)
