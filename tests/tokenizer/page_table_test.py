"""Two-level tables hold what they were made of."""

import numpy as np
import tensorflow as tf

from keras_gpt.tokenizer.page_table import PageTable, make_pages


def test_every_value_is_found_again():
    values = np.random.default_rng(0).integers(-5, 2**31 - 1, 256 * 40)
    values[256 * 3 : 256 * 30] = 7
    table = make_pages(values)
    assert table.pages.size == 256 * 14
    places = tf.reshape(tf.range(values.size), [-1, 2])
    np.testing.assert_array_equal(table.look_up(places), values.reshape(-1, 2))
    # As tensors, which graphs share, no less than as constants of one graph.
    shared = PageTable(*map(tf.constant, table))
    found = tf.function(shared.look_up)(tf.constant([0, 1023, 256 * 40 - 1]))
    np.testing.assert_array_equal(found, values[[0, 1023, -1]])
