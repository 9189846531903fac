"""Weights of an exported model: stored once, in the precision that was asked for."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.export import export_saved_model, weights
from keras_gpt.export.run_saved_model import signature_defaults
from keras_gpt.models import unfreeze_layers
from keras_gpt.models.lora import merged

OVERHEAD = 8192  # bytes of the file of weights that are no weights


@pytest.fixture(scope="module")
def wide(tokenizer):
    """A model of 800,000 weights: the graph is small beside them."""
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        hidden_dim=256,
        num_layers=1,
        max_sequence_length=32,
    )
    return GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=32))


def data_size(folder):
    return (Path(folder) / "variables/variables.data-00000-of-00001").stat().st_size


def test_weights_are_stored_once(exported, causal_lm):
    num_bytes = 4 * causal_lm.backbone.count_params()
    assert num_bytes <= data_size(exported) <= num_bytes + OVERHEAD


def test_half_the_bytes_and_the_numbers_of_rounded_weights(wide, tmp_path):
    before = [weight.numpy() for weight in wide.backbone.weights]
    folder = export_saved_model(
        wide, tmp_path, storage_dtype="bfloat16", batch_sizes=[1]
    )
    num_bytes = 2 * wide.backbone.count_params()
    assert num_bytes <= data_size(folder) <= num_bytes + OVERHEAD
    for weight, value in zip(wide.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    text = ["The king is dead, long live the king!"]
    with weights.rounded(wide.backbone, "bfloat16"):
        expected = wide.score(text)[0].log_probs
    exact = wide.score(text)[0].log_probs
    # Two loads in one process have nothing in common.
    first, second = (tf.saved_model.load(folder) for _ in range(2))
    del first
    scored = second.signatures["score"](text=tf.constant(text))
    np.testing.assert_allclose(
        scored["token_log_probs"].numpy()[0], expected, atol=1e-5
    )
    assert np.abs(expected - exact).max() > 1e-4
    assert signature_defaults(folder)["generate"]["temperature"].numpy() == [1.0]


def test_an_adapter_is_folded_in_before_weights_are_rounded(wide, tmp_path):
    num_bytes = 2 * wide.backbone.count_params()
    wide.backbone.enable_lora(4, ["query_key_value", "contract"], dropout=0.1)
    rng = np.random.default_rng(0)
    for variable in wide.backbone.trainable_weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    before = [weight.numpy() for weight in wide.backbone.weights]
    folder = export_saved_model(
        wide, tmp_path, storage_dtype="float16", batch_sizes=[1]
    )
    assert num_bytes <= data_size(folder) <= num_bytes + OVERHEAD
    for weight, value in zip(wide.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    text = ["The king is dead, long live the king!"]
    exact = wide.score(text)[0].log_probs
    with merged(wide), weights.rounded(wide, "float16"):
        expected = wide.score(text)[0].log_probs
    assert np.abs(expected - exact).max() > 1e-4
    wide.backbone.remove_adapter("default")
    unfreeze_layers(wide.backbone)
    assert np.abs(wide.score(text)[0].log_probs - exact).max() > 0.1
    scored = tf.saved_model.load(folder).signatures["score"](text=tf.constant(text))
    found = scored["token_log_probs"].numpy()[0]
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_weights_have_the_precision_of_the_model_unless_told_otherwise(
    tokenizer, tmp_path
):
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        hidden_dim=64,
        dtype="bfloat16",
    )
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=64))
    folder = export_saved_model(lm, tmp_path, max_new_tokens=2, batch_sizes=[1])
    num_bytes = 2 * backbone.count_params()
    assert num_bytes <= data_size(folder) <= num_bytes + OVERHEAD


def test_weights_that_are_too_large_are_named(tokenizer, tmp_path):
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
    )
    backbone.layer_norm.beta.assign(np.full([32], 70000.0))
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer))
    message = "storage_dtype float16 must hold all weights, .* 70000 in layer_norm/beta"
    with pytest.raises(ValueError, match=message):
        export_saved_model(lm, tmp_path, storage_dtype="float16")
    assert list(tmp_path.iterdir()) == []
