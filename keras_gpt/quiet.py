"""Importing TensorFlow without its start-up messages."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0 all, 1 no INFO, 2 no WARNING, 3 no ERROR
_STANDARD_ERROR = 2

# What TensorFlow's C++ code says at INFO level while it is loaded, whatever the level
# asked for: its logging is set up only after the first messages.
_START_UP = re.compile(
    rb"I\d{4} .*|To enable the following instructions: .*"
    rb"|WARNING: All log messages before absl::InitializeLog\(\) .*"
)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Drops TensorFlow's INFO messages while it is imported within.

    Messages of other kinds pass, after the block; so does all text if it raises.
    With TF_CPP_MIN_LOG_LEVEL=0 in the environment, or TensorFlow imported before,
    nothing is held back. Where the level is not set, it is set to 3: later messages,
    such as the "error" of every machine without CUDA, stay away too. Failures are
    Python exceptions whatever the level.
    """
    if os.environ.get(LOG_LEVEL) == "0" or "tensorflow" in sys.modules:
        yield
        return
    os.environ.setdefault(LOG_LEVEL, "3")
    sys.stderr and sys.stderr.flush()
    try:
        saved = os.dup(_STANDARD_ERROR)
    except OSError:  # A process without standard error.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STANDARD_ERROR)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr and sys.stderr.flush()
            os.dup2(saved, _STANDARD_ERROR)
            os.close(saved)
            held.seek(0)
            for line in held:
                if failed or not _START_UP.fullmatch(line.rstrip(b"\n")):
                    os.write(_STANDARD_ERROR, line)
