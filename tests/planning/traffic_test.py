"""Traffic: a ring that is played through, and the papers' formulas."""

import numpy as np
import pytest

from keras_gpt import GPTConfig
from keras_gpt.planning.traffic import ring_bytes, traffic_bytes

CONFIG = GPTConfig(vocabulary_size=96, num_layers=3, num_heads=4, hidden_dim=32)
B, T, D, L = 5, 24, 32, 3


def all_reduce(arrays):
    """Sums arrays around a ring; returns each device's result and bytes sent.

    At each of 2 (p - 1) steps every device passes one of p chunks to its neighbour:
    first to be added there, then to be kept there.
    """
    parts = len(arrays)
    chunks = [np.split(array.copy(), parts) for array in arrays]
    sent = [0] * parts
    for step in range(2 * (parts - 1)):
        for device in range(parts):
            chunk = (device - step) % parts if step < parts - 1 else None
            if chunk is None:
                chunk = (device + 1 - (step - parts + 1)) % parts
            message = chunks[device][chunk].copy()
            sent[device] += message.nbytes
            neighbour = chunks[(device + 1) % parts]
            neighbour[chunk] = (
                neighbour[chunk] + message if step < parts - 1 else message
            )
    return [np.concatenate(own) for own in chunks], sent


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_a_ring_sends_what_the_formula_says(parts):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 99, 48) for _ in range(parts)]
    results, sent = all_reduce(arrays)
    for result in results:
        np.testing.assert_array_equal(result, sum(arrays))
    assert sent == [ring_bytes(arrays[0].nbytes, parts)] * parts


def traffic(**settings):
    fixed = {"batch_size": B, "context_length": T, "gradient_bytes": 1000}
    return traffic_bytes(CONFIG, **{**fixed, **settings})


def test_blocks_send_what_megatron_does():
    # Narayanan et al. 2021, section 3.2: 8 b s h (t - 1) / t numbers a layer.
    found = traffic(model_parts=4, dtype_policy="mixed_bfloat16")
    numbers = L * 8 * B * T * D * (4 - 1) / 4
    assert found.blocks == 2 * numbers
    assert found.embedding == 2 * numbers / (2 * L)  # 2 sums where a layer has 4
    assert found.softmax == 3 * 4 * B * T * 2 * 3 / 4
    assert traffic(model_parts=4).blocks == 2 * found.blocks
    assert traffic(model_parts=4, remat=True).blocks == 3 * found.blocks


def test_gradients_are_summed_once_however_many_parts():
    assert traffic(batch_parts=8).gradients == 2 * 7 / 8 * 1000
    assert traffic(batch_parts=8, accumulate=3).gradients == 2 * 7 / 8 * 1000
    one, three = traffic(model_parts=2), traffic(model_parts=2, accumulate=3)
    assert three.blocks == 3 * one.blocks
    assert (three.embedding, three.softmax) == (3 * one.embedding, 3 * one.softmax)


def test_one_device_sends_nothing():
    assert traffic().total == 0
