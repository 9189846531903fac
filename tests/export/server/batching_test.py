"""Requests that wait together run together, and fail apart."""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.export.server import Server


def arrays(response):
    return {name: tf.make_ndarray(x) for name, x in response.outputs.items()}


@pytest.fixture
def patient(toy, options):
    """A server that waits long for others, with one thread to run batches."""
    made = options(
        batch_timeout_ms=500.0, max_batch_rows=4, num_batch_threads=1,
        max_queued_rows=64,
    )  # fmt: skip
    with Server(toy, made) as server:
        yield server


def at_once(work, items):
    """Calls a function with each item, all at the same time."""
    barrier = threading.Barrier(len(items))

    def run(item):
        barrier.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(run, items))


def test_requests_are_joined_and_each_gets_its_own(patient, stub_of, make_request):
    stub = stub_of(patient)

    def ask(x):
        request = make_request("gpt", "double", x=np.array(x, np.float32))
        return arrays(stub.Predict(request, timeout=60))

    given = [[1.0], [2.0, 3.0], [4.0]]
    answers = at_once(ask, given)
    for x, answer in zip(given, answers, strict=True):
        assert answer["y"].tolist() == [2.0 * value for value in x]
        assert answer["rows"].tolist() == [4] * len(x)  # all of them ran as one


def test_other_shapes_are_not_joined(patient, stub_of, make_request):
    stub = stub_of(patient)

    def ask(width):
        x = np.ones([1, width], np.int32)
        return arrays(stub.Predict(make_request("gpt", "scaled", x=x), timeout=60))

    answers = at_once(ask, [1, 2, 3])
    assert [answer["y"].tolist() for answer in answers] == [[[3]], [[3, 3]], [[3] * 3]]


def test_a_bad_request_fails_alone(patient, stub_of, make_request):
    stub = stub_of(patient)

    def ask(value):
        request = make_request("gpt", "picky", x=np.array([value], np.float32))
        try:
            return arrays(stub.Predict(request, timeout=60))["y"].tolist()
        except grpc.RpcError as error:
            return error.code().name

    assert at_once(ask, [4.0, -1.0, 9.0]) == [[2.0], "INVALID_ARGUMENT", [3.0]]


@pytest.fixture
def waiting_room(toy, options):
    """A server where requests wait for a minute before they run."""
    made = options(batch_timeout_ms=60_000.0, max_queued_rows=2, max_rows_per_request=2)
    with Server(toy, made) as server:
        yield server


def wait_for(server, ask, line):
    until = time.monotonic() + 60
    while line not in ask(server, "/metrics")[2]:
        assert time.monotonic() < until, line


def test_late_and_cancelled_requests_never_run(
    waiting_room, stub_of, make_request, ask
):
    stub = stub_of(waiting_room)
    request = make_request("gpt", "double", x=np.ones([1], np.float32))
    gone = stub.Predict.future(request, timeout=60)
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 1.0")
    gone.cancel()
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 0.0")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 0.0")
    connection = http.client.HTTPConnection(urlsplit(waiting_room.rest_url).netloc)
    body = json.dumps({"signature_name": "double", "instances": [1.0]})
    connection.request("POST", "/v1/models/gpt:predict", body)
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 1.0")
    connection.close()
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 0.0")
    assert "keras_gpt_batch_rows_count{" not in ask(waiting_room, "/metrics")[2]


def test_a_batch_that_nobody_awaits_is_ended(patient, stub_of, make_request):
    stub = stub_of(patient)  # its only thread must be free again
    forever = make_request("gpt", "slow", rounds=np.array([2**31 - 1], np.int32))

    def ask(timeout):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(forever, timeout=timeout)
        return caught.value.code().name

    assert at_once(ask, [1.0, 2.0]) == ["DEADLINE_EXCEEDED"] * 2
    request = make_request("gpt", "double", x=np.ones([1], np.float32))
    assert arrays(stub.Predict(request, timeout=20))["y"].tolist() == [2.0]


def test_a_full_queue_turns_requests_away(waiting_room, stub_of, make_request, ask):
    stub = stub_of(waiting_room)
    x = np.ones([2], np.float32)
    waiting = stub.Predict.future(make_request("gpt", "double", x=x), timeout=60)
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 2.0")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(make_request("gpt", "double", x=x[:1]), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "2 of at most 2 rows are waiting" in caught.value.details()
    status, headers, text = ask(
        waiting_room, "/v1/models/gpt:predict", {"instances": ["x"]}
    )
    assert status == 503
    assert headers["retry-after"] == "1"
    assert "try later" in json.loads(text)["error"]
    waiting.cancel()
    wait_for(waiting_room, ask, "keras_gpt_queued_rows 0.0")


def test_bytes_beyond_the_limit_are_refused(toy, options, stub_of, make_request, ask):
    with Server(toy, options(max_request_bytes=10_000)) as server:
        stub = stub_of(server)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(make_request("gpt", "", text=[b"x" * 20_000]), timeout=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        body = {"instances": ["x" * 20_000]}
        status, _, text = ask(server, "/v1/models/gpt:predict", body)
        assert status == 413
        assert "body must have at most 10000 bytes" in json.loads(text)["error"]
        status, _, _ = ask(server, "/v1/models/gpt:predict", {"instances": ["x"]})
        assert status == 200
