"""The signatures of an exported model, as TensorFlow functions.

Every input and output has the batch as dimension 0, because TF Serving batches by
joining and splitting along it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.generation import (
    FINISH_REASONS,
    SETTINGS,
    GenerationSettings,
    Request,
    Stops,
    TextGenerator,
)

TEXT_SPEC = tf.TensorSpec([None], tf.string, name="text")


def make_signatures(
    generator: TextGenerator, *, defaults: dict[str, Any], stop_token_ids: list[int]
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """Returns the signatures `serving_default` and `generate` by name.

    Args:
        generator: `TextGenerator`.
        defaults: setting name to its exported default.
        stop_token_ids: ids that end a text.
    """
    generate = _generate_signature(generator, defaults, stop_token_ids)

    @tf.function(input_signature=[TEXT_SPEC], autograph=False)
    def serving_default(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"generated_text": generate(text)["generated_text"]}

    return {"serving_default": serving_default, "generate": generate}


def _generate_signature(
    generator: TextGenerator, defaults: dict[str, Any], stop_token_ids: list[int]
) -> Callable[..., dict[str, tf.Tensor]]:
    # Constants are made in the graph: tensors captured from outside would become
    # extra state of the exported model.
    stop_ids = np.asarray(stop_token_ids, np.int32)
    reasons = np.asarray(FINISH_REASONS)
    specs = [
        tf.TensorSpec([None], setting.dtype, name=name)
        for name, setting in SETTINGS.items()
    ]
    default = {
        name: tf.constant([defaults[name]], setting.dtype)
        for name, setting in SETTINGS.items()
    }

    # Defaults that are tensors are written into the SignatureDef.
    @tf.function(input_signature=[TEXT_SPEC, *specs], autograph=False)
    def generate(
        text: tf.Tensor,
        max_new_tokens: tf.Tensor = default["max_new_tokens"],
        min_new_tokens: tf.Tensor = default["min_new_tokens"],
        repetition_penalty: tf.Tensor = default["repetition_penalty"],
        presence_penalty: tf.Tensor = default["presence_penalty"],
        frequency_penalty: tf.Tensor = default["frequency_penalty"],
        no_repeat_ngram_size: tf.Tensor = default["no_repeat_ngram_size"],
        temperature: tf.Tensor = default["temperature"],
        top_k: tf.Tensor = default["top_k"],
        top_p: tf.Tensor = default["top_p"],
        min_p: tf.Tensor = default["min_p"],
        typical_p: tf.Tensor = default["typical_p"],
        epsilon_cutoff: tf.Tensor = default["epsilon_cutoff"],
        eta_cutoff: tf.Tensor = default["eta_cutoff"],
        seed: tf.Tensor = default["seed"],
    ) -> dict[str, tf.Tensor]:
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            epsilon_cutoff=epsilon_cutoff,
            eta_cutoff=eta_cutoff,
            seed=seed,
        )
        rows = tf.shape(text)
        settings = GenerationSettings(
            *(tf.broadcast_to(knob, rows) for knob in settings)
        )
        result = generator(text, Request.of(settings, stops=Stops.at(stop_ids)))
        tokens = result.tokens
        return {
            "generated_text": tf.strings.unicode_transcode(
                result.generated_bytes, "UTF-8", "UTF-8"
            ),
            "generated_bytes": result.generated_bytes,
            "token_ids": tokens.token_ids,
            "token_log_probs": tokens.log_probs,
            "num_tokens": tokens.num_tokens,
            "finish_reason": tf.gather(tf.constant(reasons), tokens.finish_reason),
        }

    return generate
