"""TF Serving's REST API."""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from keras_gpt.export.client import rest_json
from keras_gpt.export.client.errors import (
    DEADLINE_EXCEEDED,
    NOT_FOUND,
    UNAVAILABLE,
    ServingError,
)
from keras_gpt.export.client.transport import Arrays, Signature, Signatures

# What TF Serving's gRPC statuses are over HTTP, and what proxies add.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: NOT_FOUND,
    408: DEADLINE_EXCEEDED,
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
_AT_ONCE = 1 << 20  # bytes

Parsed = TypeVar("Parsed")


class RestTransport:
    """Calls a model over REST, each call on a connection of its own.

    Args:
        url: string. `http://host:port` or `https://host:port`, and a path if wanted.
        model_name: string.
        where: string. Which model and server, for messages.
    """

    def __init__(self, url: str, *, model_name: str, where: str) -> None:
        parts = urlsplit(url)
        is_secure = parts.scheme == "https"
        self._connect = (
            http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        )
        self._host, self._port = parts.hostname or "", parts.port
        self._path = f"{parts.path.rstrip('/')}/v1/models/{quote(model_name, safe='')}"
        self._where = where

    def signatures(self, *, version: int | None, timeout: float) -> Signatures:
        """Returns the signatures of the model by name."""
        return self._call(
            "GET",
            f"{self._versioned(version)}/metadata",
            None,
            timeout,
            lambda reply: rest_json.signatures_of(reply, version),
        )

    def predict(
        self, signature: Signature, inputs: Arrays, *, timeout: float
    ) -> Arrays:
        """Runs a signature."""
        end = time.monotonic() + timeout
        body = rest_json.request_body(signature, inputs)
        left = end - time.monotonic()
        if left <= 0.0:
            raise TimeoutError
        return self._call(
            "POST",
            f"{self._versioned(signature.version)}:predict",
            body,
            left,
            lambda reply: rest_json.outputs_of(signature, reply),
        )

    def close(self) -> None:
        """Has nothing to end: no connection outlives its call."""

    def _versioned(self, version: int | None) -> str:
        return self._path if version is None else f"{self._path}/versions/{version}"

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout: float,
        parse: Callable[[Any], Parsed],
    ) -> Parsed:
        try:
            response, content = self._exchange(method, path, body, timeout)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            message = f"{type(error).__name__}: {error}"
            raise ServingError(UNAVAILABLE, message, where=self._where) from error
        if response.status != 200:
            raise self._error(response, content)
        try:
            return parse(rest_json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServingError(
                "INTERNAL",
                f"the answer is not what TF Serving's REST API gives: {error!r}",
                where=self._where,
            ) from error

    def _exchange(
        self, method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        end = time.monotonic() + timeout
        connection = self._connect(self._host, self._port, timeout=timeout)
        connection.response_class = functools.partial(_Response, end=end)  # type: ignore[assignment]
        try:
            connection.connect()
            _limit(connection.sock, end)
            headers = {"Content-Type": "application/json", "Connection": "close"}
            try:
                connection.request(method, path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses a body by its size has answered already.
                pass
            response = connection.getresponse()
            content = b"".join(iter(lambda: response.read1(_AT_ONCE), b""))
            if response.length:  # bytes that never came
                raise http.client.IncompleteRead(content, response.length)
            return response, content
        finally:
            connection.close()

    def _error(self, response: http.client.HTTPResponse, content: bytes) -> Exception:
        code = _CODES.get(response.status, f"HTTP {response.status}")
        if code == DEADLINE_EXCEEDED:
            return TimeoutError()
        try:
            message = str(rest_json.loads(content)["error"])
        except (ValueError, KeyError, TypeError):
            message = content.decode("utf-8", "replace") or response.reason
        wait = response.getheader("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() else 0.0
        return ServingError(code, message, where=self._where, retry_after=seconds)


class _Response(http.client.HTTPResponse):
    """An answer that is read by a moment, its headers too."""

    def __init__(self, sock: socket.socket, *args: Any, end: float, **kwargs: Any):
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock, end))


class _Reader(io.RawIOBase):
    """Reads a socket's stream up to a moment."""

    def __init__(self, stream: io.RawIOBase, channel: socket.socket, end: float):
        self._stream, self._channel, self._end = stream, channel, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _limit(self._channel, self._end)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _limit(channel: socket.socket, end: float) -> None:
    """Lets the next operation take no longer than until `end`."""
    left = end - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    channel.settimeout(left)
