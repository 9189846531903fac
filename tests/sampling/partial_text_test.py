"""What is held back of a growing text, against plain Python."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling.partial_text import num_bytes_held_back, num_tokens_held_back


def plain_held(items, wanted):
    """The longest end of `items` with which something of `wanted` begins."""
    for count in range(len(items), 0, -1):
        end = items[-count:]
        if any(len(one) > count and one[:count] == end for one in wanted):
            return count
    return 0


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", 0),
        ("abc", 0),
        ("caf\u00e9", 0),
        ("\u4e2d", 0),
        ("\U0001f600", 0),
    ],
)
def test_whole_characters_are_not_held_back(text, held):
    none = tf.zeros([1, 0], tf.string)
    assert num_bytes_held_back(tf.constant([text]), none).numpy() == [held]


@pytest.mark.parametrize("character", ["\u00e9", "\u4e2d", "\U0001f600"])
@pytest.mark.parametrize("before", ["", "a", "\u4e2d"])
def test_beginnings_of_characters_are_held_back(character, before):
    data = character.encode()
    for count in range(1, len(data)):
        text = tf.constant([before.encode() + data[:count]])
        assert num_bytes_held_back(text, tf.zeros([1, 0], tf.string)).numpy() == [count]


def test_bytes_that_begin_nothing_are_not_held_back():
    texts = [b"a\x80\x80\x80\x80", b"\x80", b"\xe4a", b"\xc3\xa9\xa9"]
    held = num_bytes_held_back(tf.constant(texts), tf.zeros([1, 0], tf.string))
    assert held.numpy().tolist() == [0, 0, 0, 0]


def test_beginnings_of_stop_strings_are_held_back():
    rng = np.random.default_rng(0)

    def some(size):
        return bytes(rng.choice([97, 98, 99], size).tolist())

    texts = [some(rng.integers(0, 9)) for _ in range(300)]
    stops = [[some(rng.integers(0, 6)) for _ in range(3)] for _ in texts]
    held = num_bytes_held_back(tf.constant(texts), tf.constant(stops)).numpy()
    # A stop string that is all there ends the text, and is not waited for.
    expected = [plain_held(text, row) for text, row in zip(texts, stops, strict=True)]
    whole = [
        any(row_text.endswith(one) for one in row if one)
        for row_text, row in zip(texts, stops, strict=True)
    ]
    assert sum(expected) > 50
    for index, (got, want) in enumerate(zip(held, expected, strict=True)):
        if not whole[index]:
            assert got == want, (texts[index], stops[index])


def test_beginnings_of_stop_sequences_are_held_back():
    rng = np.random.default_rng(1)
    for _ in range(100):
        rows = [rng.integers(0, 3, rng.integers(0, 7)).tolist() for _ in range(4)]
        stops = [rng.integers(0, 3, rng.integers(1, 5)).tolist() for _ in range(3)]
        table = np.zeros([4, 7], np.int32)
        for row, ids in enumerate(rows):
            table[row, : len(ids)] = ids
        sequences = np.full([1, 3, 4], -1, np.int32)
        for place, stop in enumerate(stops):
            sequences[0, place, 4 - len(stop) :] = stop
        lengths = [len(ids) for ids in rows]
        held = num_tokens_held_back(
            tf.constant(table), tf.constant(lengths), tf.constant(sequences)
        )
        for got, ids in zip(held.numpy(), rows, strict=True):
            if not any(ids[-len(stop) :] == stop for stop in stops):
                assert got == plain_held(ids, stops)
