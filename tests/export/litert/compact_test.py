"""A file that says the same in fewer bytes."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_gpt.export.litert.compact import compact
from keras_gpt.export.litert.convert import convert


def _converted(function, *, shape):
    """Returns a file of a function of float32, as the converter makes it."""
    spec = tf.TensorSpec(shape, tf.float32, name="x")
    concrete = tf.function(function, autograph=False).get_concrete_function(x=spec)
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [concrete], tf.Module()
    ).convert()


def _run(data, x):
    interpreter = Interpreter(model_content=data)
    (given,) = interpreter.get_input_details()
    (taken,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(taken["index"])


def _num_ops(data):
    model = flatbuffer_utils.read_model_from_bytearray(data)
    return sum(len(graph.operators) for graph in model.subgraphs)


@pytest.mark.parametrize(
    ("function", "num_dropped"),
    [
        (lambda x: x[:, None] * x + 1.0, 1),
        (lambda x: x[:, None], 0),  # the output needs a tensor of its own
        (lambda x: x[::-1] * 2.0 + x, 0),  # of the same shape, and no copy
        (lambda x: x[1:] * 2.0, 0),
    ],
)
@pytest.mark.parametrize("length", [3, None])
def test_slices_that_take_all_are_dropped(function, num_dropped, length):
    data = _converted(function, shape=[length])
    smaller = compact(data)
    if length is not None:  # where it is known while converting
        assert _num_ops(data) - _num_ops(smaller) == num_dropped
    for size in (length,) if length else (1, 2, 5):
        x = np.arange(1.0, size + 1, dtype=np.float32)
        np.testing.assert_array_equal(_run(smaller, x), function(tf.constant(x)))


def _loop(x, *, scale):
    """Returns what a loop and a branch make of a matrix."""
    weights = scale * tf.reshape(tf.range(64.0), [8, 8])

    def step(index, x):
        grown = tf.cond(index > 1, lambda: tf.nn.relu(x), lambda: x[:, ::-1])
        return index + 1, tf.matmul(grown, weights) + tf.nn.softmax(x)

    return tf.while_loop(lambda index, _: index < 4, step, (0, x))[1]


def test_signatures_that_do_the_same_are_written_once():
    spec = tf.TensorSpec([2, 8], tf.float32)
    names = [f"f{number}" for number in range(5)]
    scales = dict.fromkeys(names, 0.1) | {"f4": -0.1}

    def made(names):
        return convert(
            {
                name: tf.function(
                    lambda x, name=name: {"y": _loop(x, scale=scales[name])}
                ).get_concrete_function(x=spec)
                for name in names
            },
            variables=[],
        )

    sizes = [len(made(names[:count])) for count in (1, 4, 5)]
    assert sizes[1] - sizes[0] < sizes[0] / 2
    assert sizes[2] - sizes[1] > 64 * 4  # other weights
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    interpreter = Interpreter(model_content=made(names))
    for name in names:
        run = interpreter.get_signature_runner(name)
        np.testing.assert_allclose(
            run(x=x)["y"], _loop(tf.constant(x), scale=scales[name]), rtol=1e-5
        )


def test_the_first_graph_has_ops():
    # Of a signature without, LiteRT's interpreter concludes that none is for XNNPACK.
    spec = tf.TensorSpec([3], tf.float32)
    data = convert(
        {
            "a": tf.function(lambda: {"y": tf.constant([1.0])}).get_concrete_function(),
            "b": tf.function(lambda x: {"y": x + 2.0}).get_concrete_function(x=spec),
        },
        variables=[],
    )
    graphs = flatbuffer_utils.read_model_from_bytearray(data).subgraphs
    assert [len(graph.operators or ()) for graph in graphs] == [1, 0]
    interpreter = Interpreter(model_content=data)
    assert interpreter.get_signature_runner("a")()["y"] == [1.0]
    found = interpreter.get_signature_runner("b")(x=np.zeros(3, np.float32))
    np.testing.assert_array_equal(found["y"], 3 * [2.0])


def test_only_what_goes_in_and_out_has_a_name():
    data = _converted(lambda x: tf.exp(x * 2.0) + x, shape=[3])
    smaller = compact(data)
    assert len(smaller) < len(data)
    assert compact(smaller) == smaller
    graph = flatbuffer_utils.read_model_from_bytearray(smaller).subgraphs[0]
    named = {number for number, t in enumerate(graph.tensors) if t.name}
    assert named == {*graph.inputs, *graph.outputs}
    assert len(graph.tensors) == 5
