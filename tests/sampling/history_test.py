"""How texts end, and which sequences they complete."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling import History
from keras_gpt.sampling.history import OUTSIDE, completed_by, completed_length, join

RNG = np.random.default_rng(0)
ROWS, WIDTH = 200, 9
TOKENS = RNG.integers(0, 3, (ROWS, WIDTH)).astype(np.int32)
PROMPTS = RNG.integers(0, 4, ROWS).astype(np.int32)
LENGTHS = PROMPTS + RNG.integers(0, 5, ROWS).astype(np.int32)
HISTORY = History(*map(tf.constant, (TOKENS, LENGTHS, PROMPTS)))
SEQUENCES = [[0], [1, 2], [2, 0, 1], [0, 0], [1, 1, 1]]


def padded(rows):
    table = np.full([len(rows), max(map(len, rows)), 3], -1, np.int32)
    for row, sequences in enumerate(rows):
        for place, sequence in enumerate(sequences):
            table[row, place, 3 - len(sequence) :] = sequence
    return tf.constant(table)


def text_of(row, *, in_new_text):
    return TOKENS[row, PROMPTS[row] if in_new_text else 0 : LENGTHS[row]].tolist()


@pytest.mark.parametrize("in_new_text", [True, False])
def test_ends_are_the_last_tokens(in_new_text):
    ends = HISTORY.ends(tf.constant(4), in_new_text=in_new_text).numpy()
    for row in range(ROWS):
        text = text_of(row, in_new_text=in_new_text)
        assert ends[row].tolist() == ([OUTSIDE] * 4 + text)[-4:]


@pytest.mark.parametrize("in_new_text", [True, False])
def test_begun_sequences_wait_for_their_last_token(in_new_text):
    got = completed_by(HISTORY, padded([SEQUENCES]), in_new_text=in_new_text).numpy()
    for row in range(ROWS):
        text = text_of(row, in_new_text=in_new_text)
        for place, sequence in enumerate(SEQUENCES):
            begun = text[len(text) - len(sequence) + 1 :] == sequence[:-1]
            assert got[row, place] == (begun and len(text) >= len(sequence) - 1)


def test_the_longest_sequence_that_ends_a_new_text_counts():
    # Each row has sequences of its own.
    rows = [SEQUENCES[row % 3 : row % 3 + 1 + row % 2] for row in range(ROWS)]
    got = completed_length(HISTORY, padded(rows)).numpy()
    for row in range(ROWS):
        text = text_of(row, in_new_text=True)
        fits = [s for s in rows[row] if text[-len(s) :] == s]
        assert got[row] == max(map(len, fits), default=0)
    assert len(set(got.tolist())) > 2


def test_joined_rows_have_no_gap():
    second = RNG.integers(3, 6, (ROWS, 4)).astype(np.int32)
    counts = RNG.integers(0, 5, ROWS).astype(np.int32)
    got = join(TOKENS, LENGTHS, second, counts, size=tf.constant(16)).numpy()
    for row in range(ROWS):
        text = (
            TOKENS[row, : LENGTHS[row]].tolist() + second[row, : counts[row]].tolist()
        )
        assert got[row].tolist() == text + [0] * (16 - len(text))
