"""Which versions there are, which one is served, and how one takes over."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tensorflow_serving.apis import get_model_status_pb2

from keras_gpt.export.server.errors import Code, RequestError, from_exception
from keras_gpt.export.server.loaded_model import SAVED_MODEL, LoadedModel
from keras_gpt.export.server.metrics import Metrics
from keras_gpt.export.server.options import ServerOptions

State = get_model_status_pb2.ModelVersionStatus.State
MAX_VERSION = 2**63 - 1  # an int64 in TF Serving's API
# Names, sizes and times of the files of a version.
Stamp = frozenset[tuple[str, int, int]]
T = TypeVar("T")

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class VersionStatus:
    """How a version fares, in TF Serving's terms.

    Attributes:
        version: int.
        state: int, a `ModelVersionStatus.State`.
        code: `grpc.StatusCode`. Why loading failed, if it did.
        message: string. Likewise.
    """

    version: int
    state: int
    code: Code = Code.OK
    message: str = ""


class Versions:
    """Serves the highest version of a folder, and watches for another.

    All methods are for the thread of the event loop.

    Args:
        folder: path of a folder with version folders, or of one version.
        options: `ServerOptions`.
        metrics: `Metrics`.
    """

    def __init__(self, folder: Path, options: ServerOptions, metrics: Metrics):
        self._folder = folder
        self._options = options
        self._metrics = metrics
        self._current: LoadedModel | None = None
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, Stamp] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        # Loading must neither hold up the loop nor take a thread from requests.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loads: set[Future[Any]] = set()

    @property
    def current(self) -> int | None:
        """The version that is served."""
        return None if self._current is None else self._current.version

    @contextlib.contextmanager
    def acquire(self, model_name: str, version: int | None) -> Iterator[LoadedModel]:
        """Gives a version, which stays in memory within.

        Args:
            model_name: string.
            version: int; None is the one that is served.

        Raises:
            RequestError: if there is no such model or version.
        """
        self._check_name(model_name)
        model = self._current
        if model is None or version not in (None, model.version):
            raise self._no_version(version)
        with model.hold():
            yield model

    def statuses(self, model_name: str, version: int | None) -> list[VersionStatus]:
        """Returns how a version fares, or all of them, the highest first.

        Raises:
            RequestError: if there is no such model or version.
        """
        self._check_name(model_name)
        if version is not None and version not in self._statuses:
            raise self._no_version(version)
        return [
            self._statuses[one]
            for one in sorted(self._statuses, reverse=True)
            if version in (None, one)
        ]

    def _check_name(self, model_name: str) -> None:
        if model_name != self._options.model_name:
            raise RequestError(
                Code.NOT_FOUND,
                f"model must be {self._options.model_name!r}, got {model_name!r}.",
            )

    def _no_version(self, version: int | None) -> RequestError:
        asked = "" if version is None else f", got {version}"
        return RequestError(
            Code.NOT_FOUND,
            f"version of model {self._options.model_name!r} must be "
            f"{self.current or 'loaded first'}{asked}.",
        )

    async def start(self) -> None:
        """Loads the highest version that can be loaded.

        Raises:
            FileNotFoundError: if there is none.
            RuntimeError: if none can be loaded.
        """
        if not await self._in_loader(lambda: find_versions(self._folder)):
            raise FileNotFoundError(
                "model must be a folder with version folders such as 1/ that hold "
                f"{SAVED_MODEL}, got {self._folder}."
            )
        await self.refresh()
        if self._current is None:
            told = "; ".join(
                f"version {one.version}: {one.message}"
                for one in self.statuses(self._options.model_name, None)
            )
            raise RuntimeError(f"no version in {self._folder} can be loaded: {told}")

    async def watch(self) -> None:
        """Looks for new versions until it is cancelled."""
        while self._options.watch_seconds:
            await asyncio.sleep(self._options.watch_seconds)
            try:
                await self.refresh()
            except Exception:
                # Such as a disk that is away for a while.
                _LOG.exception("looking for versions in %s failed", self._folder)

    async def refresh(self) -> None:
        """Loads the highest version there is, if it is not the one that is served."""
        while True:
            found = await self._in_loader(lambda: find_versions(self._folder))
            self._forget_all_but(found)
            version = max(
                (v for v, path in found.items() if not self._fails(v, path)),
                default=None,
            )
            if version is None or version == self.current:
                return
            await self._load(version, found[version])

    def _fails(self, version: int, path: Path) -> bool:
        """Whether it has failed to load, and is still the same."""
        return self._failed.get(version) == _stamp(path)

    def _forget_all_but(self, found: dict[int, Path]) -> None:
        for version, status in list(self._statuses.items()):
            if status.state == State.END and version not in found:
                del self._statuses[version]
                self._failed.pop(version, None)

    async def _load(self, version: int, path: Path) -> None:
        self._statuses[version] = VersionStatus(version, State.LOADING)
        stamp = _stamp(path)
        try:
            model = await self._in_loader(lambda: self._loaded(version, path))
        except Exception as error:
            failure = from_exception(error)
            self._failed[version] = stamp
            self._statuses[version] = VersionStatus(
                version, State.END, failure.code, failure.message
            )
            _LOG.error("version %d was not loaded: %s", version, failure.message)
            return
        self._metrics.loaded_versions.inc()
        previous, self._current = self._current, model
        self._statuses[version] = VersionStatus(version, State.AVAILABLE)
        _LOG.info("version %d is served", version)
        if previous is not None:
            task = asyncio.create_task(self._unload(previous))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    def _loaded(self, version: int, path: Path) -> LoadedModel:
        model = LoadedModel(path, version)
        try:
            model.warm_up()
        except BaseException:
            model.close()
            raise
        return model

    async def _unload(self, model: LoadedModel) -> None:
        self._statuses[model.version] = VersionStatus(model.version, State.UNLOADING)
        await model.wait_until_idle()
        await self._in_loader(model.close)
        self._metrics.loaded_versions.dec()
        if self.current != model.version:
            self._statuses[model.version] = VersionStatus(model.version, State.END)
        _LOG.info("version %d was unloaded", model.version)

    @property
    def is_loading(self) -> bool:
        """Whether a thread is busy that nothing can interrupt."""
        return any(work.running() for work in self._loads)

    async def _in_loader(self, function: Callable[[], T]) -> T:
        work = self._loader.submit(function)
        self._loads.add(work)
        work.add_done_callback(self._loads.discard)
        return await asyncio.wrap_future(work)

    def close(self, *, is_idle: bool) -> None:
        """Ends it. Frees the version that is served if nothing runs any more."""
        for task in self._unloading:
            task.cancel()
        if self._current is not None and is_idle:
            self._current.close()
        self._current = None
        self._loader.shutdown(wait=False, cancel_futures=True)


def find_versions(folder: Path) -> dict[int, Path]:
    """Returns the version folders by number: names of digits, with a SavedModel.

    A folder that is a version itself is the only one; its number is its name, or 1.
    """
    if (folder / SAVED_MODEL).is_file():
        name = folder.resolve().name
        return {int(name) if _is_version(name) else 1: folder}
    if not folder.is_dir():
        return {}
    return {
        int(path.name): path
        for path in sorted(folder.iterdir())
        if _is_version(path.name) and (path / SAVED_MODEL).is_file()
    }


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) <= MAX_VERSION


def _stamp(folder: Path) -> Stamp:
    """Returns what changes when a folder's files do, such as while it is copied."""
    stamp = set()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # Removed meanwhile.
            status = path.stat()
            stamp.add((str(path), status.st_size, status.st_mtime_ns))
    return frozenset(stamp)
