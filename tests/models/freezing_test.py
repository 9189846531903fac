"""Freezing the lower part of a network."""

import keras
import numpy as np
import pytest

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.models import freeze_layers, unfreeze_layers

EMBEDDINGS = {"token_embedding", "position_embedding"}
BLOCKS = ["transformer_layer_0", "transformer_layer_1", "transformer_layer_2"]
ALL = {*EMBEDDINGS, *BLOCKS, "layer_norm"}


def _backbone():
    return GPTBackbone.from_size("gpt_nano", num_layers=3, vocabulary_size=64)


def _learning(model):
    return {weight.path.split("/")[0] for weight in model.trainable_weights}


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("embeddings", [True, False])
def test_the_lowest_blocks_and_the_embeddings(num_layers, embeddings):
    backbone = _backbone()
    freeze_layers(backbone, num_layers=3)
    freeze_layers(backbone, num_layers=num_layers, embeddings=embeddings)
    frozen = {*BLOCKS[:num_layers], *(EMBEDDINGS if embeddings else ())}
    assert _learning(backbone) == ALL - frozen
    unfreeze_layers(backbone)
    assert len(backbone.trainable_weights) == len(backbone.weights)


@pytest.mark.parametrize("num_layers", [-1, 4, 1.5, True])
def test_numbers_out_of_range(num_layers):
    with pytest.raises(ValueError, match="num_layers must be an integer from 0 to 3"):
        freeze_layers(_backbone(), num_layers=num_layers)


def test_an_adapter_is_frozen_by_block_while_the_base_stays_frozen():
    backbone = _backbone()
    backbone.enable_lora(2, ["query_key_value", "expand"])
    freeze_layers(backbone, num_layers=2)
    assert len(backbone.trainable_weights) == 4
    assert _learning(backbone) == {BLOCKS[2]}
    # Also after the adapter was away.
    backbone.activate_adapter(None)
    assert not backbone.trainable_weights
    backbone.activate_adapter("default")
    unfreeze_layers(backbone)
    assert len(backbone.trainable_weights) == 12
    assert all("lora" in weight.path for weight in backbone.trainable_weights)


def test_fit_leaves_the_frozen_part_as_it_was(tokenizer):
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
    )
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=16))
    freeze_layers(lm, num_layers=1)
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    before = {weight.path: weight.numpy() for weight in lm.weights}
    lm.fit(["the king is dead", "my lord"], batch_size=2, verbose=0)
    changed = {w.path for w in lm.weights if np.any(w.numpy() != before[w.path])}
    assert {path.split("/")[0] for path in changed} == {BLOCKS[1], "layer_norm"}
