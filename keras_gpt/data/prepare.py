"""From files of text to a directory of packed shards that `PackedDataset` reads."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_gpt.cores import usable_cores
from keras_gpt.data import beam_pipeline, files, local_runner, shards
from keras_gpt.data.documents import DOCUMENTS, FORMATS, Reading, split_file
from keras_gpt.data.mixing import check_weights
from keras_gpt.data.output_folder import OutputFolder
from keras_gpt.data.records import RecordFormat
from keras_gpt.data.shards import SPLITS, Built, Plan
from keras_gpt.tokenizer import tokenizer_identity

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
RUNNERS = ("local", "beam")

SHARD_BYTES = 64_000_000  # of text, where nothing else is asked for
PART_BYTES = 64_000_000  # of text that a process holds at once
PIECE_BYTES = 16_000_000
# Text is about so much larger than the compressed files that hold it.
COMPRESSION_RATIO = 3
# Less input than this for each is not worth a process: on the way to TensorFlow and a
# tokenizer it spends 6 s of a core, in which 20 MB are packed.
WORKER_BYTES = 32_000_000

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = ("tokenizer", MANIFEST)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Files that are mixed into the training with one weight.

    Args:
        name: string. Its folder in the dataset: letters, digits, `_`, `.`, `-`.
        patterns: glob patterns of files, here or where `tf.io.gfile` reaches.
        weight: float, above 0. Share of the training examples, relative to the other
            sources' weights. Defaults to 1.

    Raises:
        ValueError: if the name or the weight is out of its range.
    """

    name: str
    patterns: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not _SOURCE_NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ValueError(
                "source name must be of letters, digits and '_.-', begin with a letter "
                f"or digit and not be 'tokenizer', got {self.name!r}."
            )
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"weight of source {self.name!r} must be above 0, got {self.weight}."
            )
        if not self.patterns:
            raise ValueError(f"source {self.name!r} must have a pattern, got none.")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What the shards are to be.

    Args:
        context_length: int, T. A record holds T + 1 ids.
        segments: bool. Whether each id's document within the record is stored.
        validation_fraction: float in [0, 1). Share of the documents held out, by
            their hash. Defaults to 0.01.
        num_shards: int. Training shards of each source, at least 1. Defaults to
            None: one for about 64 MB of text.
        format: `"auto"`, `"text"`, `"jsonl"` or `"parquet"`; see `Reading`.
        field: field of JSON objects or column of tables that holds the text.
        document: what one document of a text file is: `"file"`, `"line"` or
            `"blank_line"`.

    Raises:
        ValueError: if a value is out of its range.
    """

    context_length: int
    segments: bool = False
    validation_fraction: float = 0.01
    num_shards: int | None = None
    format: str = "auto"
    field: str = "text"
    document: str = "file"

    def __post_init__(self) -> None:
        RecordFormat(
            context_length=self.context_length,
            vocabulary_size=1,
            segments=self.segments,
        )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ValueError(
                "validation_fraction must be at least 0 and less than 1, "
                f"got {self.validation_fraction}."
            )
        if self.num_shards is not None and self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards}.")
        for name, choices in (("format", FORMATS), ("document", DOCUMENTS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {value!r}."
                )

    @property
    def reading(self) -> Reading:
        """How files become documents."""
        return Reading(self.format, self.field, self.document)


def prepare_data(
    config: PrepareConfig,
    *,
    sources: Sequence[DataSource],
    tokenizer: Any,
    output_dir: str,
    runner: str = "local",
    workers: int | None = None,
    beam_options: Iterable[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Tokenizes, shuffles and packs documents into shards of fixed-length records.

    Each document is known by the hash of its text. Exact duplicates are dropped, of
    several sources from the later ones. Split, shard and order within the shard follow
    from the hash, so that the shards depend on the set of documents alone.

    A shard is the documents' ids, each followed by the tokenizer's end token if it
    has one, cut into records of context_length + 1 ids; neighbours share one.

    Args:
        config: `PrepareConfig`.
        sources: at least one `DataSource`.
        tokenizer: `GPTTokenizer` or `GPT1Tokenizer`. Its files are copied.
        output_dir: new or empty folder, here or where `tf.io.gfile` reaches; or one
            that an interrupted run left.
        runner: `"local"`, processes of this machine, or `"beam"`, an Apache Beam
            pipeline; the shards are the same.
        workers: int. Processes of the local runner. Defaults to None: one for each
            core, or fewer where there is little to do.
        beam_options: Beam's own flags, such as `"--runner=FlinkRunner"`.
        progress: called with lines that tell how far it is.

    Returns:
        the content of `dataset.json`, which is written last.

    Raises:
        ValueError: if an argument is out of its range, an input is broken, there is
            nothing to train on, or the folder holds something else.
        OSError: if a file cannot be read or written.
    """
    if runner not in RUNNERS:
        raise ValueError(f"runner must be one of {', '.join(RUNNERS)}, got {runner!r}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    shards.check_tokenizer_class(type(tokenizer).__name__)
    check_weights({source.name: source.weight for source in sources})
    plan, input_bytes = make_plan(config, sources, tokenizer, output_dir)
    shards.load_tokenizer.cache_clear()  # The folder may have held another.
    with OutputFolder(output_dir, manifest=MANIFEST, sources=plan.sources) as output:
        _write_tokenizer(tokenizer, plan)
        if runner == "beam":
            built = beam_pipeline.run(
                plan,
                options=list(beam_options),
                work_folder=output.shared_folder,
                progress=progress,
            )
        else:
            built = local_runner.run(
                plan,
                workers=workers or default_workers(input_bytes),
                work_folder=output.work_folder,
                progress=progress,
            )
        content = manifest(plan, built, sources=sources, tokenizer=tokenizer)
        _check_training_part(content, config)
        text = json.dumps(content, indent=1) + "\n"
        output.finish(text.encode("utf-8"))
    return content


def default_workers(input_bytes: int) -> int:
    """Returns how many processes so much input is worth, at most one per core."""
    return max(min(usable_cores(), input_bytes // WORKER_BYTES), 1)


def make_plan(
    config: PrepareConfig,
    sources: Sequence[DataSource],
    tokenizer: Any,
    output_dir: str,
) -> tuple[Plan, int]:
    """Finds the input files and plans the work.

    Returns:
        `Plan`, and about how many bytes of text there are.
    """
    pieces = []
    paths = _input_paths(sources)
    input_bytes = 0
    for file, (source, path) in enumerate(paths):
        pieces += split_file(
            path,
            file=file,
            source=source,
            reading=config.reading,
            piece_bytes=PIECE_BYTES,
        )
        input_bytes += _about_text_bytes(path)
    num_shards = config.num_shards or max(-(-input_bytes // SHARD_BYTES), 1)
    held_out = max(round(num_shards * config.validation_fraction), 1)
    plan = Plan(
        output=output_dir,
        sources=tuple(source.name for source in sources),
        pieces=tuple(pieces),
        reading=config.reading,
        tokenizer_class=type(tokenizer).__name__,
        vocabulary_size=tokenizer.vocabulary_size(),
        context_length=config.context_length,
        segments=config.segments,
        validation_fraction=config.validation_fraction,
        num_shards={
            "train": num_shards,
            "validation": held_out if config.validation_fraction else 0,
        },
        num_parts=max(-(-input_bytes // (num_shards * PART_BYTES)), 1),
    )
    return plan, input_bytes


def _input_paths(sources: Sequence[DataSource]) -> list[tuple[int, str]]:
    """Number of the source and path of each input file, each file once a source."""
    paths = []
    for number, source in enumerate(sources):
        found = [path for p in source.patterns for path in files.find_files(p)]
        paths += [(number, path) for path in dict.fromkeys(found)]
    return paths


def _about_text_bytes(path: str) -> int:
    # Of Parquet files, too, the pages are compressed.
    is_packed = files.compression(path) or path.lower().endswith((".parquet", ".pq"))
    return files.file_bytes(path) * (COMPRESSION_RATIO if is_packed else 1)


def _write_tokenizer(tokenizer: Any, plan: Plan) -> None:
    with tempfile.TemporaryDirectory(prefix="keras_gpt-") as folder:
        tokenizer.save_huggingface_files(folder, max_length=plan.context_length)
        tf.io.gfile.makedirs(plan.tokenizer_folder)
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            files.write_whole(os.path.join(plan.tokenizer_folder, name), content)
    # What the shards are made with must be what was given.
    read = shards.load_tokenizer(plan.tokenizer_class, plan.tokenizer_folder).tokenizer
    if tokenizer_identity(read) != tokenizer_identity(tokenizer):
        raise ValueError("tokenizer must be the same when its files are read again.")


def manifest(
    plan: Plan,
    built: Iterable[Built],
    *,
    sources: Sequence[DataSource],
    tokenizer: Any,
) -> dict[str, Any]:
    """Returns the content of `dataset.json`."""
    built = sorted(built, key=lambda one: one.number)
    listed = {
        split: {
            source: [
                one.shards[source]._asdict()
                for one in built
                if one.split == split and source in one.shards
            ]
            for source in plan.sources
        }
        for split in SPLITS
    }
    return {
        "format_version": FORMAT_VERSION,
        "context_length": plan.context_length,
        "segments": plan.segments,
        "vocabulary_size": plan.vocabulary_size,
        "tokenizer": {
            "class": plan.tokenizer_class,
            **tokenizer_identity(tokenizer),
        },
        "validation_fraction": plan.validation_fraction,
        "reading": plan.reading._asdict(),
        "weights": {source.name: source.weight for source in sources},
        "duplicates": {
            name: sum(one.duplicates[name] for one in built) for name in plan.sources
        },
        "totals": {split: _totals(listed[split]) for split in SPLITS},
        "shards": listed,
    }


def _totals(shards_by_source: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    every = [shard for listed in shards_by_source.values() for shard in listed]
    names = ("examples", "tokens", "targets", "documents", "text_bytes", "file_bytes")
    return {
        "shards": len(every),
        **{name: sum(shard[name] for shard in every) for name in names},
    }


def _check_training_part(content: dict[str, Any], config: PrepareConfig) -> None:
    for source, listed in content["shards"]["train"].items():
        if sum(shard["targets"] for shard in listed):
            continue
        held_out = content["shards"]["validation"][source]
        documents = sum(shard["documents"] for shard in held_out)
        dropped = content["duplicates"][source]
        raise ValueError(
            f"source {source!r} must have documents to train on, but none is left: "
            f"{documents} held out by validation_fraction={config.validation_fraction} "
            f"and {dropped} dropped as duplicates. Give more (and smaller) documents, "
            "or another fraction."
        )
