"""A language model as graphs that LiteRT's own ops can run.

The signatures are those that the LiteRT-LM engine calls, and two that it leaves alone:

- `prefill_T` feeds T tokens, and `decode` one, whose logits it returns. Both take the
  cache and return it, a key and a value table for each block.
- `sample` takes the next token by those logits, with all settings; for callers that
  show a text as it grows.
- `generate` is the whole loop: ids in, ids out.

Shapes are all fixed, and there is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_gpt.generation import (
    SETTINGS,
    Decoder,
    GenerationSettings,
    LanguageModel,
    Request,
    Stops,
)
from keras_gpt.generation.compiled import fixed_state
from keras_gpt.generation.feeding import feed
from keras_gpt.generation.state import (
    INVALID_INPUT,
    LENGTH,
    PROMPT_TOO_LONG,
    UNFINISHED,
    DecodeState,
    Prompts,
)
from keras_gpt.layers.kv_cache import KVCache, LayerCache
from keras_gpt.layers.runtime import graphs_for
from keras_gpt.models import GPTCausalLM

NUM_STOP_TOKENS = 8  # of `sample` and `generate`; -1 stands for none
NUM_TOP_TOKENS = 8  # the likeliest ones, of which `sample` tells
CHUNK_LENGTHS = (
    2  # in which `generate` reads prompts: each is one more copy for XNNPACK
)


def language_model(task: GPTCausalLM) -> LanguageModel:
    """Returns the network of a task; it never chooses an id that has no token."""
    if task.preprocessor is None:
        return task.backbone
    return task.text_generator().model


class LanguageModelGraphs:
    """The functions of one model, by signature.

    Args:
        model: a `LanguageModel` that computes in float32.
        num_slots: int (S). Most tokens of a text, prompt and continuation.
        prefill_lengths: ints (T), rising. Tokens that a call of `prefill_T` feeds.
    """

    def __init__(
        self, model: LanguageModel, *, num_slots: int, prefill_lengths: Sequence[int]
    ) -> None:
        self._model = model
        self._num_slots = num_slots
        self._lengths = list(prefill_lengths)
        self._cache_specs = _cache_specs(model, num_slots)

    def functions(self, *, add_generate: bool = True) -> dict[str, Any]:
        """Returns concrete functions by the names of their signatures."""
        made = {
            f"prefill_{length}": concrete(self._prefill, self._step_specs(length))
            for length in self._lengths
        }
        made["decode"] = concrete(self._decode, self._step_specs(1))
        made["sample"] = concrete(self._sample, self._sample_specs())
        if add_generate:
            made["generate"] = concrete(self._generate, self._text_specs())
        return made

    # === Steps ===

    def _step_specs(self, length: int) -> dict[str, tf.TensorSpec]:
        return {
            "tokens": tf.TensorSpec([1, length], tf.int32),
            "input_pos": tf.TensorSpec([length], tf.int32),
            "mask": tf.TensorSpec([1, 1, length, self._num_slots], tf.float32),
            **self._cache_specs,
        }

    def _prefill(
        self, tokens: Any, input_pos: Any, mask: Any, **caches: Any
    ) -> dict[str, tf.Tensor]:
        return _named(self._forward(tokens, input_pos, mask, caches).cache)

    def _decode(
        self, tokens: Any, input_pos: Any, mask: Any, **caches: Any
    ) -> dict[str, tf.Tensor]:
        output = self._forward(tokens, input_pos, mask, caches)
        return {"logits": self._model.logits(output.hidden), **_named(output.cache)}

    def _forward(
        self, tokens: Any, input_pos: Any, mask: Any, caches: dict[str, Any]
    ) -> Any:
        # Padding has position 0, but the cache is written from the first token's on.
        return self._model.forward(
            tokens,
            positions=input_pos[None, :],
            slots=input_pos[None, :],
            mask=mask,
            cache=_cache(caches),
            training=False,
        )

    # === Sampling ===

    def _text_specs(self) -> dict[str, tf.TensorSpec]:
        """Returns what `sample` and `generate` are told of a text, and how to go on."""
        settings = {
            name: tf.TensorSpec([1], setting.dtype)
            for name, setting in SETTINGS.items()
        }
        return {
            "tokens": tf.TensorSpec([1, self._num_slots], tf.int32),
            "num_tokens": tf.TensorSpec([1], tf.int32),
            "stop_tokens": tf.TensorSpec([NUM_STOP_TOKENS], tf.int32),
            **settings,
            "seed": tf.TensorSpec([2], tf.int32),
        }

    def _sample_specs(self) -> dict[str, tf.TensorSpec]:
        num_ids = self._model.config.vocabulary_size
        return {
            "logits": tf.TensorSpec([1, 1, num_ids], tf.float32),
            "num_prompt_tokens": tf.TensorSpec([1], tf.int32),
            **self._text_specs(),
        }

    def _sample(
        self,
        logits: Any,
        tokens: Any,
        num_tokens: Any,
        num_prompt_tokens: Any,
        stop_tokens: Any,
        seed: Any,
        **numbers: Any,
    ) -> dict[str, tf.Tensor]:
        settings = GenerationSettings(**numbers, seed=seed[None, :])
        num_tokens = self._within(num_tokens)
        state = self._begin(
            tokens, self._within(num_prompt_tokens), settings, KVCache(())
        )
        state = _grown(state, num_tokens)
        request = _request(settings, stop_tokens)
        after = Decoder(self._model).take(state, request, logits=logits[:, 0])
        place = tf.minimum(num_tokens, self._num_slots - 1)
        values, ids = tf.math.top_k(
            tf.nn.log_softmax(logits[0, 0]), min(NUM_TOP_TOKENS, logits.shape[-1])
        )
        return {
            "token": tf.gather(after.token_ids[0], place),
            "log_prob": tf.gather(after.log_probs[0], place),
            "finish_reason": after.finish_reason,
            "top_tokens": ids,
            "top_log_probs": values,
        }

    # === Whole loop ===

    def _generate(
        self, tokens: Any, num_tokens: Any, stop_tokens: Any, seed: Any, **numbers: Any
    ) -> dict[str, tf.Tensor]:
        settings = GenerationSettings(**numbers, seed=seed[None, :])
        num_tokens = self._within(num_tokens)
        cache = self._empty_cache(num_tokens[0])
        state = self._begin(tokens, num_tokens, settings, cache)
        for length in reversed(self._lengths[:CHUNK_LENGTHS]):
            state = self._prefill_by(length, state)
        decoder, request = Decoder(self._model), _request(settings, stop_tokens)
        state = decoder.advance(state, request, num_steps=tf.int32.max, width=1)
        count = state.history.num_new_tokens
        ranks = tf.range(self._num_slots)
        places = tf.minimum(num_tokens[0] + ranks, self._num_slots - 1)
        is_there = ranks < count
        return {
            "new_tokens": tf.where(is_there, tf.gather(state.token_ids[0], places), 0),
            "log_probs": tf.where(is_there, tf.gather(state.log_probs[0], places), 0.0),
            "num_new_tokens": count,
            "finish_reason": state.finish_reason,
        }

    def _within(self, num_tokens: tf.Tensor) -> tf.Tensor:
        """Returns numbers that no gather fails by; what is wrong stays wrong."""
        return tf.clip_by_value(num_tokens, 0, self._num_slots)

    def _begin(
        self,
        tokens: tf.Tensor,
        num_tokens: tf.Tensor,
        settings: GenerationSettings,
        cache: KVCache,
    ) -> DecodeState:
        """Returns the state before the first new token of a prompt."""
        size, num_ids = self._num_slots, self._model.config.vocabulary_size
        # Any seed is valid, and this one has two halves.
        is_valid = settings._replace(seed=num_tokens).are_valid & (num_tokens > 0)
        is_valid &= tf.reduce_all((tokens >= 0) & (tokens < num_ids))
        reason = tf.where(num_tokens < size, UNFINISHED, PROMPT_TOO_LONG)
        reason = tf.where(is_valid, reason, INVALID_INPUT)
        prompts = Prompts.of(self._model, tokens, num_tokens, reason)
        limits, reason = prompts.limits(settings.max_new_tokens, room=size - num_tokens)
        return fixed_state(
            tokens, lengths=num_tokens, limits=limits, finish_reason=reason, cache=cache
        )

    def _empty_cache(self, number: tf.Tensor) -> KVCache:
        """Returns zeros that are made from an input: constants would be in the file."""
        zero = tf.cast(tf.minimum(tf.maximum(number, 0), 0), tf.float32)
        return _cache(
            {
                name: tf.fill(spec.shape, zero)
                for name, spec in self._cache_specs.items()
            }
        )

    def _prefill_by(self, length: int, state: DecodeState) -> DecodeState:
        """Feeds all but the last token of a prompt, in chunks of one length.

        Only the shortest chunks hold padding.
        """
        last = state.lengths - 1
        most = last if length == self._lengths[0] else last - length + 1

        def chunk(num_cached: tf.Tensor, cache: KVCache) -> tuple[tf.Tensor, KVCache]:
            fed = feed(
                self._model,
                token_ids=state.token_ids,
                lengths=state.lengths,
                num_cached=num_cached,
                cache=cache,
                num_hidden=1,
                width=length,
            )
            return tf.minimum(num_cached + length, last), fed.cache

        num_cached, cache = tf.while_loop(
            lambda num_cached, _: state.is_running[0] & (num_cached < most)[0],
            chunk,
            (state.num_cached, state.cache),
            parallel_iterations=1,
        )
        return state._replace(num_cached=num_cached, cache=cache)


def _request(settings: GenerationSettings, stop_tokens: tf.Tensor) -> Request:
    none = tf.zeros([1, 0], tf.int32)  # LiteRT has no strings
    return Request.of(settings, stops=Stops(stop_tokens[None, :, None], none))


def _grown(state: DecodeState, num_tokens: tf.Tensor) -> DecodeState:
    """Returns the state of a text that has grown from its prompt."""
    count = num_tokens - state.lengths
    reason = tf.where(count < state.limits, UNFINISHED, LENGTH)
    reason = tf.where(count < 0, INVALID_INPUT, reason)
    return state._replace(
        lengths=num_tokens,
        finish_reason=tf.where(state.is_running, reason, state.finish_reason),
    )


def _cache_specs(model: LanguageModel, num_slots: int) -> dict[str, tf.TensorSpec]:
    cache = model.empty_cache(1, num_slots=num_slots)
    return {
        name: tf.TensorSpec(table.shape, tf.float32)
        for name, table in _named(cache).items()
    }


def _named(cache: KVCache) -> dict[str, tf.Tensor]:
    """Returns the tables of a cache by the engine's names for them."""
    return {
        f"kv_cache_{name[0]}_{index}": table
        for index, layer in enumerate(cache.layers)
        for name, table in layer._asdict().items()
    }


def _cache(named: dict[str, tf.Tensor]) -> KVCache:
    """Returns the cache of named tables."""
    count = len(named) // len(LayerCache._fields)
    return KVCache(
        tuple(
            LayerCache(named[f"kv_cache_k_{i}"], named[f"kv_cache_v_{i}"])
            for i in range(count)
        )
    )


def concrete(
    function: Callable[..., dict[str, tf.Tensor]], specs: dict[str, tf.TensorSpec]
) -> Any:
    """Returns a function of named tensors as a graph for LiteRT."""

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        with graphs_for("litert"):
            return function(**inputs)

    return tf.function(call, autograph=False).get_concrete_function(**specs)
