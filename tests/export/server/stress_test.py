"""Many clients at once, some of them rude: no wrong answer, no leak, a clean end."""

import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

NUM_REQUESTS = 2000
NUM_CLIENTS = 16
SETTLED = 500  # requests after which memory is flat
MOST_GROWTH = 24  # MB; allocators keep what they have been given
LONG = 30_000  # rounds of a request that takes a while


@pytest.fixture
def process(toy):
    """The tool, serving the toy; its addresses are attributes."""
    command = [sys.executable, "-m", "keras_gpt.tools.serve", f"--model={toy}"]
    command += ["--port=0", "--rest_api_port=0", "--grace_seconds=20"]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            line = running.stdout.readline()
            found = re.fullmatch(
                r"serving: gRPC at (\S+), REST at http://(\S+)\n", line
            )
            assert found, line + running.stderr.read()
            running.grpc_address, running.rest_address = found.groups()
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def memory(process):
    """Resident megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


class Client:
    """Sends requests of all kinds, and counts answers that are wrong."""

    def __init__(self, process, make_request):
        self._process = process
        self._make = make_request
        self._channel = grpc.insecure_channel(process.grpc_address)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self.wrong = []
        self.kinds = {}

    def send(self, number):
        kind = ("grpc", "rest", "bad", "late", "cancelled", "malformed", "gone")
        chosen = random.Random(number).choices(kind, (6, 6, 2, 1, 1, 2, 1))[0]  # noqa: S311
        self.kinds[chosen] = self.kinds.get(chosen, 0) + 1
        try:
            fault = getattr(self, f"_{chosen}")(number)
        except Exception as error:
            fault = repr(error)
        if fault:
            self.wrong.append((chosen, number, fault))

    def _grpc(self, number):
        x = np.arange(number % 5 + 1, dtype=np.float32) + number
        request = self._make("gpt", "double", x=x)
        y = tf.make_ndarray(self._stub.Predict(request, timeout=60).outputs["y"])
        return None if y.tolist() == (2 * x).tolist() else y.tolist()

    def _rest(self, number):
        text = [f"text {number} {row}" for row in range(number % 3 + 1)]
        status, reply = self._post({"instances": text})
        want = {"predictions": [one.upper() for one in text]}
        return None if (status, reply) == (200, want) else (status, reply)

    def _bad(self, number):
        x = np.array([-1.0 - number], np.float32)
        return self._code(self._make("gpt", "picky", x=x), "INVALID_ARGUMENT", 60)

    def _late(self, number):
        request = self._make("gpt", "slow", rounds=np.array([LONG], np.int32))
        return self._code(request, "DEADLINE_EXCEEDED", 0.001)

    def _cancelled(self, number):
        request = self._make("gpt", "slow", rounds=np.array([LONG], np.int32))
        self._stub.Predict.future(request, timeout=60).cancel()

    def _malformed(self, number):
        body = (b"{", b"", b'{"instances": 1}', b"\xff" * 2000)[number % 4]
        status, reply = self._post(body)
        return None if status == 400 and "error" in reply else (status, reply)

    def _gone(self, number):
        connection = http.client.HTTPConnection(self._process.rest_address, timeout=60)
        body = {"signature_name": "slow", "instances": [LONG]}
        connection.request("POST", "/v1/models/gpt:predict", json.dumps(body))
        connection.close()

    def _code(self, request, code, timeout):
        try:
            self._stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            return None if error.code().name == code else error
        return "there was an answer"

    def _post(self, body):
        connection = http.client.HTTPConnection(self._process.rest_address, timeout=60)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body)
            connection.request("POST", "/v1/models/gpt:predict", data)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.mark.slow
def test_two_thousand_mixed_requests_of_sixteen_clients(process, make_request):
    client = Client(process, make_request)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(client.send, range(SETTLED)))
        settled = memory(process)
        list(pool.map(client.send, range(SETTLED, NUM_REQUESTS)))
    assert client.wrong == []
    assert sum(client.kinds.values()) == NUM_REQUESTS
    assert min(client.kinds.values()) > 50
    assert memory(process) - settled < MOST_GROWTH
    connection = http.client.HTTPConnection(process.rest_address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    assert "keras_gpt_queued_rows 0.0" in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.slow
def test_it_ends_cleanly_under_load(process, make_request):
    client = Client(process, make_request)
    is_over, answered = threading.Event(), threading.Event()

    def go_on(number):
        while not is_over.is_set():
            request = make_request("gpt", "double", x=np.ones([2], np.float32))
            try:
                response = client._stub.Predict(request, timeout=60)
            except grpc.RpcError as error:
                return error.code().name
            y = tf.make_ndarray(response.outputs["y"]).tolist()
            assert y == [2.0, 2.0]
            answered.set()
        return "never told"

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        found = [pool.submit(go_on, number) for number in range(NUM_CLIENTS)]
        assert answered.wait(60)
        process.send_signal(signal.SIGTERM)
        code = process.wait(40)
        is_over.set()
        ends = {one.result() for one in found}
    assert code == 0
    assert ends <= {"UNAVAILABLE", "CANCELLED"}
    assert process.stderr.read() == ""
