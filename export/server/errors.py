"""Failures of requests, as the codes that gRPC and HTTP have for them."""

from __future__ import annotations

import logging

import tensorflow as tf
from grpc import StatusCode as Code
from starlette.requests import ClientDisconnect

# gRPC's codes by number, which are TensorFlow's too.
CODES = {code.value[0]: code for code in Code}

HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,  # nginx's number for a client that went away
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
TOO_LARGE = 413
MAX_MESSAGE = 500  # characters: a line for a person, not a dump of tensors


class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        code: `grpc.StatusCode`.
        message: string. One line of at most `MAX_MESSAGE`.
        http_status: int.
    """

    def __init__(self, code: Code, message: str, *, http_status: int | None = None):
        # Bounded, whatever a client wrote: gRPC sends it in a header.
        self.message = one_line(message)
        super().__init__(self.message)
        self.code = code
        self.http_status = http_status or HTTP_STATUS.get(code, 500)

    def again(self) -> RequestError:
        """Returns an equal error, for another request that fails for the same."""
        return RequestError(self.code, self.message, http_status=self.http_status)


def invalid(message: str) -> RequestError:
    """Returns the error of a request that is wrong in itself."""
    return RequestError(Code.INVALID_ARGUMENT, message)


def too_large(what: str, size: int, limit: int) -> RequestError:
    """Returns the error of a request with more bytes than are allowed."""
    return RequestError(
        Code.RESOURCE_EXHAUSTED,
        f"{what} must have at most {limit} bytes, got {size}.",
        http_status=TOO_LARGE,
    )


def from_exception(error: Exception) -> RequestError:
    """Returns what a failure of the model, or of this server, is to the client."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ClientDisconnect):
        return RequestError(Code.CANCELLED, "the client went away.")
    if isinstance(error, tf.errors.OpError):
        code = CODES.get(error.error_code, Code.INTERNAL)
        return RequestError(code, error.message)
    logging.getLogger(__name__).error("a request met a fault", exc_info=error)
    return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def one_line(message: str) -> str:
    """Returns what a message says, without TensorFlow's frames and nodes around it."""
    message = message.removeprefix("Graph execution error:").split("\n\t [[")[0]
    text = " ".join(message.split())
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 3]}..."
