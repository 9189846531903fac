"""Versions: the highest is served, a new one takes over, a broken one does not."""

import asyncio
import errno
import io
import json
import logging
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import uvicorn

from keras_gpt.export.server import Server, ServerOptions
from keras_gpt.export.server.loaded_model import LoadedModel


def double(server, stub_of, make_request, version=None):
    request = make_request("gpt", "double", x=np.ones([1], np.float32))
    if version:
        request.model_spec.version.value = version
    response = stub_of(server).Predict(request, timeout=60)
    (y,) = tf.make_ndarray(response.outputs["y"]).tolist()
    return response.model_spec.version.value, y


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_new_version_takes_over_and_goes_again(
    tmp_path, make_toy, options, stub_of, make_request, ask
):
    folder = tmp_path / "model"
    make_toy(folder / "1", factor=1.0)
    make_toy(tmp_path / "3", factor=3.0, warm_up=[[1.0]])
    (folder / ".writing-4-1").mkdir()
    with Server(folder, options(watch_seconds=0.05)) as server:
        assert double(server, stub_of, make_request) == (1, 1.0)
        (tmp_path / "3").rename(folder / "3")
        wait_until(lambda: double(server, stub_of, make_request) == (3, 3.0))
        assert double(server, stub_of, make_request, version=3) == (3, 3.0)
        # Broken: the one that is there goes on, and the status tells why.
        make_toy(tmp_path / "5", warm_up=[["no number"]])
        (tmp_path / "5").rename(folder / "5")
        wait_until(
            lambda: "warm-up record 0" in ask(server, "/v1/models/gpt/versions/5")[2]
        )
        assert double(server, stub_of, make_request) == (3, 3.0)
        shutil.rmtree(folder / "5")
        shutil.rmtree(folder / "3")
        wait_until(lambda: double(server, stub_of, make_request) == (1, 1.0))


def test_a_version_folder_may_be_given_itself(toy, options, stub_of, make_request):
    with Server(toy / "1", options(watch_seconds=0)) as server:
        assert double(server, stub_of, make_request) == (1, 2.0)


def test_the_highest_version_there_can_be_is_served(tmp_path, toy, options, ask):
    version = 2**63 - 1
    shutil.copytree(toy / "1", tmp_path / str(version))
    with Server(tmp_path, options()) as server:
        path = f"/v1/models/gpt/versions/{version}"
        status, _, text = ask(server, f"{path}:predict", {"instances": ["x"]})
        assert (status, json.loads(text)) == (200, {"predictions": ["X"]})
        for rest in ("", "/metadata"):
            assert ask(server, path + rest)[0] == 200
            status, _, text = ask(server, f"/v1/models/gpt/versions/{2**63}{rest}")
            assert status == 400
            assert f"version must be at most {version}, got {2**63}." in text


def test_limits_of_requests_are_none_of_the_warm_up(
    toy, options, stub_of, make_request
):
    limits = options(max_rows_per_request=1, max_request_bytes=100)
    with Server(toy, limits) as server:  # its records have two rows
        assert double(server, stub_of, make_request) == (1, 2.0)


def test_a_server_without_a_model_does_not_start(tmp_path, options):
    with pytest.raises(FileNotFoundError, match="model must be a folder with version"):
        Server(tmp_path / "absent", options()).__enter__()
    (tmp_path / "1").mkdir()
    (tmp_path / "1/saved_model.pb").write_bytes(b"broken")
    with pytest.raises(RuntimeError, match="no version in .* can be loaded"):
        Server(tmp_path, options()).__enter__()


def test_a_port_in_use_is_named(toy, options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"rest_api_port must be free.*{port}"):
            Server(toy, options(rest_api_port=port)).__enter__()
        with pytest.raises(OSError, match=f"port must be free at .*{port}"):
            Server(toy, options(port=port)).__enter__()


