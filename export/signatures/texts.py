"""The signatures `score`, `tokenize` and `detokenize`."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_gpt.export.signatures.generate import reason_names, valid_utf8
from keras_gpt.export.signatures.inputs import Outputs
from keras_gpt.generation import (
    INVALID_INPUT,
    INVALID_LOGITS,
    PROMPT_TOO_LONG,
    UNFINISHED,
    TextGenerator,
)
from keras_gpt.scoring import score_tokens


class TextSignatures:
    """What an exported model does with texts beside continuing them.

    Args:
        generator: `TextGenerator`.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator

    def score(self, text: tf.Tensor) -> Outputs:
        """Measures how likely texts (B,) are: nats of each token, and their sum.

        A text that is too long or no UTF-8 has no tokens, a NaN for its sum, and its
        `error`.
        """
        model = self._generator.model
        tokens = self._generator.tokenizer.tokenize(text)
        lengths = tf.cast(tokens.row_lengths(), tf.int32)
        is_long = lengths > model.config.max_sequence_length
        error = tf.where(is_long, PROMPT_TOO_LONG, UNFINISHED)
        error = tf.where(valid_utf8(text) == text, error, INVALID_INPUT)
        lengths = tf.where(error == UNFINISHED, lengths, 0)
        token_ids, mask = _padded(tokens, lengths)
        log_probs = score_tokens(model, token_ids, start_id=self._generator.start_id)
        total = tf.reduce_sum(tf.where(mask, log_probs, 0.0), axis=1)
        is_number = tf.math.is_finite(total)
        error = tf.where(is_number, error, INVALID_LOGITS)
        lengths = tf.where(is_number, lengths, 0)
        mask &= is_number[:, None]
        return {
            "token_ids": tf.where(mask, token_ids, 0),
            "token_log_probs": tf.where(mask, log_probs, 0.0),
            "num_tokens": lengths,
            "total_log_prob": tf.where(error == UNFINISHED, total, math.nan),
            "error": reason_names(error),
        }

    def tokenize(self, text: tf.Tensor) -> Outputs:
        """Turns texts (B,) into ids, without a start or end token.

        A text that is no UTF-8 has no ids, and its `error`.
        """
        is_text = valid_utf8(text) == text
        tokens = self._generator.tokenizer.tokenize(tf.where(is_text, text, ""))
        return {
            "token_ids": tokens.to_tensor(),
            "num_tokens": tf.cast(tokens.row_lengths(), tf.int32),
            "error": reason_names(tf.where(is_text, UNFINISHED, INVALID_INPUT)),
        }

    def detokenize(self, token_ids: tf.Tensor, num_tokens: tf.Tensor) -> Outputs:
        """Turns ids (B, N), so many of each row, into texts.

        A row with an id out of the vocabulary, or a number out of range, has an empty
        text and its `error`.
        """
        tokenizer = self._generator.tokenizer
        width = tf.shape(token_ids)[1]
        places = tf.range(width)
        is_id = (token_ids >= 0) & (token_ids < tokenizer.vocabulary_size())
        is_there = places < num_tokens[:, None]
        is_valid = tf.reduce_all(is_id | ~is_there, axis=1)
        is_valid &= (num_tokens >= 0) & (num_tokens <= width)
        ragged = tf.RaggedTensor.from_tensor(
            tf.where(is_id, token_ids, 0), tf.where(is_valid, num_tokens, 0)
        )
        text = tokenizer.detokenize(ragged)
        return {
            "text": valid_utf8(text),
            "text_bytes": text,
            "error": reason_names(tf.where(is_valid, UNFINISHED, INVALID_INPUT)),
        }


def _padded(tokens: tf.RaggedTensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first tokens of each row, int32 (B, N), and which they are."""
    longest = tf.reduce_max(tf.concat([lengths, [0]], axis=0))
    mask = tf.range(longest) < lengths[:, None]
    shape = tf.stack([tf.size(lengths), longest])
    table = tokens[:, :longest].to_tensor(shape=[None, None])
    table = tf.pad(table, [[0, 0], [0, longest - tf.shape(table)[1]]])
    return tf.where(mask, tf.reshape(table, shape), 0), mask
