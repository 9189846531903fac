"""Serves an exported model on this machine: by TF Serving's APIs, or as a web page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from keras_gpt.tools import command

if TYPE_CHECKING:  # takes seconds to import
    from keras_gpt.export.server import Server

DESCRIPTION = (
    "serves an exported model on this machine, over gRPC and REST, as TF Serving does. "
    "At scale, tensorflow_model_server is the way: it serves the same folders. With "
    "--web, the page that export wrote"
)
# Not read from the library, whose import would slow --help down.
_COUNTS = {
    "port": (8500, "Port of gRPC; 0 takes a free one"),
    "rest_api_port": (8501, "Port of HTTP; 0 takes a free one"),
    "max_batch_rows": (8, "Rows up to which waiting requests are joined; 1 joins none"),
    "num_batch_threads": (2, "Batches that run at the same time"),
    "max_rows_per_request": (64, "Most rows of a request"),
    "max_request_bytes": (2**28, "Most bytes of a request"),
    "max_queued_rows": (1024, "Most rows that wait; further requests are turned away"),
}
_NUMBERS = {
    "watch_seconds": (1.0, "Seconds between two looks for new versions; 0 never looks"),
    "batch_timeout_ms": (2.0, "Longest wait for other requests, in milliseconds"),
    "grace_seconds": (30.0, "Seconds that running requests have when it stops"),
}
_TEXTS = {
    "model_name": ("gpt", "Name of the model in requests"),
    "host": ("127.0.0.1", "Address to listen at; 0.0.0.0 for all of this machine"),
}


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model", None, "Folder that export wrote, with version folders such as 1/; or "
        "one of them",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "web", None, "Folder that export --format=web wrote, to be served in place of "
        "a model, at --host and --port (8000 without it). Optional",
        flag_values=flags,
    )  # fmt: skip
    for name, (text, meaning) in _TEXTS.items():
        absl_flags.DEFINE_string(name, text, meaning, flag_values=flags)
    command.define_numbers(flags, integers=_COUNTS, floats=_NUMBERS)


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    if flags.web is not None:
        _serve_web(flags)
        return
    command.require(flags, "model")
    from keras_gpt.export.server import Server, ServerOptions

    names = (*_TEXTS, *_COUNTS, *_NUMBERS)
    fields: dict[str, Any] = {name: flags[name].value for name in names}
    server = Server(flags.model, ServerOptions(**fields))
    if not asyncio.run(_serve(server)):
        # Threads that run a model cannot be interrupted, and their time is over.
        sys.stdout.flush()
        os._exit(0)


def _serve_web(flags: absl_flags.FlagValues) -> None:
    for name in ("model", *_TEXTS, *_COUNTS, *_NUMBERS):
        if flags[name].present and name not in ("host", "port"):
            raise command.UsageError(f"flag --{name} must be left out with --web.")
    from keras_gpt.export.web.static_server import StaticServer

    options = {"port": flags.port} if flags["port"].present else {}
    server = StaticServer(flags.web, host=flags.host, **options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"serving: {server.url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


async def _serve(server: Server) -> bool:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def say() -> None:
        where = f"gRPC at {server.grpc_address}, REST at {server.rest_url}"
        print(f"serving: {where}", flush=True)

    return await server.run(stop=stop, is_ready=say)


if __name__ == "__main__":
    command.run_main(__name__)
