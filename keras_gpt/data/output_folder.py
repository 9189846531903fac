"""The folder of a dataset while it is written: nothing unfinished looks finished."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_gpt.data import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MARKER = ".unfinished.json"
_WORK = ".work"


class OutputFolder:
    """Claims a new or empty folder, or one that an interrupted run left.

    A marker stands in the folder from the first file on until the manifest is
    written; it names what the run may write, which is what the next one removes.
    Within its `with` block no other process can claim a local folder (on systems with
    file locks; a lock ends with its process, however that dies).

    Args:
        path: folder, here or where `tf.io.gfile` reaches.
        manifest: name of the file that makes the folder a dataset.
        sources: names of the sources, each a folder in it.

    Raises:
        ValueError: if the folder holds a finished dataset or files of others, naming
            them, or another process writes there.
        OSError: if it cannot be written.
    """

    def __init__(self, path: str, *, manifest: str, sources: Sequence[str]) -> None:
        self.path = path
        self._manifest = os.path.join(path, manifest)
        self._marker = os.path.join(path, MARKER)
        self._names = ["tokenizer", _WORK, *sources]
        self._lock: Any = None
        self._work_folder = self.shared_folder

    @property
    def shared_folder(self) -> str:
        """Folder for temporary files beside the output, wherever that is."""
        return os.path.join(self.path, _WORK)

    @property
    def work_folder(self) -> str:
        """Local folder for temporary files."""
        return self._work_folder

    def __enter__(self) -> OutputFolder:
        if tf.io.gfile.exists(self.path) and not tf.io.gfile.isdir(self.path):
            raise ValueError(f"output must be a folder, got the file {self.path!r}.")
        if tf.io.gfile.exists(self._manifest):
            raise ValueError(
                f"output must be new or empty, but {self.path!r} holds a finished "
                "dataset."
            )
        tf.io.gfile.makedirs(self.path)
        left = self._left_over()
        self._check_no_others(left)
        self._claim()
        self._remove(left)
        for name in self._names[2:]:
            tf.io.gfile.makedirs(os.path.join(self.path, name))
        if files.is_local(self.path):
            os.makedirs(self._work_folder)
        else:  # Parts are appended to, which few other file systems can.
            self._work_folder = tempfile.mkdtemp(prefix="keras_gpt-")
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._work_folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def finish(self, content: bytes) -> None:
        """Writes the manifest, with which the dataset is whole."""
        for name in self._names[2:]:
            # A source whose documents are all duplicates has no shard here.
            if not tf.io.gfile.listdir(os.path.join(self.path, name)):
                tf.io.gfile.rmtree(os.path.join(self.path, name))
        if tf.io.gfile.exists(self.shared_folder):
            tf.io.gfile.rmtree(self.shared_folder)
        files.write_whole(self._manifest, content)
        tf.io.gfile.remove(self._marker)

    def _left_over(self) -> list[str]:
        """Names that an interrupted run may have written."""
        if not tf.io.gfile.exists(self._marker):
            return []
        with tf.io.gfile.GFile(self._marker, "rb") as file:
            content = file.read()
        try:
            return [str(name) for name in json.loads(content)["writes"]]
        except (ValueError, KeyError, TypeError):
            return []  # Cut short: nothing was written after it.

    def _check_no_others(self, left: list[str]) -> None:
        others = sorted(
            name.rstrip("/")
            for name in tf.io.gfile.listdir(self.path)
            if name.rstrip("/") not in (*left, MARKER) and not name.startswith(".tmp-")
        )
        if others:
            raise ValueError(
                f"output must be new or empty, but {self.path!r} holds "
                f"{', '.join(others[:5])}"
                + (f" and {len(others) - 5} more." if len(others) > 5 else ".")
            )

    def _claim(self) -> None:
        if not files.is_local(self.path) or fcntl is None:
            return
        self._lock = open(self._marker, "ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(
                f"output must not be in use, but another process writes {self.path!r}."
            ) from error
        except OSError:
            pass  # A file system without locks: as where the system has none.

    def _remove(self, left: list[str]) -> None:
        for name in left:
            path = os.path.join(self.path, name)
            if tf.io.gfile.exists(path):
                tf.io.gfile.rmtree(path)
        for name in tf.io.gfile.listdir(self.path):
            if name.startswith(".tmp-"):
                tf.io.gfile.remove(os.path.join(self.path, name))
        # In place, as the lock is on this very file.
        content = json.dumps({"writes": self._names}).encode("utf-8")
        with tf.io.gfile.GFile(self._marker, "wb") as file:
            file.write(content)
