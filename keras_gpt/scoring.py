"""Log-probabilities of texts: one forward pass, no cache."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

# Positions whose logits are in memory at once.
CHUNK = 512


class TextScore(NamedTuple):
    """How likely a text is, token by token.

    Attributes:
        token_ids: int32 (N,), a NumPy array.
        log_probs: float32 (N,), in nats. Of each token after those before it; of the
            first, after the end-of-text token, from which an empty prompt starts.
        total_log_prob: float. Their sum.
    """

    token_ids: Any
    log_probs: Any
    total_log_prob: float


def score_tokens(model: Any, token_ids: tf.Tensor, *, start_id: int) -> tf.Tensor:
    """Returns the log-probability of each token after those before it.

    Args:
        model: a `keras_gpt.generation.LanguageModel`.
        token_ids: int32 (B, N), right-padded; N at most the model's context.
        start_id: int. Stands before each row's first token.

    Returns:
        float32 (B, N). Of padding, meaningless.
    """
    start = tf.fill([tf.shape(token_ids)[0], 1], start_id)
    inputs = tf.concat([start, token_ids], axis=1)[:, :-1]
    hidden = model.forward(inputs, training=False).hidden
    rows = tf.reshape(hidden, [-1, hidden.shape[-1]])
    targets = tf.reshape(token_ids, [-1])
    num_chunks = (tf.size(targets) + CHUNK - 1) // CHUNK

    def score_chunk(index: tf.Tensor) -> tf.Tensor:
        # The logits of a whole batch may not fit into memory.
        part = slice(index * CHUNK, (index + 1) * CHUNK)
        logits = model.logits(rows[part])
        chosen = tf.gather(logits, targets[part], batch_dims=1)
        log_probs = chosen - tf.reduce_logsumexp(logits, axis=-1)
        return tf.pad(log_probs, [[0, CHUNK - tf.size(log_probs)]])

    chunks = tf.map_fn(
        score_chunk,
        tf.range(num_chunks),
        fn_output_signature=tf.TensorSpec([CHUNK], tf.float32),
        parallel_iterations=1,
    )
    flat = tf.reshape(chunks, [-1])[: tf.size(targets)]
    return tf.reshape(flat, tf.shape(token_ids))
