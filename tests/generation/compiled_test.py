"""The decode loop in XLA: the same tokens, compiled for few shapes."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.generation import CompiledDecoder, Decoder, Prompts, Request, Stops
from keras_gpt.sampling.logits_processors import TokenRules


def request_of(settings, *, width, length):
    """Lists of `width` ids, and of as many sequences of up to `length` tokens."""
    rng = np.random.default_rng(width)
    ids = rng.choice(300, width, replace=False).astype(np.int32)[None]
    sequences = rng.integers(0, 300, (1, width, length)).astype(np.int32)
    sequences[:, ::2, :-1] = -1
    rules = TokenRules(
        bias_sequences=tf.constant(sequences),
        bias_values=tf.constant(rng.normal(size=(1, width)) * 5.0, tf.float32),
        bad_words=tf.constant(sequences[:, ::2]),
        allowed_tokens=tf.zeros([1, 0], tf.int32),
        suppressed_tokens=tf.constant(ids),
        begin_suppressed_tokens=tf.constant(ids),
    )
    return Request.of(settings, stops=Stops.at(ids[0, :2]), rules=rules)


@pytest.mark.parametrize("sizes", [[(3, 3), (4, 4)], [(5, 2), (8, 2)]], ids=str)
def test_lists_of_like_sizes_are_compiled_once(causal_lm, settings_of, sizes):
    backbone = causal_lm.backbone
    compiled, plain = CompiledDecoder(Decoder(backbone)), Decoder(backbone)
    prompts = Prompts.of(backbone, [[5, 6, 7], [9, 8, 1]], [3, 3])
    loop, shapes = compiled._loop, set()

    def watched(*arguments):
        flat = tf.nest.flatten(arguments)
        shapes.add(tuple(tuple(tensor.shape) for tensor in flat))
        return loop(*arguments)

    compiled._loop = watched
    for width, length in sizes:
        request = request_of(settings_of(2), width=width, length=length)
        got = compiled.generate(prompts, request)
        expected = plain.generate(prompts, request)
        assert got.token_ids.numpy().tolist() == expected.token_ids.numpy().tolist()
    assert len(shapes) == 1
