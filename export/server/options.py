"""What a server is told: addresses, batching, limits."""

from __future__ import annotations

import dataclasses
import math
import re

MAX_PORT = 65535
# gRPC counts the bytes of a message in a signed 32-bit integer.
MAX_MESSAGE_BYTES = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Settings of a `Server`, checked on construction.

    Args:
        model_name: string of letters, digits, `_`, `-` and `.`. What requests call the
            model. Defaults to `"gpt"`.
        host: string. Address to listen at. Defaults to 127.0.0.1, which only this
            machine reaches.
        port: int. Port of gRPC; 0 takes a free one. Defaults to 8500.
        rest_api_port: int. Port of HTTP; 0 takes a free one. Defaults to 8501.
        watch_seconds: float. Time between two looks for new versions; 0 never looks
            again. Defaults to 1.
        max_batch_rows: int. Rows up to which waiting requests are joined; 1 joins
            none. Defaults to 8.
        batch_timeout_ms: float, milliseconds. Longest wait for others to join.
            Defaults to 2.
        num_batch_threads: int. Batches that run at the same time. Defaults to 2.
        max_rows_per_request: int. Defaults to 64.
        max_request_bytes: int. Longest request, as sent and as tensors. Defaults to
            256 MiB: the state of a stream is large.
        max_queued_rows: int, at least `max_rows_per_request`. Rows that may wait, and
            streams that may be open; further ones are turned away. Defaults to 1024.
        grace_seconds: float. Time that running requests have when the server stops.
            Defaults to 30.

    Raises:
        ValueError: if a field is out of its range.
    """

    model_name: str = "gpt"
    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 8501
    watch_seconds: float = 1.0
    max_batch_rows: int = 8
    batch_timeout_ms: float = 2.0
    num_batch_threads: int = 2
    max_rows_per_request: int = 64
    max_request_bytes: int = 2**28
    max_queued_rows: int = 1024
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str) or not re.fullmatch(
            r"[\w.-]+", self.model_name, re.ASCII
        ):
            raise ValueError(
                "model_name must be of letters, digits, '_', '-' and '.', "
                f"got {self.model_name!r}."
            )
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be an address, got {self.host!r}.")
        for name in ("port", "rest_api_port"):
            self._check_int(name, 0, MAX_PORT)
        if self.port == self.rest_api_port != 0:
            raise ValueError(
                f"port and rest_api_port must differ, got {self.port} for both."
            )
        for name in ("max_batch_rows", "num_batch_threads", "max_rows_per_request"):
            self._check_int(name, 1)
        self._check_int("max_request_bytes", 1, MAX_MESSAGE_BYTES)
        self._check_int("max_queued_rows", 1)
        if self.max_queued_rows < self.max_rows_per_request:
            raise ValueError(
                "max_queued_rows must be at least max_rows_per_request, "
                f"got {self.max_queued_rows} and {self.max_rows_per_request}."
            )
        for name in ("watch_seconds", "batch_timeout_ms", "grace_seconds"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0.0 <= value < math.inf:
                raise ValueError(f"{name} must be a number from 0, got {value!r}.")

    def _check_int(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if not is_int or value < low or (high is not None and value > high):
            rule = f"from {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{name} must be an int {rule}, got {value!r}.")
