"""The server: both APIs over one model, from start to a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from keras_gpt.export.server.batcher import Batcher
from keras_gpt.export.server.grpc_api import ModelService, PredictionService
from keras_gpt.export.server.metrics import Metrics
from keras_gpt.export.server.options import ServerOptions
from keras_gpt.export.server.rest_api import RestApi
from keras_gpt.export.server.service import Service
from keras_gpt.export.server.versions import Versions

UNLIMITED = -1


class Server:
    """Serves the newest version in a folder over gRPC and HTTP.

    Args:
        path: folder with version folders, or one of them.
        options: `ServerOptions`. Defaults to those of a new one.

    Attributes:
        grpc_address: string `host:port`, once it runs.
        rest_url: string `http://host:port`, once it runs.

    Raises:
        FileNotFoundError: on start, if there is no model in the folder.
        OSError: on start, if a port cannot be had.
        RuntimeError: on start, if no version can be loaded.

    Example:
        >>> with Server("served", ServerOptions(port=0, rest_api_port=0)) as server:
        ...     GPTClient(server.grpc_address).generate("Once upon a time")
    """

    def __init__(
        self, path: str | os.PathLike[str], options: ServerOptions | None = None
    ) -> None:
        self.options = options or ServerOptions()
        self.grpc_address = ""
        self.rest_url = ""
        self._path = Path(path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None

    async def run(
        self, *, stop: asyncio.Event, is_ready: Callable[[], None] = lambda: None
    ) -> bool:
        """Serves until it is told to stop.

        Args:
            stop: event that ends it: what runs has `grace_seconds` to end.
            is_ready: function to call once it serves. Optional.

        Returns:
            whether all that ran has ended, and nothing is being loaded.
        """
        metrics = Metrics()
        batcher = Batcher(self.options, metrics)
        versions = Versions(self._path, self.options, metrics)
        service = Service(self.options, metrics, versions, batcher)
        try:
            with self._socket() as rest_socket:
                if await _ends_before(stop, versions.start()):
                    await self._serve(service, rest_socket, stop, is_ready)
        finally:
            batcher.close()
            versions.close(is_idle=batcher.is_idle)
        return batcher.is_idle and not versions.is_loading

    async def _serve(
        self,
        service: Service,
        rest_socket: socket.socket,
        stop: asyncio.Event,
        is_ready: Callable[[], None],
    ) -> None:
        grpc_server = self._grpc_server(service)
        await grpc_server.start()
        rest_server = _RestServer(
            uvicorn.Config(
                RestApi(service).app,
                log_level="error",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=max(int(self.options.grace_seconds), 1),
            )
        )
        host, port = rest_socket.getsockname()[:2]
        self.rest_url = f"http://{_in_url(host)}:{port}"
        serving = asyncio.create_task(rest_server.serve(sockets=[rest_socket]))
        watching = asyncio.create_task(service.versions.watch())
        try:
            while not rest_server.started and not serving.done():
                await asyncio.sleep(0.005)
            is_ready()
            await stop.wait()
        finally:
            watching.cancel()
            rest_server.should_exit = True
            # Both at the same time, so that there is one grace.
            await asyncio.gather(
                grpc_server.stop(self.options.grace_seconds),
                serving,
                return_exceptions=True,
            )

    def _socket(self) -> socket.socket:
        """Binds the port of HTTP."""
        options = self.options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            return socket.create_server(
                (options.host, options.rest_api_port), family=family
            )
        except OSError as error:
            raise OSError(
                f"rest_api_port must be free at {options.host}, "
                f"got {options.rest_api_port}: {error.strerror}"
            ) from error

    def _grpc_server(self, service: Service) -> grpc.aio.Server:
        options = self.options
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_request_bytes),
                ("grpc.max_send_message_length", UNLIMITED),
                ("grpc.so_reuseport", 0),
            ]
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(service), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(service), server
        )
        host = _in_url(options.host)
        try:
            port = server.add_insecure_port(f"{host}:{options.port}")
        except RuntimeError as error:
            raise OSError(
                f"port must be free at {options.host}, got {options.port}."
            ) from error
        self.grpc_address = f"{host}:{port}"
        return server

    def __enter__(self) -> Server:
        """Starts it in a thread of its own, and waits until it serves."""
        self._thread = threading.Thread(target=self._run_in_thread, daemon=True)
        self._thread.start()
        self._is_ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops it, and waits until what ran has ended or its grace is over."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    def _run_in_thread(self) -> None:
        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self.run(stop=self._stop, is_ready=self._is_ready.set)

        try:
            asyncio.run(run())
        except BaseException as error:
            self._failure = error
        finally:
            self._is_ready.set()


class _RestServer(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


async def _ends_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Awaits work, which is left if it is time to stop; returns whether it ended."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        return False
    working.result()
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
