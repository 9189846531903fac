"""Blocks computed again in the backward pass: the same gradients, less kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.layers.dropout import StepNoise, step_noise
from keras_gpt.models import GPTBackbone
from keras_gpt.training import next_token_loss

WINDOWS = np.random.default_rng(0).integers(0, 64, [4, 17]).astype(np.int32)


def _backbone(**fields):
    keras.utils.set_random_seed(0)
    return GPTBackbone.from_size("gpt_nano", vocabulary_size=64, **fields)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("normalize_first", [False, True])
def test_the_same_loss_and_gradients(jit, normalize_first):
    backbone = _backbone(dropout=0.2, normalize_first=normalize_first)
    variables = [variable.value for variable in backbone.trainable_variables]

    @tf.function(jit_compile=jit)
    def gradients(remat):
        noise = StepNoise(seed=1, step=tf.constant(2), first_row=tf.constant(0))
        with tf.GradientTape() as tape, step_noise(noise):
            hidden = backbone.forward(WINDOWS[:, :-1], training=True, remat=remat)
            loss = next_token_loss(
                backbone.logits(hidden.hidden), targets=WINDOWS[:, 1:]
            )
        found = tape.gradient(loss, variables)
        return loss, [tf.convert_to_tensor(gradient) for gradient in found]

    plain_loss, plain = gradients(False)
    loss, again = gradients(True)
    assert float(loss) == pytest.approx(float(plain_loss), abs=1e-6)
    for variable, a, b in zip(variables, plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=variable.name)
        assert float(tf.reduce_max(tf.abs(a))) > 0.0


def test_noise_that_would_differ_is_refused():
    with pytest.raises(ValueError, match="remat must run within step_noise"):
        _backbone(dropout=0.2).forward(WINDOWS[:, :-1], training=True, remat=True)
    _backbone(dropout=0.2).forward(WINDOWS[:, :-1], training=False, remat=True)
    _backbone(dropout=0.0).forward(WINDOWS[:, :-1], training=True, remat=True)
