"""Tests of one training step against NumPy, and of replicas against one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.data import ExampleBatch
from keras_gpt.models import GPTBackbone
from keras_gpt.training import (
    make_eval_step,
    make_strategy,
    make_train_step,
    training_optimizer,
)
from keras_gpt.training.optimizers import EPSILON, is_decayed

FIELDS = {"vocabulary_size": 11, "num_layers": 1, "max_sequence_length": 8}


def _backbone(seed=0):
    keras.utils.set_random_seed(seed)
    return GPTBackbone.from_size("gpt_nano", hidden_dim=8, **FIELDS)


def _batch(seed=0):
    return np.random.default_rng(seed).integers(0, 11, [4, 9]).astype(np.int32)


def _gradients(backbone, windows):
    variables = [variable.value for variable in backbone.trainable_variables]
    with tf.GradientTape() as tape:
        hidden = backbone.forward(tf.constant(windows[:, :-1])).hidden
        log_probs = tf.nn.log_softmax(backbone.logits(hidden))
        picked = tf.gather(log_probs, windows[:, 1:], batch_dims=2)
        loss = -tf.reduce_mean(picked)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    return float(loss), [gradient.numpy() for gradient in gradients]


def _adamw(weights, moments, gradients, *, step, rate, decay, decayed, clip):
    """One step of clipped AdamW in float64 (Loshchilov & Hutter 2019)."""
    beta_1, beta_2 = 0.9, 0.99
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
    for i, gradient in enumerate(gradients):
        g = gradient.astype(np.float64) * min(1.0, clip / norm)
        m, v = moments[i]
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        moments[i] = m, v
        corrected = np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        if decayed[i]:
            weights[i] = weights[i] * (1 - rate * decay)
        weights[i] = weights[i] - rate * corrected * m / (np.sqrt(v) + EPSILON)
    return norm


@pytest.mark.parametrize("jit_compile", ["auto", False])
@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_steps_equal_numpy_adamw(jit_compile, clip_norm):
    rate, decay = 0.01, 0.5
    strategy = make_strategy("one_device")
    with strategy.scope():
        backbone = _backbone()
        optimizer = training_optimizer(
            backbone.trainable_variables,
            learning_rate=rate,
            beta_2=0.99,
            weight_decay=decay,
        )
    train_step = make_train_step(
        backbone,
        optimizer=optimizer,
        strategy=strategy,
        clip_norm=clip_norm,
        jit_compile=jit_compile,
    )
    variables = backbone.trainable_variables
    weights = [variable.numpy().astype(np.float64) for variable in variables]
    moments = [(0.0, 0.0)] * len(weights)
    decayed = ["bias" not in v.path and "norm" not in v.path for v in variables]
    assert any(decayed) and not all(decayed)
    for step in range(1, 4):
        windows = _batch(step)
        loss, gradients = _gradients(backbone, windows)
        norm = _adamw(
            weights,
            moments,
            gradients,
            step=step,
            rate=rate,
            decay=decay,
            decayed=decayed,
            clip=clip_norm,
        )
        metrics = train_step(ExampleBatch(windows))
        assert float(metrics.loss) == pytest.approx(loss, rel=1e-5)
        assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
        for variable, weight in zip(variables, weights, strict=True):
            np.testing.assert_allclose(
                variable.numpy(), weight, atol=2e-5, err_msg=variable.path
            )


def test_eval_step_sums_counted_targets():
    backbone = _backbone()
    windows = _batch()
    mask = np.random.default_rng(1).random([4, 8]) < 0.5
    sums = make_eval_step(backbone)(ExampleBatch(windows, mask))
    hidden = backbone.forward(tf.constant(windows[:, :-1])).hidden
    log_probs = tf.nn.log_softmax(backbone.logits(hidden)).numpy()
    expected = sum(-log_probs[b, t, windows[b, t + 1]] for b, t in np.argwhere(mask))
    assert float(sums.total) == pytest.approx(expected, rel=1e-5)
    assert float(sums.count) == mask.sum()


def test_decay_is_for_matrices():
    decayed = {v.path for v in _backbone().trainable_variables if is_decayed(v)}
    assert all(p.endswith(("kernel", "embeddings")) for p in decayed)
    assert len(decayed) == 6


def test_training_learns_one_batch():
    backbone = _backbone()
    optimizer = training_optimizer(backbone.trainable_variables, learning_rate=0.01)
    train_step = make_train_step(backbone, optimizer=optimizer)
    batch = ExampleBatch(_batch())
    losses = [float(train_step(batch).loss) for _ in range(100)]
    assert losses[0] == pytest.approx(np.log(11), abs=0.1)
    assert losses[-1] < 0.5


def test_bad_arguments():
    backbone = _backbone()
    variables = backbone.trainable_variables
    optimizer = training_optimizer(variables)
    with pytest.raises(ValueError, match="clip_norm"):
        make_train_step(backbone, optimizer=optimizer, clip_norm=0.0)
    with pytest.raises(ValueError, match="jit_compile"):
        make_train_step(backbone, optimizer=optimizer, jit_compile="yes")
    with pytest.raises(ValueError, match="beta_2"):
        training_optimizer(variables, beta_2=1.0)
    with pytest.raises(ValueError, match="weight_decay"):
        training_optimizer(variables, weight_decay=-0.1)


def test_bfloat16_keeps_weights_and_loss_in_float32():
    losses = {}
    for dtype in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        fields = {"hidden_dim": 8, "dtype": dtype, **FIELDS}
        backbone = GPTBackbone.from_size("gpt_nano", **fields)
        optimizer = training_optimizer(backbone.trainable_variables, learning_rate=0.01)
        train_step = make_train_step(backbone, optimizer=optimizer)
        metrics = [train_step(ExampleBatch(_batch())) for _ in range(10)]
        losses[dtype] = [float(one.loss) for one in metrics]
        assert metrics[0].loss.dtype == tf.float32
        assert {v.dtype for v in backbone.trainable_variables} == {"float32"}
    np.testing.assert_allclose(*losses.values(), atol=0.02)
    assert losses["float32"] != losses["mixed_bfloat16"]
