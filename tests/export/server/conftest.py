"""A toy SavedModel with a signature for each thing that a server may meet."""

import http.client
import json
from urllib.parse import urlsplit

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

THREE = tf.constant([3], tf.int32)  # the default of an input


def write_toy(folder, *, factor=2.0, warm_up=()):
    """Writes a version folder; `warm_up` are values of `x` for `double`."""
    module = tf.Module()
    module.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def shout(text):
        return {"generated_text": tf.strings.upper(text, encoding="utf-8")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def double(x):
        return {"y": module.factor * x, "rows": tf.fill(tf.shape(x), tf.size(x))}

    x = tf.TensorSpec([None, None], tf.int32, name="x")

    @tf.function(input_signature=[x, tf.TensorSpec([None], tf.int32, name="scale")])
    def scaled(x, scale=THREE):
        return {"y": x * scale[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def picky(x):
        is_good = tf.debugging.assert_non_negative(x, message="x must be good")
        with tf.control_dependencies([is_good]):
            return {"y": tf.sqrt(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="rounds")])
    def slow(rounds):
        _, y = tf.while_loop(
            lambda i, y: i < tf.reduce_max(rounds),
            lambda i, y: (i + 1, y + 1),
            (0, tf.zeros_like(rounds)),
        )
        return {"y": y}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def flat(x):
        return {"y": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="data")])
    def echo(data):
        return {"data_bytes": data, "size": tf.strings.length(data)}

    signatures = dict(serving_default=shout, double=double, scaled=scaled, picky=picky)
    signatures |= dict(slow=slow, flat=flat, echo=echo)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    if warm_up:
        path = folder / "assets.extra" / "tf_serving_warmup_requests"
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for value in warm_up:
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request_of("gpt", "double", x=value))
                writer.write(log.SerializeToString())
    return folder


def request_of(model, signature, **inputs):
    """A PredictRequest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


@pytest.fixture(scope="session")
def make_toy():
    return write_toy


@pytest.fixture(scope="session")
def make_request():
    return request_of


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Folder of the toy's versions: 1."""
    folder = tmp_path_factory.mktemp("toy") / "model"
    write_toy(folder / "1", warm_up=[[1.0], [2.0, 3.0]])
    return folder


@pytest.fixture(scope="session")
def options():
    """Options of a server on free ports."""
    from keras_gpt.export.server import ServerOptions

    def make(**fields):
        return ServerOptions(**{"port": 0, "rest_api_port": 0, **fields})

    return make


@pytest.fixture(scope="module")
def server(toy, options):
    """A server of the toy."""
    from keras_gpt.export.server import Server

    with Server(toy, options()) as running:
        yield running


@pytest.fixture(scope="session")
def stub_of():
    """The official stub on a server."""
    channels = []

    def make(server, **kwargs):
        limits = [("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(server.grpc_address, options=limits)
        channels.append(channel)
        return prediction_service_pb2_grpc.PredictionServiceStub(channel)

    yield make
    for channel in channels:
        channel.close()


@pytest.fixture(scope="session")
def ask():
    """Sends an HTTP request; returns status, headers and the JSON that came."""

    def send(server, path, body=None, *, method=None, headers=None):
        connection = http.client.HTTPConnection(
            urlsplit(server.rest_url).netloc, timeout=60
        )
        try:
            data = body
            if body is not None and not isinstance(body, bytes):
                data = json.dumps(body).encode()
            method = method or ("GET" if body is None else "POST")
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, dict(response.headers), text
        finally:
            connection.close()

    return send
