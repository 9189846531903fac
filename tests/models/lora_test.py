"""Adapters of a network: what they compute and train, switching, merging."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.data import ExampleBatch
from keras_gpt.models import (
    activate_adapter,
    enable_lora,
    merge_lora,
    remove_adapter,
    unfreeze_layers,
)
from keras_gpt.models.lora import TARGETS, merged
from keras_gpt.training import make_train_step, training_optimizer

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 64, (2, 9)).astype(np.int32)
WINDOWS = RNG.integers(0, 64, (4, 17)).astype(np.int32)


def _backbone(**fields):
    keras.utils.set_random_seed(0)
    return GPTBackbone.from_size("gpt_nano", vocabulary_size=64, **fields)


def _hidden(backbone):
    return backbone.forward(IDS).hidden.numpy()


def _randomize(backbone):
    """Gives the active adapter values, as training would."""
    for variable in backbone.adapters.named(None).variables:
        variable.assign(RNG.normal(0, 0.1, variable.shape))


def _with_adapter(rank=2, targets=TARGETS, num_layers=2, **options):
    backbone = _backbone(num_layers=num_layers)
    backbone.enable_lora(rank, targets, **options)
    _randomize(backbone)
    return backbone


def _lm(tokenizer, **fields):
    keras.utils.set_random_seed(1)
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        num_layers=1,
        vocabulary_size=tokenizer.vocabulary_size(),
        **fields,
    )
    table = backbone.token_embedding.embeddings
    table.assign(10.0 * table.value)  # so that logits can differ
    return GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=16))


@pytest.mark.parametrize("targets", [None, ["expand"], list(TARGETS)])
def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(targets):
    backbone = _backbone()
    before = _hidden(backbone)
    base = [weight.path for weight in backbone.weights]
    backbone.enable_lora(4, targets)
    np.testing.assert_array_equal(_hidden(backbone), before)
    parts = {
        "query_key_value": "attention",
        "output_projection": "attention",
        "expand": "mlp",
        "contract": "mlp",
    }
    assert {weight.path for weight in backbone.trainable_weights} == {
        f"transformer_layer_{index}/{parts[name]}/{name}/lora_kernel_{factor}"
        for index in range(2)
        for name in targets or ["query_key_value"]
        for factor in "ab"
    }
    assert [w.path for w in backbone.weights if "lora" not in w.path] == base


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be a positive integer, got 0"),
        ({"rank": 2.5}, "rank must be a positive integer, got 2.5"),
        ({"rank": True}, "rank must be a positive integer, got True"),
        ({"target_layer_names": ["expand", "fc"]}, "target_layer_names .* got 'fc'"),
        ({"target_layer_names": []}, r"target_layer_names must be of .*, got \(\)"),
        ({"alpha": 0.0}, "alpha must be a number above 0, got 0.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"name": ""}, "name must be a string with characters, got ''"),
    ],
)
def test_bad_arguments_change_nothing(arguments, message):
    backbone = _backbone()
    with pytest.raises(ValueError, match=message):
        backbone.enable_lora(**{"rank": 2, **arguments})
    assert not backbone.adapters.held
    assert len(backbone.trainable_weights) == len(backbone.weights)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="model must be a task .* got Dense"):
        enable_lora(keras.layers.Dense(2), 4)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("remat", [False, True])
def test_gradients_are_those_of_the_merged_kernels(jit_compile, remat):
    """By the chain rule dA = s dW B^T and dB = s A^T dW (Hu et al. 2021, eq. 3)."""
    backbone = _with_adapter(rank=2, alpha=6.0)
    layers = [layer for b in backbone.transformer_layers for layer in b.projections]

    @tf.function(jit_compile=jit_compile)
    def gradients(variables):
        with tf.GradientTape() as tape:
            hidden = backbone.forward(IDS, training=True, remat=remat).hidden
            loss = tf.reduce_sum(tf.sin(hidden))
        return tape.gradient(loss, variables)

    factors = [(x.lora_kernel_a.value, x.lora_kernel_b.value) for x in layers]
    got = gradients(factors)
    values = [(a.numpy(), b.numpy()) for a, b in factors]
    backbone.merge_lora()
    unfreeze_layers(backbone)
    kernels = gradients([layer.base_kernel.value for layer in layers])
    for (a, b), (da, db), dw in zip(values, got, kernels, strict=True):
        np.testing.assert_allclose(da, 3.0 * dw.numpy() @ b.T, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(db, 3.0 * a.T @ dw.numpy(), rtol=1e-3, atol=1e-3)


def test_the_full_change_of_a_kernel_is_never_made():
    backbone = _with_adapter(dropout=0.1)
    layers = [layer for b in backbone.transformer_layers for layer in b.projections]
    kernels = {tuple(layer.base_kernel.shape) for layer in layers}

    def made(function):
        """Counts the tensors as large as a kernel that its outputs depend on."""
        graph = tf.function(function).get_concrete_function().graph
        outputs = [output.op.name for output in graph.outputs]
        needed = tf.compat.v1.graph_util.extract_sub_graph(
            graph.as_graph_def(), outputs
        )
        ops = [graph.get_operation_by_name(node.name) for node in needed.node]
        ops = [op for op in ops if op.type != "ReadVariableOp"]
        return sum(tuple(x.shape) in kernels for op in ops for x in op.outputs)

    def step():
        with tf.GradientTape() as tape:
            hidden = backbone.forward(tf.constant(IDS), training=True).hidden
            loss = tf.reduce_sum(hidden**2)
        return tape.gradient(loss, [w.value for w in backbone.trainable_variables])

    assert made(step) == 0
    assert made(lambda: layers[0].kernel) > 0  # as exports read it


def test_dropout_of_an_adapter_is_the_same_however_a_step_is_done():
    def losses(dropout=0.4, **options):
        backbone = _with_adapter(dropout=dropout, num_layers=1)
        for weight in backbone.trainable_weights:
            weight.assign(np.random.default_rng(5).normal(0, 0.3, weight.shape))
        optimizer = training_optimizer(backbone.trainable_variables)
        options = {"jit_compile": False, **options}
        step = make_train_step(backbone, optimizer=optimizer, seed=3, **options)
        return [float(step(ExampleBatch(WINDOWS)).loss) for _ in range(2)]

    expected = losses()
    assert np.abs(np.subtract(losses(dropout=0.0), expected)).min() > 1e-4
    for options in ({"accumulate": 2}, {"remat": True}, {"jit_compile": True}):
        np.testing.assert_allclose(losses(**options), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "jit_compile"), [("float32", True), ("mixed_bfloat16", False)]
)
def test_fit_trains_the_adapter_and_nothing_else(tokenizer, dtype, jit_compile):
    lm = _lm(tokenizer, dtype=dtype)
    lm.backbone.enable_lora(4, list(TARGETS), dropout=0.1)
    lm.compile(optimizer=keras.optimizers.Adam(3e-2), jit_compile=jit_compile)
    base = {w.path: w.numpy() for w in lm.weights if "lora" not in w.path}
    texts = ["the king", "my lord"] * 8
    history = lm.fit(texts, batch_size=8, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    for weight in lm.weights:
        if "lora" in weight.path:
            assert weight.dtype == "float32"
        else:
            np.testing.assert_array_equal(weight, base[weight.path])


def test_adapters_are_switched_by_name():
    backbone = _backbone()
    hidden = {None: _hidden(backbone)}
    for name in ("one", "other"):
        enable_lora(backbone, 2, list(TARGETS), name=name)
        _randomize(backbone)
        assert backbone.adapters.active == name
        hidden[name] = _hidden(backbone)
        assert np.abs(hidden[name] - hidden[None]).max() > 0.01
    assert np.abs(hidden["one"] - hidden["other"]).max() > 0.01
    for name in ("one", None, "other", "one"):
        activate_adapter(backbone, name)
        np.testing.assert_array_equal(_hidden(backbone), hidden[name])
        assert len(backbone.trainable_weights) == (16 if name else 0)
    remove_adapter(backbone, "one")
    np.testing.assert_array_equal(_hidden(backbone), hidden[None])
    assert list(backbone.adapters.held) == ["other"]
    with pytest.raises(ValueError, match=r"of an adapter \(other\), got 'one'"):
        activate_adapter(backbone, "one")
    with pytest.raises(ValueError, match="there is an adapter 'other'"):
        enable_lora(backbone, 2, name="other")
    with pytest.raises(ValueError, match="an adapter must be active"):
        merge_lora(backbone)


def test_generate_follows_the_switch(tokenizer):
    lm = _lm(tokenizer)

    def text():
        return lm.generate("the king", temperature=0.0, max_new_tokens=6)

    before = text()
    lm.backbone.enable_lora(2, list(TARGETS), alpha=400.0)
    _randomize(lm.backbone)
    assert text() != before
    lm.backbone.activate_adapter(None)
    assert text() == before


def test_merging_keeps_what_is_computed():
    backbone = _with_adapter(alpha=5.0)
    count = len(backbone.weights)
    expected = _hidden(backbone)
    merge_lora(backbone)
    np.testing.assert_allclose(_hidden(backbone), expected, atol=1e-5)
    assert len(backbone.weights) == count - 16
    assert not backbone.adapters.held and backbone.adapters.active is None
    backbone.enable_lora(3)
    np.testing.assert_allclose(_hidden(backbone), expected, atol=1e-5)


def test_merged_for_a_while():
    backbone = _with_adapter()
    before = [weight.numpy() for weight in backbone.weights]
    paths = [weight.path for weight in backbone.trainable_weights]
    expected = _hidden(backbone)
    with pytest.raises(KeyError), merged(backbone):
        np.testing.assert_allclose(_hidden(backbone), expected, atol=1e-5)
        assert not any("lora" in weight.path for weight in backbone.weights)
        raise KeyError
    np.testing.assert_array_equal(_hidden(backbone), expected)
    assert [weight.path for weight in backbone.trainable_weights] == paths
    for weight, value in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_checkpoints_of_keras_have_the_adapter_in(tmp_path):
    backbone = _with_adapter(dropout=0.1)
    expected = _hidden(backbone)
    backbone.save_weights(tmp_path / "a.weights.h5")
    backbone.save_to_preset(str(tmp_path / "preset"))
    plain = _backbone()
    plain.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(_hidden(plain), expected, atol=1e-5)
    loaded = GPTBackbone.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(_hidden(loaded), expected, atol=1e-5)
    # Loaded into a network with an adapter, which then begins anew and can learn.
    backbone.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(_hidden(backbone), expected, atol=1e-5)
    first, second = backbone.adapters.named(None).variables[:2]
    assert first.numpy().any() and not second.numpy().any()


def test_keras_hubs_own_files_of_adapters(tmp_path):
    backbone = _with_adapter(rank=3, targets=None)
    backbone.save_lora_weights(str(tmp_path / "a.lora.h5"))
    other = _backbone()
    other.load_lora_weights(str(tmp_path / "a.lora.h5"))
    np.testing.assert_array_equal(_hidden(other), _hidden(backbone))
    other.activate_adapter(None)
    with pytest.raises(ValueError, match="no lora-enabled layers"):
        other.save_lora_weights(str(tmp_path / "b.lora.h5"))


def test_quantized_networks_carry_adapters_as_in_keras():
    backbone = _backbone()
    backbone.quantize("int8")
    before = _hidden(backbone)
    with pytest.raises(ValueError, match="dropout must be 0 for a quantized"):
        backbone.enable_lora(2, dropout=0.1)
    backbone.enable_lora(2)
    np.testing.assert_array_equal(_hidden(backbone), before)
    _randomize(backbone)
    assert np.abs(_hidden(backbone) - before).max() > 0.1
    with pytest.raises(ValueError, match="quantized network, got int8 in"):
        backbone.merge_lora()
