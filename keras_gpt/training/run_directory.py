"""The directory of one run: who may write there, and what lies where."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any, BinaryIO

from keras_gpt.whole_files import TEMPORARY, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Fields of the config that a resumed run may have otherwise: its losses stay the same.
MAY_CHANGE = ("accumulate", "remat", "jit_compile", "keep_checkpoints", "sample_tokens")


class RunDirectory:
    """Claims an output directory for one run, or finds that run again.

    Within its `with` block no other process can claim the directory (on systems
    with file locks; a lock ends with its process, however that dies).

    Args:
        path: string. Made if missing. It must be empty, or hold a run of the same
            identity.
        identity: JSON data. What makes two runs the same: configuration, corpus,
            tokenizer.
        writes: bool. Whether this process is the one that writes; another one only
            names the paths. Defaults to True.

    Raises:
        ValueError: if the directory holds another run, naming what differs, or
            files that no run wrote, naming them, or another process runs there.
        OSError: if it cannot be written.
    """

    def __init__(
        self, path: str, *, identity: Mapping[str, Any], writes: bool = True
    ) -> None:
        self.path = path
        self._writes = writes
        self._lock: BinaryIO | None = None
        if not writes:
            return
        if os.path.exists(path) and not os.path.isdir(path):
            raise ValueError(f"output_dir must be a directory, got the file {path!r}.")
        os.makedirs(path, exist_ok=True)
        identity = json.loads(json.dumps(identity))  # as it will be read back
        if os.path.exists(self.run_file):
            self._check_same(identity)
        else:
            self._check_empty()
            write_whole(self.run_file, json.dumps(identity, indent=2) + "\n")

    def __enter__(self) -> RunDirectory:
        if not self._writes:
            return self
        self._lock = open(self.run_file, "rb")
        try:
            _lock_alone(self._lock)
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(
                f"output_dir must not be in use, but another process runs in "
                f"{self.path!r}."
            ) from error
        self._remove_remains()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def run_file(self) -> str:
        """Identity of the run."""
        return os.path.join(self.path, "run.json")

    @property
    def checkpoints(self) -> str:
        """Directory of the checkpoints."""
        return os.path.join(self.path, "checkpoints")

    @property
    def logs(self) -> str:
        """Directory of the TensorBoard event files."""
        return os.path.join(self.path, "logs")

    @property
    def losses(self) -> str:
        """Loss history, a JSON object a line."""
        return os.path.join(self.path, "losses.jsonl")

    @property
    def divergence(self) -> str:
        """The step and the examples on which a loss was not finite."""
        return os.path.join(self.path, "diverged.json")

    @property
    def picture(self) -> str:
        """Plot of the losses."""
        return os.path.join(self.path, "loss.png")

    @property
    def model(self) -> str:
        """Preset directory of the trained model."""
        return os.path.join(self.path, "model")

    @property
    def report_file(self) -> str:
        """Report of a finished run; written last."""
        return os.path.join(self.path, "report.json")

    def report(self) -> dict[str, Any] | None:
        """Returns the report of the run, or None while it is not finished."""
        if not os.path.exists(self.report_file):
            return None
        return _read_json(self.report_file)

    def _remove_remains(self) -> None:
        """Removes what a killed run was writing."""
        for entry in os.scandir(self.path):
            if entry.name.startswith(TEMPORARY):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.remove(entry.path)

    def _check_empty(self) -> None:
        foreign = sorted(
            name for name in os.listdir(self.path) if not name.startswith(TEMPORARY)
        )
        if foreign:
            raise ValueError(
                f"output_dir must be empty or hold this run, but {self.path!r} holds "
                f"no run.json and other files: {', '.join(foreign[:5])}"
                + (f" and {len(foreign) - 5} more." if len(foreign) > 5 else ".")
            )

    def _check_same(self, identity: Mapping[str, Any]) -> None:
        there, here = _flatten(_read_json(self.run_file)), _flatten(identity)
        for known in (there, here):
            for name in MAY_CHANGE:
                known.pop(f"config.{name}", None)
        differing = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} now"
            for key in sorted(set(there) | set(here))
            if there.get(key) != here.get(key)
        ]
        if differing:
            raise ValueError(
                f"output_dir {self.path!r} holds another run: "
                f"{'; '.join(differing)}. Give another directory."
            )


def _lock_alone(file: BinaryIO) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            raise
        # A file system without locks: as where the system has none.


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path!r} must hold JSON, but {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path!r} must hold a JSON object, got {content!r}.")
    return content


def _flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
