"""Servers of a toy model that keep TF Serving's rules and records."""

import base64
import concurrent.futures
import http.server
import json
import re
import runpy
import threading
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

VERSION = 7
toy_model = runpy.run_path(str(Path(__file__).with_name("toy_model.py")))


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The toy model as a SavedModel."""
    folder = tmp_path_factory.mktemp("toy") / str(VERSION)
    toy_model["save"](folder)
    return folder


class Request(NamedTuple):
    """What a server was asked."""

    kind: str  # "metadata", or the signature's name
    inputs: dict[str, np.ndarray]
    version: int | None
    seconds_left: float | None
    raw: Any


class Refusal(Exception):
    """An error that the toy server answers with."""

    def __init__(self, code, message, headers=()):
        super().__init__(message)
        self.code, self.headers = code, dict(headers)


class ToyBackend:
    """Runs a SavedModel by TF Serving's rules, with `--enable_batching`.

    `faults` holds refusals and functions; each request takes the first away.
    """

    def __init__(self, folder, *, with_defaults=True):
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        definitions = saved.meta_graphs[0].signature_def
        self.definitions = {n: d for n, d in definitions.items() if n[:2] != "__"}
        if not with_defaults:
            for definition in self.definitions.values():
                definition.defaults.clear()
        self._model = tf.saved_model.load(str(folder))
        self.requests, self.faults = [], []
        self.version = VERSION

    def note(self, *request):
        self.requests.append(Request(*request))
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Refusal):
                raise fault
            fault()

    def check(self, name, version):
        if name != "gpt":
            raise Refusal("NOT_FOUND", f"Servable not found for request: {name}")
        if version not in (None, self.version):
            raise Refusal("NOT_FOUND", f"Servable not found: {name} {version}")

    def run(self, signature, inputs):
        function = self._model.signatures[signature]
        expected = function.structured_input_signature[1]
        if set(inputs) - set(expected):
            raise Refusal("INVALID_ARGUMENT", "there are unknown inputs")
        missing = sorted(set(expected) - set(inputs))
        if missing:
            raise Refusal("INVALID_ARGUMENT", f"Missing named\ninput: {missing[0]}")
        if len({len(value) for value in inputs.values()}) != 1:
            raise Refusal("INVALID_ARGUMENT", "Batching input tensors must be equal")
        tensors = {
            name: tf.constant(value, expected[name].dtype)
            for name, value in inputs.items()
        }
        return {k: v.numpy() for k, v in function(**tensors).items()}

    def of(self, kind):
        return [request for request in self.requests if request.kind == kind]


class _Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, backend):
        self._backend = backend

    def Predict(self, request, context):  # noqa: N802
        return self._answer(request, context, self._predict)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._answer(request, context, self._metadata)

    def _answer(self, request, context, answer):
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        kind = spec.signature_name or "metadata"
        protos = getattr(request, "inputs", {})
        inputs = {name: tf.make_ndarray(proto) for name, proto in protos.items()}
        left = context.time_remaining()
        try:
            self._backend.note(kind, inputs, version, left, request)
            self._backend.check(spec.name, version)
            return answer(kind, inputs)
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.code], str(refusal))

    def _predict(self, kind, inputs):
        reply = predict_pb2.PredictResponse()
        for name, value in self._backend.run(kind, inputs).items():
            reply.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return reply

    def _metadata(self, kind, inputs):
        reply = get_model_metadata_pb2.GetModelMetadataResponse()
        reply.model_spec.name = "gpt"
        reply.model_spec.version.value = self._backend.version
        definitions = get_model_metadata_pb2.SignatureDefMap(
            signature_def=self._backend.definitions
        )
        reply.metadata["signature_def"].Pack(definitions)
        return reply


_HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503,
         "DEADLINE_EXCEEDED": 504, "INTERNAL": 500,
         "RESOURCE_EXHAUSTED": 413}  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        self._answer(None)

    def do_POST(self):  # noqa: N802
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *arguments):
        pass

    def _answer(self, body):
        backend, code, headers = self.server.backend, 200, {}
        match = re.fullmatch(
            r"/v1/models/(\w+)(?:/versions/(\d+))?(:predict|/metadata)", self.path
        )
        version = int(match[2]) if match[2] else None
        call = json.loads(body) if body else {}
        kind = call.get("signature_name", "metadata")
        inputs = {k: _array(v) for k, v in call.get("inputs", {}).items()}
        try:
            backend.note(kind, inputs, version, None, call)
            backend.check(match[1], version)
            if kind == "metadata":
                reply = self._metadata()
            else:
                reply = {"outputs": _json_of(backend.run(kind, inputs))}
        except Refusal as refusal:
            code, headers = _HTTP[refusal.code], refusal.headers
            reply = {"error": str(refusal)}
        # Like TF Serving, strings go out raw, even where they are no UTF-8.
        content = json.dumps(reply, ensure_ascii=False).encode(
            "utf-8", "surrogateescape"
        )
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _metadata(self):
        definitions = get_model_metadata_pb2.SignatureDefMap(
            signature_def=self.server.backend.definitions
        )
        told = json_format.MessageToDict(
            definitions,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        spec = {"name": "gpt", "version": str(self.server.backend.version)}
        return {"model_spec": spec, "metadata": {"signature_def": told}}


def _array(value):
    def plain(item):
        if isinstance(item, list):
            return [plain(part) for part in item]
        return base64.b64decode(item["b64"]) if isinstance(item, dict) else item

    flat = np.array(plain(value), object)
    return flat if flat.size and isinstance(flat.flat[0], bytes) else np.array(value)


def _json_of(outputs):
    def text(item):
        return item.decode("utf-8", "surrogateescape")

    def b64(item):
        return {"b64": base64.b64encode(item).decode()}

    def nested(value, write):
        if isinstance(value, list):
            return [nested(part, write) for part in value]
        return write(value)

    def column(name, value):
        if value.dtype.kind == "O":
            return nested(value.tolist(), b64 if name.endswith("_bytes") else text)
        if value.dtype.kind == "f":
            # The shortest digits that come back, as TF Serving writes them.
            return nested(value.tolist(), lambda number: float(str(np.float32(number))))
        return value.tolist()

    columns = {name: column(name, value) for name, value in outputs.items()}
    return columns if len(columns) > 1 else next(iter(columns.values()))


@pytest.fixture(scope="session")
def _toy_backend(toy_folder):
    return ToyBackend(toy_folder)


@pytest.fixture
def backend(_toy_backend):
    """The backend of the servers, with nothing recorded yet."""
    _toy_backend.requests.clear()
    _toy_backend.faults.clear()
    _toy_backend.version = VERSION
    return _toy_backend


def start_grpc(backend, port=0):
    """Starts a gRPC server, and returns it and its address."""
    pool = concurrent.futures.ThreadPoolExecutor(4)
    options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    server = grpc.server(pool, options=[*options, ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Servicer(backend), server
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture(scope="session")
def grpc_target(_toy_backend):
    """Address of the toy model over gRPC."""
    server, address = start_grpc(_toy_backend)
    yield address
    server.stop(None).wait(5)


def start_rest(backend, port=0):
    """Starts a REST server, and returns it and its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads, server.backend = True, backend
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="session")
def rest_target(_toy_backend):
    """URL of the toy model over REST."""
    server, url = start_rest(_toy_backend)
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["grpc", "rest"])
def target(request, grpc_target, rest_target):
    """Each of the two ways to the toy model."""
    return grpc_target if request.param == "grpc" else rest_target


