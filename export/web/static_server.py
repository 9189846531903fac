"""Serves the folder that `export_web` wrote, on this machine."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any

from keras_gpt.export.web.folder import PAGE_FILES

# A browser gives threads with shared memory to pages alone that are isolated so.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",  # a folder may be exported anew
    "X-Content-Type-Options": "nosniff",
    # LiteRT.js compiles WebAssembly, and starts its threads from blobs.
    "Content-Security-Policy": "; ".join(
        [
            *("default-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"),
            *("worker-src 'self' blob:", "img-src 'self' data:", "style-src 'self'"),
            *("object-src 'none'", "base-uri 'none'", "form-action 'none'"),
        ]
    ),
}
# Browsers refuse modules and WebAssembly of other types, whatever the system's say.
TYPES = {
    "": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    server_version = "keras-gpt"
    extensions_map = TYPES
    timeout = 60  # seconds that a browser may be silent

    def send_head(self) -> Any:
        """Refuses hidden files, whatever their names are written as, and others'."""
        try:
            if self._is_allowed():
                return super().send_head()
        except ValueError:  # no address, or one with a null character
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def _is_allowed(self) -> bool:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if any(part.startswith(".") for part in path.split("/")):
            return False
        # Links may lead out of the folder.
        folder = Path(os.path.realpath(self.directory))
        file = self.translate_path(self.path)
        return all(
            Path(os.path.realpath(os.path.join(file, index))).is_relative_to(folder)
            for index in ("", "index.html", "index.htm")  # of folders
        )

    def list_directory(self, path: Any) -> None:
        """Shows no folder's files."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Adds what threads need, to errors also."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that have gone."""


class StaticServer:
    """Serves such a folder over HTTP, with the headers that threads need.

    Args:
        folder: string or path. As `export_web` wrote it.
        host: string. Address to listen at. Defaults to this machine alone.
        port: int. 0 takes a free one. Defaults to 8000.

    Raises:
        FileNotFoundError: if the folder is absent or lacks a file of the page.
        OSError: if the address cannot be listened at.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
    ) -> None:
        folder = Path(folder)
        missing = [name for name in PAGE_FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                "folder must be one that export_web wrote (keras-gpt export "
                f"--format=web), but {folder} lacks {missing[0]}."
            )
        handler = functools.partial(_Handler, directory=os.fspath(folder))
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot listen at {host}:{port}: {error.strerror}"
            ) from error
        where = f"[{host}]" if ":" in host else host
        self.url = f"http://{where}:{self._server.server_port}/"

    def run(self) -> None:
        """Answers requests, until `stop` is called from another thread."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self.close()

    def stop(self) -> None:
        """Ends `run`."""
        self._server.shutdown()

    def close(self) -> None:
        """Listens no more; for a server that has not run."""
        self._server.server_close()
