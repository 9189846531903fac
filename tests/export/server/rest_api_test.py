"""The REST API: TF Serving's paths and JSON."""

import base64
import json
import socket
import time
from urllib.parse import urlsplit

import pytest

PREDICT = "/v1/models/gpt:predict"


def test_rows_and_columns(server, ask):
    status, _, text = ask(server, PREDICT, {"instances": ["abc", "d"]})
    assert (status, json.loads(text)) == (200, {"predictions": ["ABC", "D"]})
    _, _, text = ask(server, PREDICT, {"instances": [{"text": "abc"}]})
    assert json.loads(text) == {"predictions": ["ABC"]}
    _, _, text = ask(server, PREDICT, {"inputs": ["abc"]})
    assert json.loads(text) == {"outputs": ["ABC"]}
    _, _, text = ask(server, PREDICT, {"inputs": {"text": ["abc"]}})
    assert json.loads(text) == {"outputs": ["ABC"]}


def test_several_outputs_are_named(server, ask):
    body = {"signature_name": "double", "inputs": {"x": [1, 2.5]}}
    _, _, text = ask(server, "/v1/models/gpt/versions/1:predict", body)
    outputs = json.loads(text)["outputs"]
    assert outputs["y"] == [2.0, 5.0]
    assert len(outputs["rows"]) == 2
    rows = {"signature_name": "double", "instances": [{"x": 1.0}, {"x": 2.5}]}
    _, _, text = ask(server, PREDICT, rows)
    assert [row["y"] for row in json.loads(text)["predictions"]] == [2.0, 5.0]


def test_inputs_with_defaults_may_be_left_out(server, ask):
    body = {"signature_name": "scaled", "instances": [[1, 2], [3, 4]]}
    _, _, text = ask(server, PREDICT, body)
    assert json.loads(text) == {"predictions": [[3, 6], [9, 12]]}


def test_bytes_are_base64_both_ways(server, ask):
    data = b"\xff\x00\xfe"
    body = {
        "signature_name": "echo",
        "instances": [{"b64": base64.b64encode(data).decode()}],
    }
    _, _, text = ask(server, PREDICT, body)
    (row,) = json.loads(text)["predictions"]
    assert base64.b64decode(row["data_bytes"]["b64"]) == data
    assert row["size"] == 3


def test_numbers_keep_every_bit_and_may_be_no_numbers(server, ask):
    body = {"signature_name": "double", "inputs": {"x": [0.1, 3e38, -0.0]}}
    _, _, text = ask(server, PREDICT, body)
    y = json.loads(text)["outputs"]["y"]
    assert y[0] == 0.20000000298023224
    assert y[1] == float("inf")  # written as TF Serving writes it
    assert str(y[2]) == "-0.0"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "body must be JSON"),
        (b"\xff\xfe", 400, "body must be JSON"),
        (b"[" * 100_000, 400, "body must be JSON"),
        ([1], 400, "body must be a JSON object, got list"),
        ({}, 400, "body must have either instances or inputs"),
        ({"inputs": [""], "instances": [""]}, 400, "either instances or inputs"),
        ({"inputs": [""], "more": 1}, 400, "body must have fields of"),
        ({"inputs": [""], "signature_name": 1}, 400, "signature_name must be a string"),
        ({"inputs": [""], "signature_name": "no"}, 400, "signature must be of double"),
        ({"instances": []}, 400, "instances must be a list of rows"),
        ({"instances": [{"text": "a"}, {"x": 1}]}, 400, "instances must all have"),
        ({"instances": [1]}, 400, "input 'text' must be string [B], each row alike"),
        ({"instances": ["a", ["b"]]}, 400, "input 'text' must be string [B]"),
        ({"inputs": {"z": [1]}}, 400, "must be of text, got z"),
        ({"inputs": {"x": ["1"]}, "signature_name": "double"}, 400, "'x' must be"),
        ({"inputs": {"x": [1, True]}, "signature_name": "double"}, 400, "[1, true]"),
        ({"inputs": {"x": [[2, 1], [False, 1]]}, "signature_name": "scaled"}, 400,
         "got [[2, 1], [false, 1]]"),
        ({"inputs": {"x": [1e39]}, "signature_name": "double"}, 400, "'x' must be"),
        ({"inputs": {"x": [[1.5]]}, "signature_name": "scaled"}, 400, "got [[1.5]]."),
        ({"inputs": {"x": [[2**40]]}, "signature_name": "scaled"}, 400, "be int32"),
        ({"inputs": {"x": [[1], [1, 2]]}, "signature_name": "scaled"}, 400, "alike"),
        ({"inputs": [{"b64": "?"}]}, 400, "no base64"),
        ({"inputs": {"x": [-1.0]}, "signature_name": "picky"}, 400, "x must be good"),
        ({"inputs": {"x": [1.0] * 2}, "signature_name": "flat"}, 500, "output 'y'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_bodies_have_one_line_and_a_status(server, ask, body, status, message):
    found, _, text = ask(server, PREDICT, body)
    error = json.loads(text)["error"]
    assert found == status, error
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("depth", [31, 33, 64, 65, 500, 900, 1100])
@pytest.mark.parametrize("kind", ["string", "float32", "instances", "signature_name"])
def test_deep_bodies_are_refused(server, ask, depth, kind):
    leaf = b"1" if kind == "float32" else b'"a"'
    deep = b"[" * depth + leaf + b"]" * depth
    body = {
        "string": b'{"inputs": {"text": %b}}',
        "float32": b'{"inputs": {"x": %b}, "signature_name": "double"}',
        "instances": b'{"instances": [{"text": "a"}, %b]}',
        "signature_name": b'{"inputs": "a", "signature_name": %b}',
    }[kind]
    status, _, text = ask(server, PREDICT, body % deep)
    error = json.loads(text)["error"]
    assert status == 400, error
    assert error.startswith(("input ", "instances ", "signature_name ", "body ")), error


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/models/other:predict", "POST", 404),
        ("/v1/models/gpt/versions/9:predict", "POST", 404),
        ("/v1/models/gpt:classify", "POST", 404),
        ("/v1/models/gpt", "POST", 404),
        ("/v1/models/gpt:predict", "GET", 405),
        ("/v1/models/gpt:predict", "DELETE", 405),
        ("/v1/models/other", "GET", 404),
        ("/v2/models/gpt", "GET", 404),
    ],
)
def test_paths_that_are_none(server, ask, path, method, status):
    body = {"instances": ["x"]} if method == "POST" else None
    found, _, text = ask(server, path, body, method=method)
    assert found == status
    assert json.loads(text)["error"]


