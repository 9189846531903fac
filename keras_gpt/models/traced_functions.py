"""The graphs that a model runs from strings, each traced once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_gpt.generation import SETTINGS, GenerationSettings, TextGenerator
from keras_gpt.sampling.beam_search import BeamSettings
from keras_gpt.scoring import score_tokens


class TracedFunctions:
    """What `GPTCausalLM` runs from strings: one trace serves all settings.

    Args:
        generator: `TextGenerator`.

    Attributes:
        generate: text (B,), `GenerationSettings`, stop ids (E,) to `GeneratedText`.
        count: text (B,) to the prompts' lengths in tokens, int64 (B,).
        tokenize: text (B,) to ids, ragged int32 (B, None).
        score: ids (B, N) to log-probabilities, float32 (B, N).
    """

    _TEXT = tf.TensorSpec([None], tf.string)
    _INTEGERS = tf.TensorSpec([None], tf.int32)
    _REALS = tf.TensorSpec([None], tf.float32)
    _SETTINGS = GenerationSettings(
        *(tf.TensorSpec([None], s.dtype) for s in SETTINGS.values())
    )

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator
        self._searches: dict[int, Any] = {}

        @tf.function(
            input_signature=[self._TEXT, self._SETTINGS, self._INTEGERS],
            autograph=False,
        )
        def generate(text: Any, settings: Any, stop_ids: Any) -> Any:
            return generator(text, settings=settings, stop_token_ids=stop_ids)

        @tf.function(input_signature=[self._TEXT], autograph=False)
        def count(text: Any) -> Any:
            return generator.prompt_tokens(text).row_lengths()

        @tf.function(input_signature=[self._TEXT], autograph=False)
        def tokenize(text: Any) -> Any:
            return generator.tokenizer.tokenize(text)

        @tf.function(
            input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False
        )
        def score(token_ids: Any) -> Any:
            start_id = generator.tokenizer.end_token_id or 0
            return score_tokens(generator.model, token_ids, start_id=start_id)

        self.generate, self.count = generate, count
        self.tokenize, self.score = tokenize, score

    def search(self, num_beams: int) -> Any:
        """Returns the beam search of some width, which sets shapes of its graph."""
        if num_beams in self._searches:
            return self._searches[num_beams]
        generator = self._generator

        @tf.function(
            input_signature=[
                self._TEXT,
                self._INTEGERS,
                BeamSettings(self._REALS, self._INTEGERS),
                self._INTEGERS,
            ],
            autograph=False,
        )
        def search(text: Any, max_new: Any, settings: Any, stop_ids: Any) -> Any:
            return generator.search(
                text,
                max_new_tokens=max_new,
                settings=settings,
                stop_token_ids=stop_ids,
                num_beams=num_beams,
            )

        self._searches[num_beams] = search
        return search
