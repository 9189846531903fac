"""The network against a NumPy transformer, itself with a cache, and KerasHub."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.models import GPTBackbone

RNG = np.random.default_rng(0)


def random_weights(backbone):
    """Gives every weight, biases and norms too, a random value."""
    for weight in backbone.weights:
        weight.assign(RNG.normal(0, 0.3, weight.shape) + ("gamma" in weight.path))
    return backbone


def oracle_forward(backbone, ids):
    """A transformer in NumPy float64, one row, after Radford et al."""
    weights = {w.path: w.numpy().astype(np.float64) for w in backbone.weights}
    config = backbone.config

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
        return x * weights[f"{name}/gamma"] + weights.get(f"{name}/beta", 0.0)

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0.0)

    def attention(x, name):
        parts = np.split(dense(x, f"{name}/query_key_value"), 3, axis=-1)
        heads = [np.split(part, config.num_heads, axis=-1) for part in parts]
        mixed = []
        for query, key, value in zip(*heads, strict=True):
            scores = query @ key.T / np.sqrt(config.head_dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ value)
        return dense(np.concatenate(mixed, -1), f"{name}/output_projection")

    def mlp(x, name):
        x = dense(x, f"{name}/expand")
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return dense(x, f"{name}/contract")

    x = weights["token_embedding/embeddings"][ids]
    x = x + weights["position_embedding/embeddings"][: len(ids)]
    for index in range(config.num_layers):
        name = f"transformer_layer_{index}"
        if config.normalize_first:
            x = x + attention(norm(x, f"{name}/attention_norm"), f"{name}/attention")
            x = x + mlp(norm(x, f"{name}/mlp_norm"), f"{name}/mlp")
        else:
            x = norm(x + attention(x, f"{name}/attention"), f"{name}/attention_norm")
            x = norm(x + mlp(x, f"{name}/mlp"), f"{name}/mlp_norm")
    return norm(x, "layer_norm") if config.normalize_first else x


@pytest.mark.parametrize("normalize_first", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("head_dim", [None, 5])
def test_forward_matches_the_oracle(normalize_first, use_bias, head_dim):
    backbone = random_weights(
        GPTBackbone.from_size(
            "gpt_nano",
            normalize_first=normalize_first,
            use_bias=use_bias,
            head_dim=head_dim,
        )
    )
    ids = RNG.integers(0, 512, 11).astype(np.int32)
    expected = oracle_forward(backbone, ids)
    got = backbone.forward(ids[None]).hidden[0]
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
    logits = backbone.logits(got)
    table = backbone.token_embedding.embeddings.numpy()
    np.testing.assert_allclose(logits, got.numpy() @ table.T, rtol=1e-3, atol=1e-3)
    assert backbone.count_params() == backbone.config.num_parameters


def test_untied_embeddings_have_their_own_projection():
    backbone = GPTBackbone.from_size("gpt_nano", tie_embeddings=False)
    assert backbone.count_params() == backbone.config.num_parameters
    hidden = RNG.normal(size=(2, 32)).astype(np.float32)
    kernel = backbone.token_embedding.reverse_embeddings.numpy()
    np.testing.assert_allclose(backbone.logits(hidden), hidden @ kernel, atol=1e-5)


@pytest.mark.parametrize("normalize_first", [True, False])
def test_cached_equals_uncached_with_ragged_rows(normalize_first):
    backbone = random_weights(
        GPTBackbone.from_size("gpt_nano", normalize_first=normalize_first)
    )
    ids = RNG.integers(0, 512, (3, 12)).astype(np.int32)
    full = backbone.forward(ids).hidden.numpy()
    lengths = np.array([5, 2, 7])
    padded = np.where(np.arange(7) < lengths[:, None], ids[:, :7], 0)
    positions = np.tile(np.arange(7, dtype=np.int32), (3, 1))
    output = backbone.forward(
        padded, positions=positions, cache=backbone.empty_cache(3, num_slots=12)
    )
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            output.hidden[row, :length], full[row, :length], atol=1e-4
        )
    for step in range(5):
        at = lengths + step
        output = backbone.forward(
            ids[np.arange(3), at][:, None],
            positions=at[:, None].astype(np.int32),
            cache=output.cache,
        )
        np.testing.assert_allclose(
            output.hidden[:, 0], full[np.arange(3), at], atol=1e-4
        )


def test_padding_changes_nothing_before_it():
    backbone = random_weights(GPTBackbone.from_size("gpt_nano"))
    ids = RNG.integers(0, 512, (1, 9)).astype(np.int32)
    mask = np.ones((1, 9), np.int32)
    mask[:, 6:] = 0
    masked = backbone({"token_ids": ids, "padding_mask": mask})
    short = backbone.forward(ids[:, :6]).hidden
    np.testing.assert_allclose(masked[:, :6], short, atol=1e-5)


def test_functional_model_and_forward_are_one_path():
    backbone = random_weights(GPTBackbone.from_size("gpt_nano"))
    ids = RNG.integers(0, 512, (2, 8)).astype(np.int32)
    model = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    np.testing.assert_array_equal(model, backbone.forward(ids).hidden)


def test_mixed_bfloat16_computes_in_bfloat16_and_gives_float32_logits():
    keras.utils.set_random_seed(0)
    exact = GPTBackbone.from_size("gpt_nano")
    mixed = GPTBackbone.from_size("gpt_nano", dtype="mixed_bfloat16")
    for target, source in zip(mixed.weights, exact.weights, strict=True):
        assert target.dtype == "float32"
        target.assign(source)
    ids = RNG.integers(0, 512, (2, 8)).astype(np.int32)
    hidden = mixed.forward(ids).hidden
    assert hidden.dtype == tf.bfloat16
    logits = mixed.logits(hidden)
    assert logits.dtype == tf.float32
    expected = exact.logits(exact.forward(ids).hidden).numpy()
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_same_weights_give_kerashubs_logits():
    """The peer: KerasHub's GPT2Backbone with the same weights."""
    ours = random_weights(GPTBackbone.from_size("gpt_nano"))
    peer = keras_nlp.models.GPT2Backbone(
        vocabulary_size=512,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=128,
        dropout=0.0,
        max_sequence_length=64,
    )
    peer.token_embedding.embeddings.assign(ours.token_embedding.embeddings)
    peer.position_embedding.position_embeddings.assign(
        ours.position_embedding.embeddings
    )
    peer.layer_norm.set_weights(ours.layer_norm.get_weights())
    for block, other in zip(
        ours.transformer_layers, peer.transformer_layers, strict=True
    ):
        kernel, bias = block.attention.query_key_value.get_weights()
        attention = other._self_attention_layer
        dense = (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
        for layer, k, b in zip(
            dense, np.split(kernel, 3, axis=1), np.split(bias, 3), strict=True
        ):
            layer.set_weights([k.reshape(32, 2, 16), b.reshape(2, 16)])
        kernel, bias = block.attention.output_projection.get_weights()
        attention._output_dense.set_weights([kernel.reshape(2, 16, 32), bias])
        other._self_attention_layer_norm.set_weights(block.attention_norm.get_weights())
        other._feedforward_layer_norm.set_weights(block.mlp_norm.get_weights())
        other._feedforward_intermediate_dense.set_weights(
            block.mlp.expand.get_weights()
        )
        other._feedforward_output_dense.set_weights(block.mlp.contract.get_weights())
    ids = RNG.integers(0, 512, (2, 10)).astype(np.int32)
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    expected = peer.token_embedding(peer(inputs), reverse=True).numpy()
    got = ours.logits(ours(inputs)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("fields", "stddev"), [({}, 0.02), ({"initializer_stddev": 0.05}, 0.05)]
)
def test_initialisation_is_gpt2s_unless_told(fields, stddev):
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size("gpt_nano", hidden_dim=256, num_layers=8, **fields)
    block = backbone.transformer_layers[3]
    spread = {
        "tokens": backbone.token_embedding.embeddings.numpy().std(),
        "positions": backbone.position_embedding.embeddings.numpy().std(),
        "inner": block.attention.query_key_value.kernel.numpy().std(),
        "residual": block.mlp.contract.kernel.numpy().std() * 16**0.5,
    }
    for part, measured in spread.items():
        assert measured == pytest.approx(stddev, rel=0.03), part


def test_preset_round_trip_through_the_base_class(tmp_path):
    backbone = random_weights(GPTBackbone.from_size("gpt_nano", use_bias=False))
    backbone.save_to_preset(str(tmp_path))
    again = keras_nlp.models.Backbone.from_preset(str(tmp_path))
    assert type(again) is GPTBackbone
    assert again.config == backbone.config
    ids = RNG.integers(0, 512, (2, 8)).astype(np.int32)
    np.testing.assert_array_equal(
        again.forward(ids).hidden, backbone.forward(ids).hidden
    )


def test_lora_trains_only_the_adapters():
    backbone = GPTBackbone.from_size("gpt_nano", use_bias=False)
    before = backbone.forward(np.ones((1, 4), np.int32)).hidden.numpy()
    backbone.enable_lora(2)
    names = {weight.name for weight in backbone.trainable_weights}
    assert names == {"lora_kernel_a", "lora_kernel_b"}
    after = backbone.forward(np.ones((1, 4), np.int32)).hidden.numpy()
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_unknown_field_is_named():
    with pytest.raises(ValueError, match="no field n_embd"):
        GPTBackbone(vocabulary_size=9, num_layers=1, num_heads=1, n_embd=8)
