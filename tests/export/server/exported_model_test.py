"""An exported model behind the server, asked by the client and by hand."""

import base64
import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tensorflow as tf

from keras_gpt.export.client import GPTClient, RowError
from keras_gpt.export.server import Server
from keras_gpt.export.server.loaded_model import LoadedModel

KNOBS = {"max_new_tokens": 20, "temperature": 1.0, "seed": 5}


@pytest.fixture(scope="module")
def gpt(exported, options):
    with Server(Path(exported).parent, options()) as server:
        yield server


@pytest.fixture(params=["grpc_address", "rest_url"])
def client(gpt, request):
    with GPTClient(getattr(gpt, request.param)) as client:
        yield client


def test_texts_scores_and_tokens_are_those_of_python(client, causal_lm, prompts):
    expected = causal_lm.generate(prompts, strip_prompt=True, **KNOBS)
    assert client.generate(prompts, **KNOBS) == expected
    rows = {"temperature": [0.0, 1.0, 0.5, 2.0], "stop_strings": [["e"], [], ["x"], []]}
    assert client.generate(
        prompts, max_new_tokens=20, seed=5, bad_words=["th"], **rows
    ) == causal_lm.generate(
        prompts, max_new_tokens=20, seed=5, bad_words=["th"], strip_prompt=True, **rows
    )
    for got, want in zip(client.score(prompts), causal_lm.score(prompts), strict=True):
        assert got.token_ids.tolist() == want.token_ids.tolist()
        assert got.total_log_prob == pytest.approx(want.total_log_prob, rel=1e-4)
    ids = client.tokenize("O my\n\nlord")
    assert client.detokenize(ids) == "O my\n\nlord"


def test_streams_join_to_one_generate(client, causal_lm):
    expected = causal_lm.generate("The king", strip_prompt=True, **KNOBS)
    pieces = list(client.stream("The king", tokens_per_call=3, **KNOBS))
    assert "".join(pieces) == expected
    assert len(pieces) > 3


def test_strings_of_a_state_are_kept_byte_by_byte(gpt, ask):
    stop = {"b64": base64.b64encode(b"\xe4\xb8").decode()}
    row = {"text": "The king", "stop_strings": [stop], "bad_words": ["th"]}
    body = {"signature_name": "prefill", "instances": [row]}
    _, _, text = ask(gpt, "/v1/models/gpt:predict", body)
    (state,) = json.loads(text)["predictions"]
    assert state["state_stop_strings_bytes"] == [stop]
    assert base64.b64decode(state["state_bad_words_bytes"][0]["b64"]) == b"th"


def test_bad_rows_are_told(client):
    with pytest.raises(RowError, match=r"inputs\[1\] must be shorter than"):
        client.generate(["The king", "word " * 300])
    with pytest.raises(ValueError, match="temperature"):
        client.generate("The king", temperature=-1.0)


def events(server, body):
    connection = http.client.HTTPConnection(
        urlsplit(server.rest_url).netloc, timeout=60
    )
    try:
        connection.request("POST", "/v1/models/gpt:stream", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            return response.status, json.loads(response.read())["error"]
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
        return 200, [
            json.loads(event.removeprefix("data: "))
            for event in text.split("\n\n")
            if event
        ]
    finally:
        connection.close()


def test_events_join_to_one_generate(gpt, causal_lm):
    body = {"inputs": {"text": "The king", **KNOBS}, "tokens_per_event": 6}
    status, found = events(gpt, body)
    assert status == 200
    assert "".join(event["text"] for event in found) == causal_lm.generate(
        "The king", strip_prompt=True, **KNOBS
    )
    assert [event["finish_reason"] for event in found] == ["", "", "", "length"]
    assert [len(event["token_ids"]) for event in found] == [6, 6, 6, 2]
    assert all(len(x["token_log_probs"]) == len(x["token_ids"]) for x in found)


def test_a_stream_takes_lists_and_tells_bad_rows(gpt, causal_lm):
    knobs = {**KNOBS, "stop_strings": ["e", "o"]}
    _, found = events(gpt, {"inputs": {"text": "The king", **knobs}})
    assert "".join(event["text"] for event in found) == causal_lm.generate(
        "The king", strip_prompt=True, **knobs
    )
    _, found = events(gpt, {"inputs": {"text": "word " * 300}})
    assert [event["finish_reason"] for event in found] == ["prompt_too_long"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs must be an object"),
        ({"inputs": {"text": "x"}, "tokens_per_event": 0}, "tokens_per_event must be"),
        ({"inputs": {"text": "x"}, "more": 1}, "body must have fields of"),
        ({"inputs": {"text": ["x"]}}, "input 'text' must be string"),
        ({"inputs": {"text": "x", "heat": 1}}, "got heat"),
    ],
)
def test_bad_streams_are_refused(gpt, body, message):
    status, error = events(gpt, body)
    assert status == 400
    assert message in error


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@contextlib.contextmanager
def opened(server, body):
    """A stream whose client leaves at the end of the block."""
    connection = http.client.HTTPConnection(
        urlsplit(server.rest_url).netloc, timeout=60
    )
    try:
        connection.request("POST", "/v1/models/gpt:stream", json.dumps(body))
        yield connection
    finally:
        connection.close()


def counted(server, ask):
    """Streams that have ended, by status."""
    start = 'keras_gpt_requests_total{api="stream",signature="prefill",status="'
    lines = ask(server, "/metrics")[2].splitlines()
    ends = [x.removeprefix(start).split('"} ') for x in lines if x.startswith(start)]
    return {status: float(count) for status, count in ends}


def test_streams_are_counted_by_their_end(exported, options, ask, monkeypatch):
    body = {"inputs": {"text": "The king", **KNOBS}}
    with Server(Path(exported).parent, options()) as server:
        events(server, body)
        wait_until(lambda: counted(server, ask) == {"OK": 1.0})
        run = LoadedModel.run

        def fail(self, signature, inputs, **kwargs):
            if signature.name == "decode":
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return run(self, signature, inputs, **kwargs)

        monkeypatch.setattr(LoadedModel, "run", fail)
        with opened(server, body) as connection:
            text = connection.getresponse().read().decode()
        assert text == 'event: error\ndata: {"error": "out of memory"}\n\n'
        wait_until(lambda: counted(server, ask).get("RESOURCE_EXHAUSTED") == 1.0)
        is_gone = threading.Event()

        def hang(self, signature, inputs, **kwargs):
            if signature.name == "decode":
                is_gone.wait(60)
            return run(self, signature, inputs, **kwargs)

        monkeypatch.setattr(LoadedModel, "run", hang)
        with opened(server, body) as connection:
            assert connection.getresponse().status == 200
        wait_until(lambda: counted(server, ask).get("CANCELLED") == 1.0)
        is_gone.set()
        assert len(counted(server, ask)) == 3


def test_a_client_that_leaves_before_the_first_event_leaves_the_queue(
    exported, options, ask
):
    made = options(batch_timeout_ms=60_000.0)
    with Server(Path(exported).parent, made) as server:

        def queued(count):
            return f"keras_gpt_queued_rows {count}" in ask(server, "/metrics")[2]

        with opened(server, {"inputs": {"text": "The king"}}):
            wait_until(lambda: queued(1.0))
        wait_until(lambda: queued(0.0))
        wait_until(lambda: counted(server, ask) == {"CANCELLED": 1.0})


def test_a_model_without_streams_says_so(server):
    status, error = events(server, {"inputs": {"text": "x"}})
    assert status == 400
    assert "must have the signatures prefill and decode to stream" in error
