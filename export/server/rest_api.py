"""TF Serving's REST paths, and streams as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from keras_gpt.export.server import grpc_api, rest_json
from keras_gpt.export.server.errors import (
    Code,
    RequestError,
    from_exception,
    invalid,
    too_large,
)
from keras_gpt.export.server.metrics import CONTENT_TYPE, Call
from keras_gpt.export.server.service import Service
from keras_gpt.export.server.streaming import open_stream
from keras_gpt.export.server.versions import MAX_VERSION

_PATH = re.compile(
    r"(?P<name>[^/:]+)(/versions/(?P<version>[0-9]{1,19}))?"
    r"(:(?P<verb>predict|stream)|(?P<metadata>/metadata))?"
)
T = TypeVar("T")
Handler = Callable[[Request, "re.Match[str]"], Awaitable[Response]]


class RestApi:
    """Answers over HTTP.

    Args:
        service: `Service`.

    Attributes:
        app: the ASGI application.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        metrics = ("/monitoring/prometheus/metrics", "/metrics")
        self.app = Starlette(
            routes=[
                Route("/v1/models/{rest:path}", self._get, methods=["GET"]),
                Route("/v1/models/{rest:path}", self._post, methods=["POST"]),
                *(Route(path, self._metrics, methods=["GET"]) for path in metrics),
            ],
            exception_handlers={404: _no_such_path, 405: _no_such_path},
        )

    async def _get(self, request: Request) -> Response:
        return await self._answer(request, self._tell)

    async def _post(self, request: Request) -> Response:
        return await self._answer(request, self._run)

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            path = _PATH.fullmatch(request.path_params["rest"])
            if path is None:
                raise RequestError(Code.NOT_FOUND, _paths())
            return await handler(request, path)
        except asyncio.CancelledError:  # The grace is over.
            return _failure(RequestError(Code.UNAVAILABLE, "the server is stopping."))
        except Exception as error:
            return _failure(from_exception(error))

    async def _metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), media_type=CONTENT_TYPE)

    async def _tell(self, request: Request, path: re.Match[str]) -> Response:
        """Tells how versions fare, or what signatures there are."""
        if path["verb"]:
            raise RequestError(
                Code.UNIMPLEMENTED,
                f":{path['verb']} must be a POST request, got GET.",
                http_status=405,
            )
        spec = model_pb2.ModelSpec(name=path["name"])
        version = _version(path)
        if version is not None:
            spec.version.value = version
        if path["metadata"]:
            return _json(_metadata(grpc_api.metadata(self._service, spec)))
        told = grpc_api.status(self._service, spec).model_version_status
        return _json(
            {
                "model_version_status": [
                    {
                        "version": str(one.version),
                        "state": type(one).State.Name(one.state),
                        "status": {
                            "error_code": _code_name(one.status.error_code),
                            "error_message": one.status.error_message,
                        },
                    }
                    for one in told
                ]
            }
        )

    async def _run(self, request: Request, path: re.Match[str]) -> Response:
        """Runs a signature, or opens a stream."""
        if not path["verb"]:
            raise RequestError(Code.NOT_FOUND, _paths())
        if path["verb"] == "stream":
            return await self._stream(request, path)
        with self._service.metrics.request("rest") as call:
            body = rest_json.parsed(await self._body(request))
            work = asyncio.ensure_future(self._predict(call, body, path))
            return await _while_connected(request, work)

    async def _predict(
        self, call: Call, body: dict[str, Any], path: re.Match[str]
    ) -> Response:
        by_row = rest_json.is_row_format(body)
        found = await self._service.predict(
            call,
            model_name=path["name"],
            version=_version(path),
            signature_name=rest_json.string_field(body, "signature_name"),
            inputs_of=lambda signature: rest_json.inputs_of(body, signature),
        )
        return _json(rest_json.reply(found.outputs, found.signature, by_row=by_row))

    async def _stream(self, request: Request, path: re.Match[str]) -> Response:
        async with contextlib.AsyncExitStack() as stack:
            call = stack.enter_context(self._service.metrics.request("stream"))
            body = rest_json.parsed(await self._body(request))
            begin = open_stream(
                self._service,
                body,
                call=call,
                stack=stack,
                model_name=path["name"],
                version=_version(path),
            )
            events = await _while_connected(request, asyncio.ensure_future(begin))
            call.code = Code.CANCELLED  # unless it comes to its end
            return _Events(_written(events, call), stack.pop_all())

    async def _body(self, request: Request) -> bytes:
        """Reads a body that is not too long.

        Raises:
            RequestError: if it is, before it is read to its end.
        """
        limit = self._service.options.max_request_bytes
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_large("body", int(length), limit)
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise too_large("body", len(data), limit)
        return bytes(data)


class _Events(StreamingResponse):
    """Server-sent events, after which something is closed, whatever happens."""

    def __init__(
        self, events: AsyncIterator[str], stack: contextlib.AsyncExitStack
    ) -> None:
        headers = {"Cache-Control": "no-cache"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _written(
    events: AsyncIterator[dict[str, Any]], call: Call
) -> AsyncIterator[str]:
    """Writes events; one that fails is the last."""
    try:
        async for event in events:
            yield f"data: {json.dumps(event)}\n\n"
        call.code = Code.OK
    except Exception as error:
        failure = from_exception(error)
        call.code = failure.code
        yield f"event: error\ndata: {json.dumps({'error': failure.message})}\n\n"


async def _while_connected(request: Request, work: asyncio.Future[T]) -> T:
    """Awaits an answer as long as there is a client for it."""
    gone = asyncio.ensure_future(_disconnect(request))
    both: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _version(path: re.Match[str]) -> int | None:
    if path["version"] is None:
        return None
    version = int(path["version"])
    if version > MAX_VERSION:
        raise invalid(f"version must be at most {MAX_VERSION}, got {version}.")
    return version


def _metadata(
    response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> dict[str, Any]:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[grpc_api.SIGNATURE_DEF].Unpack(signatures)
    spec = response.model_spec
    told = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
    return {
        "model_spec": {
            "name": spec.name,
            "signature_name": "",
            "version": str(spec.version.value),
        },
        "metadata": {grpc_api.SIGNATURE_DEF: told},
    }


def _code_name(number: int) -> str:
    return next(code.name for code in Code if code.value[0] == number)


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    # NaN and infinity are written as TF Serving does.
    body = json.dumps(value)
    return Response(body, status, headers, media_type="application/json")


def _failure(error: RequestError) -> Response:
    headers = {"Retry-After": "1"} if error.code == Code.UNAVAILABLE else None
    return _json({"error": error.message}, error.http_status, headers)


async def _no_such_path(request: Request, error: Any) -> Response:
    return _json({"error": _paths()}, error.status_code)


def _paths() -> str:
    verbs: Iterable[str] = ("", "/metadata", ":predict", ":stream")
    paths = ", ".join(f"/v1/models/NAME[/versions/N]{verb}" for verb in verbs)
    return f"path must be {paths} or /metrics."
