"""Tests of the training order and of the evaluation windows."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.data import evaluation_batches, training_dataset, training_windows

T = 8


def _windows(tokens, step, *, seed=3, batch_size=4):
    return training_windows(
        tf.constant(tokens, tf.int32),
        step=step,
        seed=seed,
        batch_size=batch_size,
        context_length=T,
    ).numpy()


@pytest.mark.parametrize("num_tokens", [9, 16, 17, 100, 333])
def test_each_epoch_visits_each_window_once(num_tokens):
    count = max(num_tokens // T - 1, 1)
    tokens = np.arange(num_tokens)
    epochs = []
    for epoch in range(4):
        places = range(epoch * count, (epoch + 1) * count)
        rows = [_windows(tokens, place, batch_size=1)[0] for place in places]
        for row in rows:  # neighbours in the corpus, none left out
            np.testing.assert_array_equal(row, np.arange(row[0], row[0] + T + 1))
        starts = sorted(row[0] for row in rows)
        np.testing.assert_array_equal(np.diff(starts), [T] * (count - 1))
        assert starts[0] < T and starts[-1] + T < num_tokens
        epochs.append([row[0] for row in rows])
    if num_tokens >= 100:
        assert len({tuple(epoch) for epoch in epochs}) == 4
        assert len({min(epoch) for epoch in epochs}) > 1  # the offsets differ
        assert all(epoch != sorted(epoch) for epoch in epochs)


def test_batch_is_a_function_of_seed_and_place():
    tokens = np.arange(200)
    by_one = [_windows(tokens, place, batch_size=1)[0] for place in range(48)]
    by_six = [_windows(tokens, step, batch_size=6) for step in range(8)]
    np.testing.assert_array_equal(np.concatenate(by_six), by_one)
    assert not np.array_equal(_windows(tokens, 0, seed=4), _windows(tokens, 0, seed=3))


def test_dataset_starts_anywhere():
    tokens = np.arange(150)
    arguments = {"seed": 5, "batch_size": 4, "context_length": T}
    whole = list(training_dataset(tokens, **arguments).take(12).as_numpy_iterator())
    rest = training_dataset(tokens, **arguments, start_step=7).take(5)
    np.testing.assert_array_equal(whole[7:], list(rest.as_numpy_iterator()))
    assert training_dataset(tokens, **arguments).element_spec == tf.TensorSpec(
        [4, T + 1], tf.int32
    )


def test_rows_are_a_part_of_the_batch():
    tokens = np.arange(100, dtype=np.int32)
    arguments = {"seed": 3, "batch_size": 6, "context_length": T}
    whole = training_dataset(tokens, **arguments)
    parts = [training_dataset(tokens, **arguments, rows=(r, 2)) for r in (0, 2, 4)]
    for batch, *rows in itertools.islice(zip(whole, *parts, strict=True), 9):
        np.testing.assert_array_equal(batch, np.concatenate(rows))


def test_corpus_shorter_than_a_context():
    with pytest.raises(ValueError, match=r"context_length \+ 1 = 9 tokens, got 8"):
        training_dataset(np.arange(8), seed=0, batch_size=1, context_length=8)


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 17, 100])
def test_evaluation_predicts_each_token_but_the_first_once(num_tokens):
    tokens = np.arange(num_tokens)
    batches = list(evaluation_batches(tokens, batch_size=3, context_length=T))
    predicted, given = [], []
    for windows, mask, _ in batches:
        assert windows.shape == (3, T + 1) and mask.shape == (3, T)
        predicted.extend(windows[:, 1:][mask])
        given.extend(windows[:, :-1][mask])
    assert predicted == list(range(1, num_tokens))
    assert given == list(range(num_tokens - 1))


def test_evaluation_sample_is_spread():
    tokens = np.arange(10 * T + 1)
    sample = list(
        evaluation_batches(tokens, batch_size=2, context_length=T, max_batches=2)
    )
    starts = list(itertools.chain.from_iterable(w[:, 0] // T for w, _, _ in sample))
    assert starts == [0, 2, 5, 7]
    assert all(mask.all() for _, mask, _ in sample)


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        list(evaluation_batches(np.arange(1), batch_size=2, context_length=T))
