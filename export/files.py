"""Files and folders that are whole or absent."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# TF Serving ignores folders whose names are no numbers.
_PREFIX = ".writing-"


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Makes a folder of its own for a while, in which `name` is to be written."""
    prefix = f"{_PREFIX}{name}@{socket.gethostname()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_remains(parent: Path) -> None:
    """Removes what processes of this host that were killed have left."""
    # Those of other hosts may be alive: folders may be shared.
    own = re.compile(rf".*@{re.escape(socket.gethostname())}-(\d+)-[^-]*")
    for remains in parent.glob(f"{_PREFIX}*"):
        match = own.fullmatch(remains.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(remains, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole: elsewhere first, then moved."""
    with temporary_folder(path.parent, path.name) as folder:
        temporary = folder / path.name
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
