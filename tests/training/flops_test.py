"""FLOPs: against the products of real graphs, and against the papers."""

import math

import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTConfig
from keras_gpt.training import next_token_loss
from keras_gpt.training.flops import (
    forward_flops_per_token,
    training_flops_by_parameters,
    training_flops_per_token,
)

ROWS, CONTEXT = 3, 24
SMALL = {
    "vocabulary_size": 70,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 24,
    "max_sequence_length": 32,
}
NETWORKS = {
    "gpt2": {},
    "gpt1": {"normalize_first": False, "activation": "gelu", "dropout": 0.0},
    "no biases": {"use_bias": False, "activation": "silu"},
    "own head": {"tie_embeddings": False, "activation": "relu"},
    "odd widths": {"head_dim": 7, "intermediate_dim": 50},
}


def graph(config, *, backward):
    """The graph of a training step's passes, as `make_train_step` makes them."""
    backbone = GPTBackbone(**config.to_dict())
    variables = [variable.value for variable in backbone.trainable_variables]

    @tf.function
    def passes(windows):
        with tf.GradientTape() as tape:
            hidden = backbone.forward(windows[:, :-1], training=True).hidden
            loss = next_token_loss(backbone.logits(hidden), targets=windows[:, 1:])
        if not backward:
            return loss
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    spec = tf.TensorSpec([ROWS, CONTEXT + 1], tf.int32)
    return passes.get_concrete_function(spec).graph


def flops_of(function_graph):
    """Sums 2 I J K over the matrix products of a graph."""
    total = 0
    for op in function_graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            inner = op.inputs[0].shape[-2 if transposed else -1]
            total += 2 * math.prod(op.outputs[0].shape) * inner
        assert "Einsum" not in op.type and "Conv" not in op.type
    return total


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("backward", [False, True])
def test_flops_are_those_of_the_graphs_products(network, backward):
    config = GPTConfig(**{**SMALL, **NETWORKS[network]})
    count = training_flops_per_token if backward else forward_flops_per_token
    expected = flops_of(graph(config, backward=backward)) / (ROWS * CONTEXT)
    assert count(config, CONTEXT) == expected


@pytest.mark.parametrize("backward", [False, True])
def test_flops_are_the_profilers(backward):
    # The profiler also counts what is done element by element: little when wide.
    config = GPTConfig(**{**SMALL, "hidden_dim": 512, "num_heads": 4, "dropout": 0.0})
    found = graph(config, backward=backward)
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(found, options=options)
    count = training_flops_per_token if backward else forward_flops_per_token
    ours = count(config, CONTEXT) * ROWS * CONTEXT
    assert ours == pytest.approx(profile.total_float_ops, rel=0.01)


def test_gpt3_takes_what_its_paper_says():
    config = GPTConfig.named("gpt3_175b")
    # Brown et al. 2020, table D.1: 3.14e23 FLOPs for 300e9 tokens.
    assert training_flops_by_parameters(config, 300e9) == pytest.approx(
        3.14e23, rel=2e-3
    )
    # Attention adds 12 L N H T a token (Chowdhery et al. 2022, appendix B).
    ours = training_flops_per_token(config, 2048) * 300e9
    attention = 12 * 96 * 12288 * 2048 * 300e9
    assert ours == pytest.approx(3.14e23 + attention, rel=2e-3)


@pytest.mark.parametrize("name", ["gpt2_xl", "gpt3_6.7b", "gpt3_175b"])
def test_training_flops_are_palms(name):
    config, context = GPTConfig.named(name), 1024
    attention = 12 * config.num_layers * config.attention_dim * context
    palm = 6 * config.num_parameters + attention
    assert training_flops_per_token(config, context) == pytest.approx(palm, rel=2e-3)


def test_flops_with_remat_are_megatrons():
    config, context = GPTConfig.named("gpt3_175b"), 2048
    layers, hidden = config.num_layers, config.hidden_dim
    # Narayanan et al. 2021, equation 3, for one token.
    share = 1 + context / (6 * hidden) + config.vocabulary_size / (16 * layers * hidden)
    expected = 96 * layers * hidden**2 * share
    assert training_flops_per_token(config, context, remat=True) == pytest.approx(
        expected, rel=1e-12
    )
