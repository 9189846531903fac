"""Learning rates by layer against NumPy, and against Keras' own where all are 1."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.training import WarmupCosine, layerwise_optimizer
from keras_gpt.training.layerwise import depth_factors, factor_of

RATE, WEIGHT_DECAY = 0.01, 0.1
OPTIMIZERS = {
    "Adam": {"weight_decay": WEIGHT_DECAY},
    "AdamW": {"weight_decay": WEIGHT_DECAY},
    "Lion": {"weight_decay": WEIGHT_DECAY, "gradient_accumulation_steps": 2},
    "SGD": {"momentum": 0.9, "weight_decay": WEIGHT_DECAY},
}


def _backbone(**fields):
    keras.utils.set_random_seed(0)
    return GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=16, hidden_dim=8, max_sequence_length=8, **fields
    )


def _optimizer(name, rate=RATE):
    return getattr(keras.optimizers, name)(rate, **OPTIMIZERS[name])


def _gradients(variables, step):
    rng = np.random.default_rng(step)
    return [rng.normal(size=v.shape).astype(np.float32) for v in variables]


def _after_steps(optimizer, backbone, *, jit_compile=True, steps=3):
    """Returns the weights by path after updates by random gradients."""
    variables = backbone.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def apply(gradients):
        optimizer.apply(gradients, variables)

    for step in range(steps):
        apply(_gradients(variables, step))
    return {v.path: v.numpy() for v in variables}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_adamw_by_hand(jit_compile):
    """Loshchilov & Hutter 2019, algorithm 2, with the rate times 0.5^distance."""
    backbone = _backbone()
    variables = backbone.trainable_variables
    expected = {v.path: v.numpy().astype(np.float64) for v in variables}
    factors = {
        "token_embedding": 0.125,
        "position_embedding": 0.125,
        "transformer_layer_0": 0.25,
        "transformer_layer_1": 0.5,
        "layer_norm": 1.0,
    }
    moments = {path: (0.0, 0.0) for path in expected}
    for step in range(3):
        gradients = _gradients(variables, step)
        for variable, gradient in zip(variables, gradients, strict=True):
            path, g = variable.path, gradient.astype(np.float64)
            m, v = moments[path]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            moments[path] = m, v
            rate = RATE * factors[path.split("/")[0]]
            expected[path] *= 1.0 - rate * WEIGHT_DECAY
            # Keras' epsilon is that of the formula before section 2.1 of Kingma & Ba.
            rate *= np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            expected[path] -= rate * m / (np.sqrt(v) + 1e-7)
    optimizer = layerwise_optimizer(_optimizer("AdamW"), model=backbone, decay=0.5)
    found = _after_steps(optimizer, backbone, jit_compile=jit_compile)
    for path, value in found.items():
        np.testing.assert_allclose(value, expected[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factors_of_one_are_keras_own_optimizer(name):
    plain = _after_steps(_optimizer(name), _backbone())
    backbone = _backbone()
    ours = layerwise_optimizer(_optimizer(name), model=backbone)
    for path, value in _after_steps(ours, backbone).items():
        np.testing.assert_allclose(value, plain[path], atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_for_all_is_that_learning_rate(name):
    slow = _after_steps(_optimizer(name, 0.3 * RATE), _backbone())
    backbone = _backbone()
    tops = {weight.path.split("/")[0]: 0.3 for weight in backbone.weights}
    ours = layerwise_optimizer(_optimizer(name), model=backbone, factors=tops)
    for path, value in _after_steps(ours, backbone).items():
        np.testing.assert_allclose(value, slow[path], atol=1e-6, err_msg=path)


def test_depths_and_beginnings_of_paths():
    backbone = _backbone(num_layers=11)
    factors = depth_factors(backbone, decay=0.5)
    assert factor_of("token_embedding/embeddings", factors) == 0.5**12
    assert factor_of("position_embedding/embeddings", factors) == 0.5**12
    assert factor_of("transformer_layer_0/mlp/expand/kernel", factors) == 0.5**11
    assert factor_of("transformer_layer_1/mlp/expand/kernel", factors) == 0.5**10
    # transformer_layer_1 is no beginning of it in whole parts.
    assert factor_of("transformer_layer_10/mlp/expand/kernel", factors) == 0.5
    for top in ("layer_norm/gamma", "logits/kernel"):
        assert factor_of(top, factors) == 1.0
    factors |= {"transformer_layer_0/mlp": 3.0}
    assert factor_of("transformer_layer_0/mlp/expand/kernel", factors) == 3.0
    assert factor_of("transformer_layer_0/mlp_norm/gamma", factors) == 0.5**11


def test_a_factor_of_zero_keeps_a_part_as_it_is():
    backbone = _backbone()
    before = {v.path: v.numpy() for v in backbone.weights}
    optimizer = layerwise_optimizer(
        _optimizer("AdamW"), model=backbone, factors={"transformer_layer_0": 0.0}
    )
    for path, value in _after_steps(optimizer, backbone).items():
        is_kept = np.array_equal(value, before[path])
        assert is_kept == path.startswith("transformer_layer_0/")


def test_excluded_weights_do_not_decay():
    backbone = _backbone()
    variable = backbone.token_embedding.embeddings
    plain = keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY)
    plain.exclude_from_weight_decay(var_list=[variable])
    optimizer = layerwise_optimizer(plain, model=backbone)
    optimizer.build([variable])
    before = variable.numpy()
    optimizer.apply([tf.zeros(variable.shape)], [variable])
    np.testing.assert_array_equal(variable, before)


def test_keras_saves_and_loads_it():
    backbone = _backbone()
    schedule = WarmupCosine(0.02, total_steps=9, warmup_steps=2)
    optimizer = layerwise_optimizer(
        keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY),
        model=backbone,
        decay=0.7,
    )
    text = json.dumps(keras.saving.serialize_keras_object(optimizer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(optimizer)
    assert again.rate_factors == optimizer.rate_factors
    expected = _after_steps(optimizer, backbone)
    for path, value in _after_steps(again, _backbone()).items():
        np.testing.assert_array_equal(value, expected[path])


def test_fit_moves_an_adapter_by_the_rate_of_its_block(tokenizer):
    def moves(decay, jit_compile):
        keras.utils.set_random_seed(0)
        backbone = GPTBackbone.from_size(
            "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
        )
        backbone.enable_lora(2)
        preprocessor = GPTCausalLMPreprocessor(tokenizer, sequence_length=16)
        lm = GPTCausalLM(backbone, preprocessor)
        optimizer = layerwise_optimizer(
            keras.optimizers.SGD(1.0), model=lm, decay=decay
        )
        lm.compile(optimizer=optimizer, jit_compile=jit_compile)
        lm.fit(["the king is dead", "my lord"], batch_size=2, verbose=0)
        return [
            block.attention.query_key_value.lora_kernel_b.numpy()
            for block in backbone.transformer_layers
        ]

    whole = moves(1.0, jit_compile=False)
    halved = moves(0.5, jit_compile=True)
    for a, b, factor in zip(whole, halved, (0.25, 0.5), strict=True):
        assert np.abs(a).max() > 1e-5
        np.testing.assert_allclose(b, factor * a, rtol=1e-3, atol=1e-8)


MIRRORED = """
    import json, keras, numpy as np, tensorflow as tf
    from keras_gpt import GPTBackbone, GPTCausalLM
    from keras_gpt.training import layerwise_optimizer, make_strategy

    two = make_strategy("mirrored", devices=2)
    one = make_strategy("one_device")
    ids = np.random.default_rng(0).integers(0, 16, [4, 9])
    x = {"token_ids": ids[:, :-1], "padding_mask": np.ones([4, 8], np.int32)}
    results = []
    for strategy in (one, two):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=16)
            lm = GPTCausalLM(backbone)
            optimizer = layerwise_optimizer(
                keras.optimizers.SGD(0.5, weight_decay=0.1), model=lm, decay=0.5
            )
            lm.compile(optimizer=optimizer)
        lm.fit(x, ids[:, 1:], batch_size=4, epochs=3, verbose=0)
        results.append([float(np.abs(w.numpy()).sum()) for w in lm.weights])
    print("RESULT", json.dumps(results))
"""


def test_two_replicas_equal_one_device():
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    line = process.stdout[process.stdout.index("RESULT") :]
    one, two = json.loads(line.removeprefix("RESULT"))
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 0.0}, r"decay must be in \(0, 1\], got 0.0"),
        ({"decay": 1.5}, r"decay must be in \(0, 1\], got 1.5"),
        ({"factors": {"layer_norm": -1.0}}, "at least 0, got -1.0 for 'layer_norm'"),
        ({"factors": {"layer_nor": 1.0}}, "beginnings of weights' .* got 'layer_nor'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layerwise_optimizer(_optimizer("AdamW"), model=_backbone(), **arguments)


def test_other_and_built_optimizers_are_refused():
    backbone = _backbone()
    built = _optimizer("SGD")
    built.build(backbone.trainable_variables)
    for optimizer in (built, keras.optimizers.Adafactor()):
        with pytest.raises(ValueError, match="Adam, AdamW, Lion, SGD, not built"):
            layerwise_optimizer(optimizer, model=backbone)