@pytest.fixture
def refusal():
    """The class of refusals, for faults."""
    return Refusal


@pytest.fixture
def servers():
    """Starts servers of a backend that end with the test."""
    started = []

    def start(backend, *, kind="grpc", port=0):
        begin = start_grpc if kind == "grpc" else start_rest
        server, address = begin(backend, port)
        started.append(server)
        return address

    yield start
    for server in started:
        if isinstance(server, http.server.ThreadingHTTPServer):
            server.shutdown()
            server.server_close()
        else:
            server.stop(None).wait(5)


@pytest.fixture
def backend_of():
    """Makes a backend of another SavedModel."""
    return ToyBackend


@pytest.fixture
def expected_text():
    """Spells the toy's whole new text in plain Python."""

    def spell(text, **knobs):
        values = {"temperature": "0.750000", "top_k": 5, "truncate_prompt": "false",
                  "stop_strings": "|", "stop_token_ids": "-1", "logit_bias_ids": "-1",
                  "logit_bias_values": "0.000000"} | knobs  # fmt: skip
        order = ("temperature", "top_k", "seed", "truncate_prompt", "stop_strings",
                 "stop_token_ids", "logit_bias_ids", "logit_bias_values")  # fmt: skip
        return ";".join([text, *(str(values[name]) for name in order), "\u4e2d"])

    return spell
