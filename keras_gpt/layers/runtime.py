"""The runtime for which a graph is made.

TensorFlow runs the same ops everywhere, but not every runtime has all of them: layers
that know a better op, or the only one, ask here for whom they write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

RUNTIMES = ("tensorflow", "xla", "litert")

_RUNTIME: ContextVar[str] = ContextVar("runtime", default="tensorflow")


def runtime() -> str:
    """Returns the runtime of graphs that are made now, one of `RUNTIMES`."""
    return _RUNTIME.get()


@contextlib.contextmanager
def graphs_for(name: str) -> Iterator[None]:
    """Within it, graphs are made for a runtime, one of `RUNTIMES`."""
    if name not in RUNTIMES:
        raise ValueError(f"name must be of {', '.join(RUNTIMES)}, got {name!r}.")
    token = _RUNTIME.set(name)
    try:
        yield
    finally:
        _RUNTIME.reset(token)
