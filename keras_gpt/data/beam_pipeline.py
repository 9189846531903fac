"""Builds shards with an Apache Beam pipeline, on whatever runs one.

Reading, keys, packing, writing and statistics are those of the local runner; only who
does what is Beam's. Its workers need this package, and the folder of the output.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from keras_gpt.data import files, shards
from keras_gpt.data.documents import Piece
from keras_gpt.data.shards import Built, BuiltShard, Document, Plan

_ERROR = "error-"

# What Beam hands around: a shard's split and number, and a document as plain values.
ShardKey = tuple[str, int]
PlainDocument = tuple[bytes, int, int, bytes]


def run(
    plan: Plan,
    *,
    options: list[str],
    work_folder: str,
    progress: Callable[[str], None],
) -> list[Built]:
    """Builds all shards.

    Args:
        plan: `Plan`.
        options: Beam's own flags. Without any it runs in this process.
        work_folder: folder that all workers can write.
        progress: called with lines that tell how far it is.

    Returns:
        `Built` of each shard that has documents.

    Raises:
        ValueError: if apache-beam is not installed, the inputs are broken, or the
            vocabulary cannot spell them.
        RuntimeError: if the pipeline fails; or what else Beam raises.
    """
    beam, pipeline_options = _beam()
    places = len(shards.shard_places(plan))
    progress(f"pipeline of {len(plan.pieces)} pieces to {places} shards: running")
    tf.io.gfile.makedirs(work_folder)
    read = functools.partial(_read, plan=plan, work_folder=work_folder)
    build = functools.partial(_build, plan=plan, work_folder=work_folder)
    try:
        with beam.Pipeline(options=pipeline_options(options)) as pipeline:
            _ = (
                pipeline
                | "pieces" >> beam.Create(list(plan.pieces))
                | "share out" >> beam.Reshuffle()
                | "read" >> beam.FlatMap(read)
                | "group by shard" >> beam.GroupByKey()
                | "build" >> beam.Map(build)
            )
    except Exception as error:
        told = _told_errors(work_folder)
        if not told:
            raise
        raise ValueError(told[0]) from error
    progress(f"pipeline of {len(plan.pieces)} pieces to {places} shards: done")
    return _results(work_folder)


def _beam() -> tuple[Any, Any]:
    try:
        beam = importlib.import_module("apache_beam")
    except ImportError as error:
        raise ValueError(
            "The runner 'beam' needs the package apache-beam: "
            "pip install 'keras-gpt[beam]'."
        ) from error
    options = importlib.import_module("apache_beam.options.pipeline_options")
    return beam, options.PipelineOptions


def _read(
    piece: Piece, *, plan: Plan, work_folder: str
) -> Iterator[tuple[ShardKey, PlainDocument]]:
    try:
        for place, (key, source, file, text) in shards.read_piece(piece, plan):
            yield (place.split, place.shard), (key, source, file, text)
    except (ValueError, OSError) as error:
        _tell(error, work_folder)
        raise


def _build(
    shard: tuple[ShardKey, Iterable[PlainDocument]], *, plan: Plan, work_folder: str
) -> None:
    (split, number), documents = shard
    part = (Document(*document) for document in documents)
    try:
        built = shards.build_shard([part], plan=plan, split=split, number=number)
    except (ValueError, OSError) as error:
        _tell(error, work_folder)
        raise
    content = built._asdict()
    content["shards"] = {name: s._asdict() for name, s in built.shards.items()}
    path = os.path.join(work_folder, f"{split}-{number:05d}.json")
    files.write_whole(path, json.dumps(content).encode("utf-8"))


def _tell(error: Exception, work_folder: str) -> None:
    # Beam wraps errors in tracebacks of its workers; the message itself goes this way.
    message = str(error).encode("utf-8", "backslashreplace")
    name = _ERROR + hashlib.sha256(message).hexdigest()
    files.write_whole(os.path.join(work_folder, name), message)


def _names(work_folder: str) -> list[str]:
    names = sorted(tf.io.gfile.listdir(work_folder))
    return [name for name in names if not name.startswith(".")]


def _content(work_folder: str, name: str) -> str:
    with tf.io.gfile.GFile(os.path.join(work_folder, name), "rb") as file:
        return file.read().decode("utf-8")


def _told_errors(work_folder: str) -> list[str]:
    names = [name for name in _names(work_folder) if name.startswith(_ERROR)]
    return sorted(_content(work_folder, name) for name in names)


def _results(work_folder: str) -> list[Built]:
    results = []
    for name in _names(work_folder):
        content = json.loads(_content(work_folder, name))
        built = {k: BuiltShard(**shard) for k, shard in content.pop("shards").items()}
        results.append(Built(**content, shards=built))
    return results
