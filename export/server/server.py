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
            with (
                self._bound("port") as grpc_socket,
                self._bound("rest_api_port") as rest_socket,
            ):
                if await _ends_before(stop, versions.start()):
                    await self._serve(service, grpc_socket, rest_socket, stop, is_ready)
        finally:
            batcher.close()
            versions.close(is_idle=batcher.is_idle)
        return batcher.is_idle and not versions.is_loading

    async def _serve(
        self,
        service: Service,
        grpc_socket: socket.socket,
        rest_socket: socket.socket,
        stop: asyncio.Event,
        is_ready: Callable[[], None],
    ) -> None:
        port = grpc_socket.getsockname()[1]
        grpc_socket.close()  # gRPC binds its own
        grpc_server = self._grpc_server(service, port)
        await grpc_server.start()
        rest_server = _RestServer(
            uvicorn.Config(
                RestApi(service).app,
                log_config=None,  # which would close the process's own handlers
                log_level="error",
                access_log=False,
                lifespan="off",
                # Seconds for asyncio.wait_for, which takes fractions.
                timeout_graceful_shutdown=self.options.grace_seconds,  # type: ignore[arg-type]
            )
        )
        host, port = rest_socket.getsockname()[:2]
        self.rest_url = f"http://{_in_url(host)}:{port}"
        serving = asyncio.create_task(rest_server.serve(sockets=[rest_socket]))
        watching = asyncio.create_task(service.versions.watch())
        try:
            while not rest_server.started and not serving.done():
                await asyncio.sleep(0.005)
            if serving.done():
                serving.result()  # raises why
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

    def _bound(self, name: str) -> socket.socket:
        """Takes a port; clients are turned away until something listens there."""
        host, port = self.options.host, getattr(self.options, name)
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            # As servers do: an old connection must not keep a new server away.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
        except OSError as error:
            bound.close()
            raise OSError(
                f"{name} must be free at {host}, got {port}: {error.strerror}"
            ) from error
        return bound

    def _grpc_server(self, service: Service, port: int) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=[
                (
                    "grpc.max_receive_message_length",
                    self.options.max_request_bytes,
                ),
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
        self.grpc_address = f"{_in_url(self.options.host)}:{port}"
        server.add_insecure_port(self.grpc_address)
        return server

    def __enter__(self) -> Server:
        """Starts it in a thread of its own, and waits until it serves."""
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
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
