"""Reading a directory of packed shards: any batch at any time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.data import files, shards
from keras_gpt.data.batch import ExampleBatch
from keras_gpt.data.mixing import Cache, Mixture, check_weights, permutation
from keras_gpt.data.prepare import FORMAT_VERSION, MANIFEST
from keras_gpt.data.records import HEADER_BYTES, RecordFormat
from keras_gpt.data.shards import SPLITS
from keras_gpt.tokenizer import tokenizer_identity

# What keeps apart the permutations that hang on the same seed.
_SHARD_STREAM, _EXAMPLE_STREAM = 1, 2
_CACHED_NUMBERS = 8_000_000  # of permutations, 64 MB
_OPEN_SHARDS = 128


class _Shard(NamedTuple):
    file: str
    examples: int
    file_bytes: int
    sha256: str


class PackedDataset:
    """A directory that `prepare_data` wrote.

    What a training step sees is a pure function of (seed, step): row i of the batch of
    step s is position s * batch_size + i of a sequence without end. Sources share the
    positions out by their weights (`Mixture`). The sequence of a source is one epoch
    after another; an epoch visits the shards in an order by (seed, epoch) and the
    examples of a shard in an order by (seed, epoch, shard), each exactly once. The
    orders are permutations made from their keys alone (`permutation`) and kept while
    they are in use; so any step can be had at once, by any number of workers, with
    nothing remembered.

    Args:
        path: folder, here or where `tf.io.gfile` reaches; shards from elsewhere are
            copied into a temporary folder as they are used.

    Raises:
        ValueError: if it is no such directory, or a shard is missing or has not its
            size, naming the file and what was expected.
        OSError: if it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        manifest_path = os.path.join(self.path, MANIFEST)
        self._manifest = _read_manifest(manifest_path)
        try:
            self._read_settings(self._manifest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{manifest_path!r} must hold what prepare_data wrote, but lacks or "
                f"changes {error}."
            ) from error
        self._orders = Cache(_CACHED_NUMBERS)
        self._files = _ShardFiles(self.path, self._format)

    def _read_settings(self, manifest: Mapping[str, Any]) -> None:
        self.context_length: int = manifest["context_length"]
        self.vocabulary_size: int = manifest["vocabulary_size"]
        self.has_segments: bool = manifest["segments"]
        self.weights: dict[str, float] = dict(manifest["weights"])
        self.tokenizer_identity: dict[str, Any] = {
            key: value for key, value in manifest["tokenizer"].items() if key != "class"
        }
        check_weights(self.weights)
        self._mixture = Mixture(list(self.weights.values()))
        self._format = RecordFormat(
            context_length=self.context_length,
            vocabulary_size=self.vocabulary_size,
            segments=self.has_segments,
        )
        self._shards = {
            split: [self._listed(split, source) for source in self.weights]
            for split in SPLITS
        }
        self._train_sizes = [
            np.array([shard.examples for shard in listed], np.int64)
            for listed in self._shards["train"]
        ]

    def _listed(self, split: str, source: str) -> list[_Shard]:
        found = []
        for entry in self._manifest["shards"][split].get(source, ()):
            shard = _Shard(*(entry[name] for name in _Shard._fields))
            self._check_size(shard)
            found.append(shard)
        return found

    def _check_size(self, shard: _Shard) -> None:
        path = os.path.join(self.path, shard.file)
        expected = shard.examples * self._format.record_bytes
        if not shard.examples or shard.file_bytes != expected:
            raise ValueError(
                f"{MANIFEST} in {self.path!r} must list shards with examples of "
                f"{self._format.record_bytes} bytes, got {shard.examples} examples in "
                f"{shard.file_bytes} bytes for {shard.file!r}."
            )
        try:
            size = files.file_bytes(path)
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(
                f"Shard {path!r} must have {expected} bytes ({shard.examples} "
                "examples), but there is no such file."
            ) from error
        if size != expected:
            raise ValueError(
                f"Shard {path!r} must have {expected} bytes ({shard.examples} "
                f"examples), got {size}: it is {_kind_of_damage(size, expected)}."
            )

    def tokenizer(self) -> Any:
        """Returns the tokenizer that made the ids, from its files in the dataset.

        Raises:
            ValueError: if it is not the tokenizer of the shards any more.
            OSError: if its files cannot be read.
        """
        tokenizer = shards.read_tokenizer(
            self._manifest["tokenizer"]["class"], os.path.join(self.path, "tokenizer")
        )
        self.check_tokenizer(tokenizer)
        return tokenizer

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises `ValueError` unless a tokenizer is the one that made the ids."""
        given = tokenizer_identity(tokenizer)
        for key, expected in self.tokenizer_identity.items():
            if given.get(key) != expected:
                raise ValueError(
                    f"tokenizer must be the one of the dataset {self.path!r}, whose "
                    f"{key} is {expected!r}, got {given.get(key)!r}."
                )

    def num_examples(self, split: str) -> int:
        """Returns the number of windows of a split."""
        return self._total(split, "examples")

    def num_tokens(self, split: str) -> int:
        """Returns the number of targets that count in a split."""
        return self._total(split, "targets")

    def num_bytes(self, split: str) -> int:
        """Returns the UTF-8 bytes of text in a split."""
        return self._total(split, "text_bytes")

    def num_documents(self, split: str) -> int:
        """Returns the number of documents in a split."""
        return self._total(split, "documents")

    def _total(self, split: str, name: str) -> int:
        _check_split(split)
        listed = self._manifest["shards"][split].values()
        return sum(entry[name] for entries in listed for entry in entries)

    def checksum(self) -> str:
        """Returns the SHA-256 of all shards' checksums, as hexadecimal digits.

        Two datasets that train alike have the same: shards, lengths and weights.
        """
        content = {
            "context_length": self.context_length,
            "segments": self.has_segments,
            "weights": list(self.weights.items()),
            "tokenizer": self.tokenizer_identity,
            "shards": {
                split: [[(s.file, s.sha256) for s in listed] for listed in by_source]
                for split, by_source in self._shards.items()
            },
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def training_batch(
        self,
        step: int,
        *,
        seed: int,
        batch_size: int,
        first_row: int = 0,
        num_rows: int | None = None,
    ) -> ExampleBatch:
        """Returns a batch of a training step, or some rows of it.

        Args:
            step: int. Steps done before.
            seed: int, at least 0.
            batch_size: int, B, over all workers.
            first_row: int. First row to return. Defaults to 0.
            num_rows: int. Number of rows to return. Defaults to None: the rest.

        Returns:
            `ExampleBatch` of `num_rows` rows.

        Raises:
            ValueError: if an argument is out of its range, a source has no examples,
                or a shard is not what was written, naming the file.
            OSError: if a shard cannot be read.
        """
        rows = _rows(first_row, num_rows, batch_size)
        positions = _positions(step, seed, batch_size)[rows]
        return self._read("train", self._places(positions, seed=seed))

    def example_names(self, step: int, *, seed: int, batch_size: int) -> list[str]:
        """Returns what each row of a training batch is: shard and example.

        Args:
            step: int. Steps done before.
            seed: int, at least 0.
            batch_size: int, B.

        Returns:
            strings such as `"corpus/train-00003.tfrecord#17"`.
        """
        positions = _positions(step, seed, batch_size)
        return [
            f"{self._shards['train'][source][shard].file}#{example}"
            for source, shard, example in self._places(positions, seed=seed)
        ]

    def evaluation_batches(
        self, *, batch_size: int, max_batches: int | None = None
    ) -> Iterator[ExampleBatch]:
        """Yields the validation examples, each once.

        Args:
            batch_size: int, B. The last batch is filled up with masked rows.
            max_batches: int. If given and smaller than the whole, that many full
                batches of examples spread evenly over the split. Defaults to None,
                all.

        Yields:
            `ExampleBatch` of B rows.

        Raises:
            ValueError: if an argument is out of its range, there is no example, or
                a shard is not what was written, naming the file.
            OSError: if a shard cannot be read.
        """
        _check_at_least_1("batch_size", batch_size)
        if max_batches is not None:
            _check_at_least_1("max_batches", max_batches)
        places = self._validation_places()
        if not len(places):
            raise ValueError(
                f"The dataset {self.path!r} must have validation examples, got none: "
                "prepare it with a larger validation_fraction or more documents."
            )
        if max_batches is not None and max_batches * batch_size < len(places):
            wanted = max_batches * batch_size
            places = places[np.arange(wanted) * len(places) // wanted]
        for first in range(0, len(places), batch_size):
            batch = self._read("validation", places[first : first + batch_size])
            yield _filled_up(batch, batch_size)

    def _validation_places(self) -> np.ndarray:
        """Source, shard and example of all validation examples: int64 (n, 3)."""
        parts = [np.empty((0, 3), np.int64)]
        for source, listed in enumerate(self._shards["validation"]):
            for number, shard in enumerate(listed):
                part = np.empty((shard.examples, 3), np.int64)
                part[:, 0], part[:, 1] = source, number
                part[:, 2] = np.arange(shard.examples)
                parts.append(part)
        return np.concatenate(parts)

    def _places(self, positions: np.ndarray, *, seed: int) -> np.ndarray:
        """Source, shard and example of positions of the sequence: int64 (B, 3)."""
        mixed = self._mixture.at(positions, seed=seed)
        places = np.empty((len(positions), 3), np.int64)
        places[:, 0] = mixed.sources
        for source in np.unique(mixed.sources):
            here = np.flatnonzero(mixed.sources == source)
            sizes = self._train_sizes[source]
            if not sizes.size:
                name = list(self.weights)[source]
                raise ValueError(
                    f"Source {name!r} of the dataset {self.path!r} must have training "
                    "examples, got none."
                )
            epochs, indices = np.divmod(mixed.indices[here], sizes.sum())
            for epoch in np.unique(epochs):
                rows = epochs == epoch
                places[here[rows], 1:] = self._in_epoch(
                    indices[rows], sizes, (seed, int(source), int(epoch))
                )
        return places

    def _in_epoch(
        self, indices: np.ndarray, sizes: np.ndarray, key: tuple[int, int, int]
    ) -> np.ndarray:
        """Shard and example of places in an epoch of a source: int64 (n, 2)."""
        order = self._order(len(sizes), _SHARD_STREAM, *key)
        ends = np.cumsum(sizes[order])
        nth = np.searchsorted(ends, indices, side="right")
        found = np.empty((len(indices), 2), np.int64)
        found[:, 0] = order[nth]
        offsets = indices - (ends - sizes[order])[nth]
        for shard in np.unique(found[:, 0]):
            rows = found[:, 0] == shard
            examples = self._order(int(sizes[shard]), _EXAMPLE_STREAM, *key, int(shard))
            found[rows, 1] = examples[offsets[rows]]
        return found

    def _order(self, size: int, *key: int) -> np.ndarray:
        return self._orders.get((size, *key), lambda: permutation(size, *key))

    def _read(self, split: str, places: np.ndarray) -> ExampleBatch:
        examples = np.empty((len(places), self._format.example_bytes), np.uint8)
        shard_keys = places[:, 0] << 32 | places[:, 1]
        for key in np.unique(shard_keys):
            rows = np.flatnonzero(shard_keys == key)
            shard = self._shards[split][key >> 32][key & 0xFFFFFFFF]
            examples[rows] = self._files.examples(shard)[places[rows, 2]]
        records = self._format.parse(examples)
        return ExampleBatch(records.token_ids, records.target_mask(), records.segments)


class _ShardFiles:
    """Shards in memory maps, each checked when it is first opened."""

    def __init__(self, folder: str, record_format: RecordFormat) -> None:
        self._folder = folder
        self._format = record_format
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._checked: set[str] = set()
        self._copies: str | None = None

    def examples(self, shard: _Shard) -> np.ndarray:
        """Returns uint8 (examples, example_bytes), read when it is used."""
        if shard.file in self._maps:
            self._maps.move_to_end(shard.file)
            return self._maps[shard.file]
        path = self._local(shard)
        if shard.file not in self._checked:
            self._check(shard, path)
            self._checked.add(shard.file)
        content = np.memmap(path, np.uint8, mode="r")
        rows = content.reshape(shard.examples, self._format.record_bytes)
        size = self._format.example_bytes
        found = self._maps[shard.file] = rows[:, HEADER_BYTES : HEADER_BYTES + size]
        if len(self._maps) > _OPEN_SHARDS:
            oldest, _ = self._maps.popitem(last=False)
            if self._copies is not None:
                os.remove(self._copy_of(oldest))
        return found

    def _local(self, shard: _Shard) -> str:
        path = os.path.join(self._folder, shard.file)
        if files.is_local(path):
            return path
        if self._copies is None:
            self._copies = tempfile.mkdtemp(prefix="keras_gpt-")
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        tf.io.gfile.copy(path, self._copy_of(shard.file), overwrite=True)
        return self._copy_of(shard.file)

    def _copy_of(self, name: str) -> str:
        return os.path.join(str(self._copies), name.replace("/", "~"))

    def _check(self, shard: _Shard, path: str) -> None:
        found = files.checksum(path)
        if found != shard.sha256 or os.path.getsize(path) != shard.file_bytes:
            raise ValueError(
                f"Shard {os.path.join(self._folder, shard.file)!r} must have the "
                f"SHA-256 {shard.sha256}, got {found}: it was changed or damaged."
            )


def _read_manifest(path: str) -> Mapping[str, Any]:
    if not tf.io.gfile.exists(path):
        raise ValueError(
            f"{os.path.dirname(path)!r} must be a dataset of prepare_data, but has no "
            f"{MANIFEST}: it was not prepared, or not to the end."
        )
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path!r} must hold the JSON that prepare_data wrote, but {error!r}."
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path!r} must have format_version {FORMAT_VERSION}, got {version!r}."
        )
    return manifest


def _kind_of_damage(size: int, expected: int) -> str:
    if not size:
        return "empty"
    return "cut short" if size < expected else "too long"


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")


def _check_at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def _positions(step: int, seed: int, batch_size: int) -> np.ndarray:
    _check_at_least_1("batch_size", batch_size)
    for name, value in (("step", step), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")
    return np.arange(batch_size, dtype=np.int64) + int(step) * batch_size


def _rows(first_row: int, num_rows: int | None, batch_size: int) -> slice:
    if num_rows is None:
        num_rows = batch_size - first_row
    if first_row < 0 or num_rows < 0 or first_row + num_rows > batch_size:
        raise ValueError(
            f"first_row and num_rows must lie in batch_size = {batch_size}, "
            f"got {first_row} and {num_rows}."
        )
    return slice(first_row, first_row + num_rows)


def _filled_up(batch: ExampleBatch, batch_size: int) -> ExampleBatch:
    missing = batch_size - len(batch.windows)
    if not missing:
        return batch

    def fill(values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [values, np.zeros((missing, *values.shape[1:]), values.dtype)]
        )

    return batch.map(fill)
