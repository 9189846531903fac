"""Windows of a token array: the training order as a pure function of the step.

Axes: B batch, T positions. A window holds T + 1 ids: T inputs and, one place
later, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_gpt.data.batch import ExampleBatch

# Counters that keep the streams drawn from one seed apart.
_ORDER_STREAM = 0
_OFFSET_STREAM = 1

_SHUFFLE_ROUNDS = 4  # tf.random.experimental.index_shuffle's own choice

# The shuffle keys are 32 bits wide.
MAX_SEED = 2**31 - 1


def num_training_windows(num_tokens: int, context_length: int) -> int:
    """Returns how many windows one epoch visits, whatever its offset.

    Raises:
        ValueError: if the tokens do not fill one window.
    """
    if num_tokens < context_length + 1:
        raise ValueError(
            "The training part of the corpus must hold at least context_length + 1 = "
            f"{context_length + 1} tokens, got {num_tokens}."
        )
    return max(num_tokens // context_length - 1, 1)


def training_windows(
    tokens: tf.Tensor,
    *,
    step: tf.Tensor | int,
    seed: int,
    batch_size: int,
    context_length: int,
    rows: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Returns the batch of one training step, a pure function of (seed, step).

    An epoch cuts the tokens into neighbouring windows from a random offset and
    visits each once, in a random order; the next epoch has another offset and
    another order. A batch may hold the end of one epoch and the start of the next.

    Args:
        tokens: int32 (n,).
        step: int64 scalar, the number of steps done before.
        seed: int, at least 0.
        batch_size: int, B.
        context_length: int, T.
        rows: pair of ints. Number of the first of the batch's rows to return, and
            how many. Defaults to all of them.

    Returns:
        int32 (B or fewer rows, T + 1).

    Raises:
        ValueError: if the tokens do not fill one window.
    """
    start = window_starts(
        int(tokens.shape[0]),
        step=step,
        seed=seed,
        batch_size=batch_size,
        context_length=context_length,
        rows=rows,
    )
    indices = start[:, None] + tf.range(context_length + 1, dtype=tf.int64)[None, :]
    windows = tf.gather(tokens, indices)
    return tf.ensure_shape(windows, [start.shape[0], context_length + 1])


def window_starts(
    num_tokens: int,
    *,
    step: tf.Tensor | int,
    seed: int,
    batch_size: int,
    context_length: int,
    rows: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Returns where the windows of `training_windows` start.

    Args:
        num_tokens: int. Length of the token array.
        step: int64 scalar. As there, like all others.
        seed: int.
        batch_size: int.
        context_length: int.
        rows: pair of ints.

    Returns:
        int64 (B or fewer rows,).
    """
    count = num_training_windows(num_tokens, context_length)
    offsets = min(context_length, num_tokens - count * context_length)
    first, number = rows or (0, batch_size)
    place = tf.cast(step, tf.int64) * batch_size + first
    place += tf.range(number, dtype=tf.int64)
    epoch = place // count
    window = _shuffled(place % count, epoch=epoch, seed=seed, count=count)
    offset = tf.map_fn(lambda e: _offset(e, seed, offsets), epoch)
    return tf.ensure_shape(offset + window * context_length, [number])


def _shuffled(
    index: tf.Tensor, *, epoch: tf.Tensor, seed: int, count: int
) -> tf.Tensor:
    # Each row's index under its epoch's permutation of `count` windows. The op
    # itself, because TensorFlow 2.21's wrapper does not take one seed per row.
    key = tf.fill(tf.shape(index), tf.constant(seed, tf.int64))
    stream = tf.fill(tf.shape(index), tf.constant(_ORDER_STREAM, tf.int64))
    return tf.raw_ops.RandomIndexShuffle(
        index=index,
        seed=tf.stack([key, epoch, stream], axis=1),
        max_index=tf.constant(count - 1, tf.int64),
        rounds=_SHUFFLE_ROUNDS,
    )


def _offset(epoch: tf.Tensor, seed: int, offsets: int) -> tf.Tensor:
    # Two 64-bit seed words: the run's seed with the stream's number, and the epoch.
    word = tf.constant(seed * 2 + _OFFSET_STREAM, tf.int64)
    return tf.random.stateless_uniform(
        [], seed=tf.stack([word, epoch]), maxval=offsets, dtype=tf.int64
    )


def training_dataset(
    tokens: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    context_length: int,
    start_step: int = 0,
    rows: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    """Returns the batches from `start_step` on, without end.

    Args:
        tokens: int32 (n,).
        seed: int, at least 0.
        batch_size: int, B, over all replicas.
        context_length: int, T.
        start_step: int. Steps already done; the first batch is that of this step.
            Defaults to 0.
        rows: pair of ints. As in `training_windows`.

    Returns:
        Dataset of int32 (B or fewer rows, T + 1), prefetched.

    Raises:
        ValueError: if the tokens do not fill one window.
    """
    num_training_windows(len(tokens), context_length)
    with tf.device("/cpu:0"):
        held = tf.constant(tokens, tf.int32)
    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    batches = steps.map(
        lambda step: training_windows(
            held,
            step=step,
            seed=seed,
            batch_size=batch_size,
            context_length=context_length,
            rows=rows,
        )
    )
    return batches.prefetch(4)


def evaluation_batches(
    tokens: np.ndarray,
    *,
    batch_size: int,
    context_length: int,
    max_batches: int | None = None,
) -> Iterator[ExampleBatch]:
    """Yields neighbouring windows that together predict every token but the first.

    Args:
        tokens: int32 (n,), at least 2.
        batch_size: int, B. The last batch is filled up with masked rows.
        context_length: int, T. The last window is filled up with masked targets.
        max_batches: int. If given and smaller than the whole, that many full
            batches of windows spread evenly over the split. Defaults to None, all.

    Yields:
        `ExampleBatch`.

    Raises:
        ValueError: if there is nothing to predict.
    """
    if len(tokens) < 2:
        raise ValueError(
            "The validation part of the corpus must hold at least 2 tokens, "
            f"got {len(tokens)}."
        )
    count = -(-(len(tokens) - 1) // context_length)
    chosen = np.arange(count)
    if max_batches is not None and max_batches * batch_size < count:
        wanted = max_batches * batch_size
        chosen = np.arange(wanted) * count // wanted
    for first in range(0, len(chosen), batch_size):
        rows = chosen[first : first + batch_size]
        windows = np.zeros([batch_size, context_length + 1], np.int32)
        mask = np.zeros([batch_size, context_length], bool)
        for row, index in enumerate(rows):
            start = int(index) * context_length
            piece = tokens[start : start + context_length + 1]
            windows[row, : len(piece)] = piece
            mask[row, : len(piece) - 1] = True
        yield ExampleBatch(windows=windows, mask=mask)