def test_status_and_metadata(server, ask):
    _, _, text = ask(server, "/v1/models/gpt")
    assert json.loads(text) == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    _, _, text = ask(server, "/v1/models/gpt/versions/1/metadata")
    told = json.loads(text)
    assert told["model_spec"] == {"name": "gpt", "signature_name": "", "version": "1"}
    signatures = told["metadata"]["signature_def"]["signature_def"]
    assert signatures["double"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def counted(server, ask, code):
    """How many requests ended so before their signature was known."""
    kind = f'api="rest",signature="",status="{code}"'
    lines = ask(server, "/metrics")[2].splitlines()
    found = [x for x in lines if x.startswith(f"keras_gpt_requests_total{{{kind}}}")]
    return float(found[0].split()[-1]) if found else 0.0


def test_bodies_that_are_none_are_counted(server, ask):
    before = counted(server, ask, "INVALID_ARGUMENT")
    for body in (b"{", b"[]", {"inputs": [""], "instances": [""]}):
        ask(server, PREDICT, body)
    assert counted(server, ask, "INVALID_ARGUMENT") == before + 3
    before = counted(server, ask, "RESOURCE_EXHAUSTED")
    ask(server, PREDICT, b"{}", headers={"Content-Length": str(2**40)})
    assert counted(server, ask, "RESOURCE_EXHAUSTED") == before + 1


def test_a_client_that_leaves_within_its_body_is_counted(server, ask):
    before = counted(server, ask, "CANCELLED")
    address = urlsplit(server.rest_url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"{")
    until = time.monotonic() + 60
    while counted(server, ask, "CANCELLED") == before:
        assert time.monotonic() < until
    assert counted(server, ask, "CANCELLED") == before + 1


def test_metrics_count_requests_and_rows(server, ask):
    ask(server, PREDICT, {"instances": ["x", "y"]})
    ask(server, PREDICT, {"instances": [1]})
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        status, headers, text = ask(server, path)
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
    good = (
        'keras_gpt_requests_total{api="rest",signature="serving_default",status="OK"}'
    )
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if "#" not in line)
    assert float(lines[good]) >= 1
    bad = good.replace('"OK"', '"INVALID_ARGUMENT"')
    assert float(lines[bad]) >= 1
    assert lines["keras_gpt_loaded_versions"] == "1.0"
    assert lines["keras_gpt_queued_rows"] == "0.0"
