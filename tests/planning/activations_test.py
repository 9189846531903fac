"""Activations: the formula against what real graphs hand to their backward pass."""

from typing import NamedTuple

import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTConfig
from keras_gpt.config import ACTIVATIONS
from keras_gpt.layers.attention import AttentionOutput
from keras_gpt.planning.activations import activation_bytes
from keras_gpt.planning.memory import state_bytes
from keras_gpt.training import next_token_loss

BATCH, CONTEXT = 5, 24
SMALL = {
    "vocabulary_size": 96,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 32,
    "max_sequence_length": 32,
    "dropout": 0.0,
}
NETWORKS = {
    "gpt2": {},
    "dropout": {"dropout": 0.1},
    "dropout here and there": {"embedding_dropout": 0.2, "attention_dropout": 0.1},
    "gpt1": {"normalize_first": False, "dropout": 0.1},
    "no biases": {"use_bias": False},
    "own head": {"tie_embeddings": False},
    "odd widths": {"head_dim": 7, "intermediate_dim": 50},
    "upcast": {"upcast_attention": True},
    **{name: {"activation": name} for name in ACTIVATIONS},
}

# Ops whose output is the memory of their input.
SAME_MEMORY = {"EnsureShape", "ExpandDims", "Identity", "Reshape", "Squeeze"}
ONLY_SHAPE = {"Rank", "Shape", "Size"}


class Kept(NamedTuple):
    """Bytes of the tensors that a backward pass reads, each counted once."""

    activations: int
    weight_copies: int


def kept(backbone):
    """Traces the passes of a training step and looks at what goes between them."""
    variables = [variable.value for variable in backbone.trainable_variables]
    forward_ops = 0

    @tf.function(autograph=False)
    def passes(windows):
        nonlocal forward_ops
        with tf.GradientTape() as tape:
            hidden = backbone.forward(windows[:, :-1], training=True).hidden
            loss = next_token_loss(backbone.logits(hidden), targets=windows[:, 1:])
        forward_ops = len(tf.compat.v1.get_default_graph().get_operations())
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    spec = tf.TensorSpec([BATCH, CONTEXT + 1], tf.int32)
    ops = passes.get_concrete_function(spec).graph.get_operations()
    before = {op.name for op in ops[:forward_ops]}
    read = [
        root(tensor, SAME_MEMORY)
        for op in ops[forward_ops:]
        for tensor in op.inputs
        if op.type not in ONLY_SHAPE and tensor.op.name in before
    ]
    return counted({tensor.name: tensor for tensor in read}.values())


def root(tensor, types):
    while tensor.op.type in types:
        tensor = tensor.op.inputs[0]
    return tensor


def counted(tensors):
    activations = weight_copies = 0
    for tensor in tensors:
        if tensor.op.type in ("Const", "Placeholder", "ReadVariableOp"):
            continue
        size = tensor.shape.num_elements() * tensor.dtype.size
        if root(tensor, SAME_MEMORY | {"Cast"}).op.type == "ReadVariableOp":
            weight_copies += size
        else:
            activations += size
    return Kept(activations, weight_copies)


def recompute(block):
    """Lets a block keep its input alone."""
    plain = block.call

    def call(inputs, mask, cache=(), cache_rows=None, training=None):
        @tf.recompute_grad
        def run(hidden):
            return plain(hidden, mask, training=training).hidden

        return AttentionOutput(run(inputs), ())

    block.call = call


def expected(config, dtype_policy, **parts):
    return activation_bytes(
        config,
        batch_size=BATCH,
        context_length=CONTEXT,
        dtype_policy=dtype_policy,
        **parts,
    )


@pytest.mark.parametrize("dtype_policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_activations_are_those_of_the_graph(network, dtype_policy):
    config = GPTConfig(**{**SMALL, **NETWORKS[network]})
    backbone = GPTBackbone(dtype=dtype_policy, **config.to_dict())
    found, ours = kept(backbone), expected(config, dtype_policy).total
    assert ours == pytest.approx(found.activations, rel=1e-3)
    copies = state_bytes(config, dtype_policy=dtype_policy).compute_copies
    assert copies == found.weight_copies


@pytest.mark.parametrize("dtype_policy", ["float32", "mixed_bfloat16"])
def test_with_remat_blocks_keep_their_inputs(dtype_policy):
    config = GPTConfig(**SMALL)
    backbone = GPTBackbone(dtype=dtype_policy, **config.to_dict())
    for block in backbone.transformer_layers:
        recompute(block)
    found, ours = kept(backbone), expected(config, dtype_policy)
    assert ours.kept_with_remat == pytest.approx(found.activations, rel=1e-3)


@pytest.mark.parametrize("dtype_policy", ["float32", "mixed_bfloat16"])
def test_a_device_of_a_mesh_keeps_what_a_narrower_network_does(dtype_policy):
    config = GPTConfig(**{**SMALL, "dropout": 0.1})
    half = GPTConfig(
        **{
            **config.to_dict(),
            "num_heads": config.num_heads // 2,
            "intermediate_dim": config.intermediate_dim // 2,
            "vocabulary_size": config.vocabulary_size // 2,
        }
    )
    assert expected(config, dtype_policy, model_parts=2) == expected(half, dtype_policy)


def test_remat_is_what_the_blocks_keep_and_the_larger_of_what_comes_after():
    found = expected(GPTConfig(**SMALL), "float32")
    assert found.block > found.head
    inputs = found.embeddings + 3 * found.block_input
    assert found.total_with_remat == inputs + found.block
    wide = expected(GPTConfig(**{**SMALL, "vocabulary_size": 9600}), "float32")
    assert wide.total_with_remat == inputs + wide.head == wide.kept_with_remat
