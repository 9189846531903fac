"""The graphs that a model runs, each traced once for all settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_gpt.generation import (
    SETTINGS,
    ContrastiveSettings,
    Decoder,
    GenerationSettings,
    Prefix,
    Prompts,
    Request,
    Stops,
    TextGenerator,
    new_tokens,
    search_contrastively,
    search_tokens,
)
from keras_gpt.layers import kv_cache
from keras_gpt.sampling.beam_search import BeamSettings
from keras_gpt.sampling.logits_processors import TokenRules
from keras_gpt.scoring import score_tokens

_INTEGER = tf.TensorSpec([], tf.int32)
_INTEGERS = tf.TensorSpec([None], tf.int32)
_REALS = tf.TensorSpec([None], tf.float32)
_ROWS_OF_INTEGERS = tf.TensorSpec([None, None], tf.int32)
_SEQUENCES = tf.TensorSpec([None, None, None], tf.int32)
_TEXT = tf.TensorSpec([None], tf.string)
_REQUEST = Request(
    settings=GenerationSettings(
        *(tf.TensorSpec([None], setting.dtype) for setting in SETTINGS.values())
    ),
    stops=Stops(_SEQUENCES, tf.TensorSpec([None, None], tf.string)),
    rules=TokenRules(
        bias_sequences=_SEQUENCES,
        bias_values=tf.TensorSpec([None, None], tf.float32),
        bad_words=_SEQUENCES,
        allowed_tokens=_ROWS_OF_INTEGERS,
        suppressed_tokens=_ROWS_OF_INTEGERS,
        begin_suppressed_tokens=_ROWS_OF_INTEGERS,
    ),
    slides=tf.TensorSpec([None], tf.bool),
    num_alternatives=_INTEGER,
)


class TracedTokenizer:
    """What `GPTCausalLM` does with strings.

    Args:
        generator: `TextGenerator`.

    Attributes:
        prompt_tokens: text (B,) to ids of prompts, ragged int32 (B, None).
        tokenize: text (B,) to ids, ragged int32 (B, None).
        detokenize: ids (B, N), their numbers (B,) and bytes to keep (B,) to string
            (B,).
        start_id: int. The token from which an empty prompt starts.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self.start_id = generator.start_id

        @_traced([_TEXT])
        def prompt_tokens(text: Any) -> Any:
            return generator.prompt_tokens(text)

        @_traced([_TEXT])
        def tokenize(text: Any) -> Any:
            return generator.tokenizer.tokenize(text)

        @_traced([_ROWS_OF_INTEGERS, _INTEGERS, _INTEGERS])
        def detokenize(token_ids: Any, num_tokens: Any, text_lengths: Any) -> Any:
            return generator.detokenize(
                token_ids, num_tokens=num_tokens, text_lengths=text_lengths
            )

        self.prompt_tokens, self.tokenize = prompt_tokens, tokenize
        self.detokenize = detokenize


class TracedDecoder:
    """What `GPTCausalLM` does with ids, by one `Decoder`.

    Args:
        decoder: `Decoder`.

    Attributes:
        generate: `Prompts` and `Request` to `GeneratedTokens`.
        contrast: the same and `ContrastiveSettings` to `GeneratedTokens`.
        begin: as `generate`, to a `DecodeState`.
        prefill: `Prompts` to a `Prefix`.
        new_tokens: `DecodeState` to `GeneratedTokens`.
        empty_prefix: a `Prefix` of no tokens.
        score: ids (B, N) and the id before them, to log-probabilities (B, N).
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._searches: dict[tuple[int, int], Any] = {}
        self._advance: Any = None
        self.empty_prefix = Prefix.none(decoder.model)
        prefix = Prefix(
            _ROWS_OF_INTEGERS,
            _INTEGERS,
            tf.nest.map_structure(_growing_spec, self.empty_prefix.cache),
        )
        self._prompts = Prompts(
            _ROWS_OF_INTEGERS, _INTEGERS, _INTEGERS, prefix, _INTEGERS
        )

        @_traced([self._prompts, _REQUEST])
        def generate(prompts: Any, request: Any) -> Any:
            return decoder.generate(prompts, request)

        @_traced([self._prompts, _REQUEST, ContrastiveSettings(_REALS, _INTEGERS)])
        def contrast(prompts: Any, request: Any, settings: Any) -> Any:
            return search_contrastively(decoder, prompts, request, settings=settings)

        @_traced([self._prompts, _REQUEST])
        def begin(prompts: Any, request: Any) -> Any:
            return decoder.begin(prompts, request)

        @_traced([self._prompts])
        def prefill(prompts: Any) -> Any:
            return decoder.prefill(prompts)

        @_traced([_ROWS_OF_INTEGERS, _INTEGER])
        def score(token_ids: Any, start_id: Any) -> Any:
            return score_tokens(decoder.model, token_ids, start_id=start_id)

        self.generate, self.contrast = generate, contrast
        self.begin, self.prefill, self.score = begin, prefill, score
        self.new_tokens = tf.function(
            new_tokens, autograph=False, reduce_retracing=True
        )

    def advance(self, state: Any, request: Request, num_steps: int) -> Any:
        """Goes on with a `DecodeState` for some rounds."""
        if self._advance is None:
            decoder = self._decoder
            whole = self.begin.get_concrete_function().structured_outputs
            spec = tf.nest.map_structure(_growing_spec, whole)

            @_traced([spec, _REQUEST, _INTEGER])
            def advance(state: Any, request: Any, num_steps: Any) -> Any:
                return decoder.advance(state, request, num_steps=num_steps)

            self._advance = advance
        return self._advance(state, request, tf.constant(num_steps))

    def search(self, num_beams: int, num_groups: int) -> Any:
        """Returns the beam search of some width, which sets shapes of its graph."""
        key = (num_beams, num_groups)
        if key in self._searches:
            return self._searches[key]
        decoder = self._decoder

        settings_spec = BeamSettings(_REALS, _INTEGERS)

        @_traced([self._prompts, _REQUEST, settings_spec, _REALS])
        def search(prompts: Any, request: Any, settings: Any, diversity: Any) -> Any:
            return search_tokens(
                decoder,
                prompts,
                request,
                settings=settings,
                num_beams=num_beams,
                num_groups=num_groups,
                diversity_penalty=diversity,
            )

        self._searches[key] = search
        return search


def _traced(signature: list[Any]) -> Callable[[Callable[..., Any]], Any]:
    return lambda function: tf.function(
        function, input_signature=signature, autograph=False
    )


def _growing_spec(tensor: Any) -> tf.TensorSpec:
    """Returns the spec of a tensor; of one of a cache, with any number of slots."""
    shape = tensor.shape
    if shape.rank == 4:
        shape = kv_cache.growing_shape(tf.TensorShape([None, *shape[1:]]))
    return tf.TensorSpec(shape, tensor.dtype)
