"""What tests of generation share."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def settings_of():
    """Settings of so many rows, greedy and of 8 tokens unless told otherwise."""
    import tensorflow as tf

    from keras_gpt.generation import SETTINGS, GenerationSettings

    def make(rows, **knobs):
        given = {"max_new_tokens": 8, "temperature": 0.0, **knobs}
        return GenerationSettings(
            **{
                name: tf.fill(
                    [rows],
                    tf.constant(given.get(name, setting.default), setting.dtype),
                )
                for name, setting in SETTINGS.items()
            }
        )

    return make


@pytest.fixture(scope="session")
def ragged():
    """Random prompts of some lengths: a list of them, and as padded inputs."""

    def make(lengths, *, seed):
        rng = np.random.default_rng(seed)
        rows = [rng.integers(0, 300, length) for length in lengths]
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        table = np.zeros(mask.shape, np.int32)
        table[mask] = np.concatenate(rows)
        return rows, {"token_ids": table, "padding_mask": mask}

    return make


@pytest.fixture(scope="session")
def causal_lm_on_ids(causal_lm):
    """The model without its tokenizer."""
    from keras_gpt import GPTCausalLM

    return GPTCausalLM(causal_lm.backbone)