def test_ports_are_taken_before_the_load_and_open_after_it(toy, options, monkeypatch):
    seen = []

    def warm_up(self):
        for port in (server.options.port, server.options.rest_api_port):
            with socket.socket() as client:
                seen.append(client.connect_ex(("127.0.0.1", port)))

    monkeypatch.setattr(LoadedModel, "warm_up", warm_up)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("port", "rest_api_port"):
            with pytest.raises(OSError, match=f"^{name} must be free .*{port}"):
                Server(toy, options(**{name: port})).__enter__()
    assert seen == []  # no time was lost on loading
    with socket.create_server(("127.0.0.1", 0)) as one:
        with socket.create_server(("127.0.0.1", 0)) as other:
            ports = [free.getsockname()[1] for free in (one, other)]
    server = Server(toy, options(port=ports[0], rest_api_port=ports[1]))
    with server:
        assert seen == [errno.ECONNREFUSED] * 2
        assert server.grpc_address == f"127.0.0.1:{ports[0]}"
        with socket.create_connection(("127.0.0.1", ports[0])):
            pass
        with socket.create_connection(("127.0.0.1", ports[1])):
            pass


def test_a_server_can_be_used_again(toy, options, stub_of, make_request):
    server = Server(toy, options())
    for _ in range(2):
        with server:
            assert double(server, stub_of, make_request) == (1, 2.0)
    blocked = Server(toy / "absent", options())
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            blocked.__enter__()


@pytest.mark.parametrize("grace", [0, 0.25])
def test_what_waits_when_the_grace_is_over_is_told(
    toy, options, ask, monkeypatch, capfd, grace
):
    graces = []

    class Config(uvicorn.Config):
        def __init__(self, *args, **kwargs):
            graces.append(kwargs["timeout_graceful_shutdown"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(uvicorn, "Config", Config)
    made = options(batch_timeout_ms=60_000.0, grace_seconds=grace)
    with ThreadPoolExecutor() as pool:
        with Server(toy, made) as server:
            body = {"instances": ["x"]}
            waiting = pool.submit(ask, server, "/v1/models/gpt:predict", body)
            wait_until(lambda: "queued_rows 1.0" in ask(server, "/metrics")[2])
        status, _, text = waiting.result(60)
    assert status == 503
    assert "the server is stopping" in text
    assert graces == [grace]
    assert "Traceback" not in capfd.readouterr().err


def test_the_log_handlers_of_the_process_stay_open(toy, options):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    # As that of absl, which closes a stream that is standard output no more.
    handler.close = stream.close
    with Server(toy, options()):
        pass
    assert handler in [ref() for ref in logging._handlerList]
    assert not stream.closed


@pytest.mark.parametrize("is_first", [True, False])
def test_it_ends_while_a_version_loads(
    tmp_path, make_toy, options, monkeypatch, is_first
):
    make_toy(tmp_path / "1")
    is_loading, may_end = threading.Event(), threading.Event()

    def warm_up(self):
        if self.version == (1 if is_first else 2):
            is_loading.set()
            may_end.wait(60)

    async def run():
        stop, is_ready = asyncio.Event(), asyncio.Event()
        server = Server(tmp_path, options(watch_seconds=0.01))
        running = asyncio.create_task(server.run(stop=stop, is_ready=is_ready.set))
        if not is_first:
            await is_ready.wait()
            await asyncio.to_thread(make_toy, tmp_path / "2")
        assert await asyncio.to_thread(is_loading.wait, 60)
        stop.set()
        return await asyncio.wait_for(running, 20)

    monkeypatch.setattr(LoadedModel, "warm_up", warm_up)
    try:
        # False: the tool ends the process, whatever its threads do.
        assert asyncio.run(run()) is False
    finally:
        may_end.set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": -1}, "port must be an int from 0 to 65535, got -1"),
        ({"model_name": "a b"}, "model_name must be of letters"),
        ({"max_batch_rows": 0}, "max_batch_rows must be an int from 1, got 0"),
        ({"batch_timeout_ms": -1.0}, "batch_timeout_ms must be a number from 0"),
        ({"max_queued_rows": 1}, "max_queued_rows must be at least max_rows_per"),
        ({"host": ""}, "host must be an address"),
        ({"port": 9, "rest_api_port": 9}, "port and rest_api_port must differ, got 9"),
    ],
)
def test_bad_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ServerOptions(**fields)
