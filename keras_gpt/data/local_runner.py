"""Builds shards with the processes of one machine, in bounded memory.

First the pieces of the inputs are read and their documents written to one temporary
file for each part of a shard; then each shard is built from its own.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_gpt.data import shards
from keras_gpt.data.documents import Piece
from keras_gpt.data.shards import KEY_BYTES, Built, Document, Place, Plan

# Documents that one process collects before it writes them to their parts.
_BUFFER_BYTES = 64_000_000
_HEADER = struct.Struct(f"<{KEY_BYTES}sIIQ")  # key, source, file, bytes of the text
_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_CHECKS = 0.5

Progress = Callable[[str], None]


def run(
    plan: Plan, *, workers: int, work_folder: str, progress: Progress
) -> list[Built]:
    """Builds all shards.

    Args:
        plan: `Plan`.
        workers: int. Processes; with 1 it all happens in this one.
        work_folder: local folder for temporary files, about as large as the text.
        progress: called with lines that tell how far it is.

    Returns:
        `Built` of each shard.

    Raises:
        ValueError: if the inputs are broken, or the vocabulary cannot spell them.
        OSError: if a file cannot be read or written.
        RuntimeError: if a process dies.
    """
    num_shards = len(shards.shard_places(plan))
    # With fewer shards than workers, each may use several cores.
    threads = max(workers // max(num_shards, 1), 1)
    workers = min(workers, max(len(plan.pieces), num_shards))
    with _Pool(workers, threads=threads) as pool:
        _partition(pool, plan, work_folder, progress)
        return _build(pool, plan, work_folder, progress)


def _partition(pool: _Pool, plan: Plan, work_folder: str, progress: Progress) -> None:
    task = functools.partial(_write_parts, plan=plan, work_folder=work_folder)
    lines = _Lines(progress)
    documents = num_bytes = 0
    for done, (count, size) in enumerate(pool.each(task, plan.pieces), start=1):
        documents, num_bytes = documents + count, num_bytes + size
        lines.tell(
            f"read {done} of {len(plan.pieces)} pieces: {documents:,} documents, "
            f"{num_bytes / 1e6:,.1f} MB",
            num_bytes,
            is_last=done == len(plan.pieces),
        )


def _build(
    pool: _Pool, plan: Plan, work_folder: str, progress: Progress
) -> list[Built]:
    task = functools.partial(_build_one, plan=plan, work_folder=work_folder)
    places = shards.shard_places(plan)
    lines = _Lines(progress)
    built: list[Built] = []
    documents = num_bytes = 0
    for done, one in enumerate(pool.each(task, places), start=1):
        built.append(one)
        documents += sum(shard.documents for shard in one.shards.values())
        num_bytes += sum(shard.text_bytes for shard in one.shards.values())
        lines.tell(
            f"built {done} of {len(places)} shards: {documents:,} documents, "
            f"{num_bytes / 1e6:,.1f} MB",
            num_bytes,
            is_last=done == len(places),
        )
    return built


class _Lines:
    """Progress lines, a few seconds apart."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start = self._told = time.monotonic()

    def tell(self, text: str, num_bytes: int, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._told >= _SECONDS_BETWEEN_LINES:
            speed = num_bytes / 1e6 / max(now - self._start, 1e-9)
            self._progress(f"{text}, {speed:.2f} MB/s")
            self._told = now


class _Pool:
    """Calls a function for many arguments, in processes of their own if several."""

    def __init__(self, workers: int, *, threads: int) -> None:
        self._executor = None
        if workers > 1:
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers,
                # A forked TensorFlow hangs.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(), threads),
            )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def each(
        self, task: Callable[[Any], Any], arguments: Sequence[Any]
    ) -> Iterator[Any]:
        """Yields results as they come."""
        if self._executor is None:
            yield from map(task, arguments)
            return
        futures = [self._executor.submit(task, argument) for argument in arguments]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()


def _start_worker(parent: int, threads: int) -> None:
    # The `tokenizers` library would take all cores in each process.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    # A worker must not write on when its command was killed and may run again.
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    os._exit(1)


def _part_folder(work_folder: str, place: Place) -> str:
    return os.path.join(work_folder, f"{place.split}-{place.shard:05d}-{place.part}")


def _write_parts(piece: Piece, *, plan: Plan, work_folder: str) -> tuple[int, int]:
    """Writes the documents of a piece to their parts; returns documents and bytes."""
    waiting: dict[Place, list[bytes]] = {}
    documents = num_bytes = buffered = 0
    for place, document in shards.read_piece(piece, plan):
        header = _HEADER.pack(
            document.key, document.source, document.file, len(document.text)
        )
        waiting.setdefault(place, []).extend((header, document.text))
        documents += 1
        num_bytes += len(document.text)
        buffered += len(document.text) + _HEADER.size
        if buffered >= _BUFFER_BYTES:
            _append(waiting, work_folder)
            waiting, buffered = {}, 0
    _append(waiting, work_folder)
    return documents, num_bytes


def _append(waiting: dict[Place, list[bytes]], work_folder: str) -> None:
    for place, contents in waiting.items():
        folder = _part_folder(work_folder, place)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, str(os.getpid())), "ab") as file:
            file.writelines(contents)


def _read_part(work_folder: str, place: Place) -> Iterator[Document]:
    folder = _part_folder(work_folder, place)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(os.path.join(folder, name), "rb") as file:
            while header := file.read(_HEADER.size):
                key, source, number, size = _HEADER.unpack(header)
                yield Document(key, source, number, file.read(size))


def _build_one(
    split_and_number: tuple[str, int], *, plan: Plan, work_folder: str
) -> Built:
    split, number = split_and_number
    places = [Place(split, number, part) for part in range(plan.num_parts)]
    return shards.build_shard(
        (_read_part(work_folder, place) for place in places),
        plan=plan,
        split=split,
        number=number,
    )
