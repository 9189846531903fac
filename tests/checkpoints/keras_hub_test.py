"""KerasHub's GPT-2 and ours: the same weights, logits and presets, both ways."""

import json

import keras_nlp
import numpy as np
import pytest

from keras_gpt import (
    GPTBackbone,
    GPTCausalLM,
    GPTCausalLMPreprocessor,
    GPTTokenizer,
    save_keras_hub,
)

FIELDS = {
    "vocabulary_size": 300,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 24,
    "intermediate_dim": 40,
    "max_sequence_length": 32,
    "dropout": 0.2,
}
IDS = np.random.default_rng(0).integers(0, 300, (3, 17)).astype(np.int32)
INPUTS = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}


def randomize(model):
    """Spreads the weights out, so that texts differ and no mix-up stays hidden."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight + 0.3 * generator.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def peer(tokenizer):
    backbone = randomize(keras_nlp.models.GPT2Backbone(**FIELDS))
    vocabulary = {token: i for i, token in enumerate(tokenizer.get_vocabulary())}
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        keras_nlp.models.GPT2Tokenizer(vocabulary=vocabulary, merges=tokenizer.merges),
        sequence_length=20,
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor)


@pytest.fixture(scope="module")
def peer_preset(peer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer") / "preset"
    peer.save_to_preset(str(folder))
    return folder


def close(got, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_their_preset_loads_in_our_classes(peer, peer_preset):
    lm = GPTCausalLM.from_preset(peer_preset)
    close(lm(INPUTS), peer(INPUTS))
    for name, value in FIELDS.items():
        assert getattr(lm.backbone.config, name) == value
    text = "The king is dead"
    ids = lm.preprocessor.tokenizer.tokenize(text).numpy()
    np.testing.assert_array_equal(ids, peer.preprocessor.tokenizer(text))
    np.testing.assert_array_equal(
        lm.preprocessor(text)[0]["token_ids"], peer.preprocessor(text)[0]["token_ids"]
    )


def test_both_write_the_same_text(peer, peer_preset):
    lm = GPTCausalLM.from_preset(peer_preset)
    peer.compile(sampler="greedy")
    prompts = ["The king", "O my lord, the"]
    assert lm.generate(prompts, temperature=0.0) == peer.generate(prompts)


def test_parts_of_their_preset(peer, peer_preset):
    backbone = GPTBackbone.from_preset(peer_preset, dropout=0.0)
    close(backbone(INPUTS), peer.backbone(INPUTS))
    assert backbone.config.dropout == 0.0
    preprocessor = GPTCausalLMPreprocessor.from_preset(peer_preset, sequence_length=9)
    assert (preprocessor.sequence_length, preprocessor.add_start_token) == (9, True)
    assert GPTTokenizer.from_preset(peer_preset).vocabulary_size() == 300


def test_our_preset_loads_in_their_classes(tokenizer, tmp_path):
    backbone = randomize(GPTBackbone(**FIELDS))
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=20))
    save_keras_hub(lm, tmp_path / "out")
    theirs = keras_nlp.models.GPT2CausalLM.from_preset(str(tmp_path / "out"))
    assert type(theirs) is keras_nlp.models.GPT2CausalLM
    close(theirs(INPUTS), lm(INPUTS))
    text = "O my lord!"
    np.testing.assert_array_equal(
        theirs.preprocessor.tokenizer(text), tokenizer.tokenize(text)
    )
    again = GPTCausalLM.from_preset(tmp_path / "out")
    assert again.backbone.config == backbone.config
    for ours, back in zip(backbone.weights, again.backbone.weights, strict=True):
        np.testing.assert_array_equal(ours, back)


def test_a_backbone_alone(tmp_path):
    backbone = randomize(GPTBackbone(**FIELDS))
    save_keras_hub(backbone, tmp_path / "out")
    theirs = keras_nlp.models.Backbone.from_preset(str(tmp_path / "out"))
    close(theirs(INPUTS), backbone(INPUTS))
    assert GPTCausalLM.from_preset(tmp_path / "out").preprocessor is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "relu"}, "activation must be gelu_approximate"),
        ({"use_bias": False}, "use_bias must be True"),
        ({"normalize_first": False}, "normalize_first must be True"),
        ({"tie_embeddings": False}, "tie_embeddings must be True"),
        ({"head_dim": 5}, "head_dim must be 8"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon must be 1e-05"),
        ({"upcast_attention": True}, "upcast_attention must be False"),
    ],
)
def test_networks_that_it_lacks_are_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_keras_hub(GPTBackbone(**FIELDS, **fields), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_broken_presets(peer_preset, tmp_path):
    config = json.loads((peer_preset / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        GPTBackbone.from_preset(tmp_path)
    config["registered_name"] = "keras_hub>BertBackbone"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="got registered_name 'keras_hub>BertBackb"):
        GPTBackbone.from_preset(tmp_path)
