"""Bytes of weights, gradients, optimizer state and caches, against the real ones."""

import math

import keras
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTConfig
from keras_gpt.config import NAMED_SIZES
from keras_gpt.planning.memory import kv_cache_bytes, model_weights, state_bytes
from keras_gpt.training import training_optimizer

SMALL = {
    "vocabulary_size": 96,
    "num_layers": 3,
    "num_heads": 4,
    "hidden_dim": 32,
    "max_sequence_length": 32,
    "dropout": 0.1,
}
NETWORKS = {
    "gpt2": {},
    "gpt1": {"normalize_first": False},
    "no biases": {"use_bias": False},
    "own head": {"tie_embeddings": False},
    "odd widths": {"head_dim": 7, "intermediate_dim": 52},
}
pytestmark = pytest.mark.parametrize("network", NETWORKS)


def config_of(network):
    return GPTConfig(**{**SMALL, **NETWORKS[network]})


def bytes_of(variables):
    return sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
        for variable in variables
    )


def test_weights_are_the_variables_one_by_one(network):
    config = config_of(network)
    backbone = GPTBackbone(**config.to_dict())
    real = {v.path: tuple(v.shape) for v in backbone.trainable_variables}
    assert {w.path: w.shape for w in model_weights(config)} == real
    assert config.num_parameters == sum(math.prod(shape) for shape in real.values())
    assert config.num_parameters == backbone.count_params()


@pytest.mark.parametrize("dtype_policy", ["float32", "mixed_bfloat16"])
def test_weights_and_gradients_have_the_real_bytes(network, dtype_policy):
    config = config_of(network)
    backbone = GPTBackbone(dtype=dtype_policy, **config.to_dict())
    found = state_bytes(config, dtype_policy=dtype_policy)
    assert found.weights == bytes_of(backbone.trainable_variables)
    with tf.GradientTape() as tape:
        hidden = backbone.forward(tf.zeros([2, 5], tf.int32)).hidden
        total = tf.reduce_sum(backbone.logits(hidden))
    variables = [variable.value for variable in backbone.trainable_variables]
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(total, variables)]
    assert found.gradients == bytes_of(gradients)
    summed = state_bytes(config, dtype_policy=dtype_policy, accumulate=4)
    assert summed.gradients == 2 * found.gradients


def test_optimizer_state_has_the_real_bytes(network):
    config = config_of(network)
    variables = GPTBackbone(**config.to_dict()).trainable_variables
    adafactor = keras.optimizers.Adafactor()
    adafactor.build(variables)
    for name, optimizer in (
        ("adamw", training_optimizer(variables)),
        ("adafactor", adafactor),
    ):
        # Counters and placeholders are scalars; every moment has an axis.
        moments = [v for v in optimizer.variables if len(v.shape)]
        found = state_bytes(config, optimizer=name).optimizer_state
        assert found == bytes_of(moments)
        assert found == pytest.approx(bytes_of(optimizer.variables), rel=5e-3)


def test_a_device_of_a_mesh_holds_what_a_narrower_network_does(network):
    config = config_of(network)
    quarter = GPTConfig(
        **{
            **config.to_dict(),
            "num_heads": config.num_heads // 4,
            "intermediate_dim": config.intermediate_dim // 4,
            "vocabulary_size": config.vocabulary_size // 4,
        }
    )
    options = {"optimizer": "adafactor", "dtype_policy": "mixed_bfloat16"}
    found = state_bytes(config, model_parts=4, **options)
    assert found == state_bytes(quarter, **options)
    assert found.weights == 4 * quarter.num_parameters


@pytest.mark.parametrize("dtype_policy", ["float32", "mixed_bfloat16"])
def test_cache_has_the_real_bytes(network, dtype_policy):
    config = config_of(network)
    backbone = GPTBackbone(dtype=dtype_policy, **config.to_dict())
    cache = backbone.empty_cache(3, num_slots=20)
    assert kv_cache_bytes(
        config, batch_size=3, num_slots=20, dtype_policy=dtype_policy
    ) == bytes_of(tf.nest.flatten(cache))


def test_copies_are_those_of_the_compute_dtype(network):
    config = config_of(network)
    matrices = [
        math.prod(w.shape) for w in model_weights(config) if w.path.endswith("/kernel")
    ]
    table = config.vocabulary_size * config.hidden_dim
    mixed = {"dtype_policy": "mixed_bfloat16"}
    assert state_bytes(config).compute_copies == 0
    assert state_bytes(config, **mixed).compute_copies == 2 * (sum(matrices) + table)
    remat = state_bytes(config, remat=True, **mixed).compute_copies
    assert remat == 2 * (sum(matrices) // 3 + table)


def test_every_named_size_is_counted_without_being_made(network):
    for name in NAMED_SIZES:
        config = GPTConfig.named(name, **NETWORKS[network])
        sizes = [math.prod(weight.shape) for weight in model_weights(config)]
        assert sum(sizes) == config.num_parameters
