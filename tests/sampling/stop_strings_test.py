"""Stop strings against `bytes.find`, on texts that hold many of them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling import find_stop_string


def oracle(text, strings, num_new):
    places = [
        place
        for string in strings
        if string
        for place in range(len(text))
        if text[place:].startswith(string) and place + len(string) > len(text) - num_new
    ]
    return min(places, default=-1)


@pytest.mark.parametrize("alphabet", [b"ab", "aé中".encode()])
@pytest.mark.parametrize("is_shared", [True, False])
def test_places_are_those_of_a_plain_search(alphabet, is_shared):
    rng = np.random.default_rng(0)

    def word(longest):
        return bytes(rng.choice(list(alphabet), rng.integers(0, longest + 1)))

    find = tf.function(find_stop_string, reduce_retracing=True)
    for _ in range(300):
        rows, count = rng.integers(1, 4), rng.integers(0, 4)
        texts = [word(9) for _ in range(rows)]
        strings = [
            [word(4) for _ in range(count)] for _ in range(1 if is_shared else rows)
        ]
        num_new = [int(rng.integers(0, len(text) + 1)) for text in texts]
        got = find(
            tf.constant(texts),
            tf.constant(strings, tf.string, shape=[len(strings), count]),
            num_new_bytes=tf.constant(num_new),
        )
        expected = [
            oracle(text, strings[0 if is_shared else row], num_new[row])
            for row, text in enumerate(texts)
        ]
        assert got.numpy().tolist() == expected
