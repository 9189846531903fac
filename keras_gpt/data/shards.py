"""Which shard a document belongs to, and what a shard is made of.

All of it follows from the documents' keys, so that the shards are a function of the
set of documents: no order of files, number of processes or runner changes a byte.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.data import files
from keras_gpt.data.bulk_tokenizer import BulkTokenizer, portions
from keras_gpt.data.documents import Piece, Reading, read_documents
from keras_gpt.data.records import Packer, RecordFormat
from keras_gpt.tokenizer import GPT1Tokenizer, GPTTokenizer

SPLITS = ("train", "validation")
KEY_BYTES = 16
# Documents that are encoded and packed at once.
_BATCH_BYTES = 4_000_000
_TOKENIZERS = {cls.__name__: cls for cls in (GPTTokenizer, GPT1Tokenizer)}


class Plan(NamedTuple):
    """What every process needs to know.

    Attributes:
        output: folder of the dataset.
        sources: their names.
        pieces: what to read.
        reading: how it becomes documents.
        tokenizer_class: name of the tokenizer's class; its files are in the output.
        vocabulary_size: int.
        context_length: int.
        segments: bool. Whether segments are stored.
        validation_fraction: float. Share of the keys that are held out.
        num_shards: dict of split to int: shards of each source.
        num_parts: int. Parts of a shard, in the order of keys, that are held in
            memory one after another.
    """

    output: str
    sources: tuple[str, ...]
    pieces: tuple[Piece, ...]
    reading: Reading
    tokenizer_class: str
    vocabulary_size: int
    context_length: int
    segments: bool
    validation_fraction: float
    num_shards: dict[str, int]
    num_parts: int

    @property
    def tokenizer_folder(self) -> str:
        """Folder of the tokenizer's files."""
        return os.path.join(self.output, "tokenizer")

    def record_format(self) -> RecordFormat:
        """Returns the format of the shards."""
        return RecordFormat(
            context_length=self.context_length,
            vocabulary_size=self.vocabulary_size,
            segments=self.segments,
        )


class Document(NamedTuple):
    """A document on its way to a shard; they sort by key, then by source and file."""

    key: bytes
    source: int
    file: int
    text: bytes


class Place(NamedTuple):
    """Where a document goes.

    Attributes:
        split: `"train"` or `"validation"`.
        shard: int. Number of the shard in its split.
        part: int. Part of the shard.
    """

    split: str
    shard: int
    part: int


class BuiltShard(NamedTuple):
    """What is told about a shard of one source.

    Attributes:
        file: name below the dataset's folder.
        examples: int. Records.
        tokens: int. Ids, end tokens included.
        targets: int. Targets that count.
        documents: int.
        text_bytes: int. UTF-8 bytes of the documents.
        file_bytes: int.
        sha256: hexadecimal digits.
    """

    file: str
    examples: int
    tokens: int
    targets: int
    documents: int
    text_bytes: int
    file_bytes: int
    sha256: str


class Built(NamedTuple):
    """What became of one shard's documents.

    Attributes:
        split: `"train"` or `"validation"`.
        number: int. Number of the shard in its split.
        shards: `BuiltShard` by the name of the source.
        duplicates: documents dropped, by the name of the source.
    """

    split: str
    number: int
    shards: dict[str, BuiltShard]
    duplicates: dict[str, int]


def document_key(text: bytes) -> bytes:
    """Returns the 128-bit hash of a document that decides on its place."""
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def document_place(key: bytes, plan: Plan) -> Place:
    """Returns where a document goes, by its key alone."""
    # The halves are independent: whatever the number of shards, the split stays, and
    # a shard is a range of keys, its parts are ranges within.
    order, chance = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
    split = SPLITS[chance < plan.validation_fraction * 2**64]
    part = order * plan.num_shards[split] * plan.num_parts >> 64
    return Place(split, *divmod(part, plan.num_parts))


def read_piece(piece: Piece, plan: Plan) -> Iterator[tuple[Place, Document]]:
    """Yields the documents of a piece with their places."""
    for text in read_documents(piece, plan.reading):
        key = document_key(text)
        document = Document(key, piece.source, piece.file, text)
        yield document_place(key, plan), document


def shard_places(plan: Plan) -> list[tuple[str, int]]:
    """Returns split and number of all shards."""
    return [(split, n) for split in SPLITS for n in range(plan.num_shards[split])]


def shard_file(source: str, split: str, number: int) -> str:
    """Returns the name of a shard below the dataset's folder."""
    return f"{source}/{split}-{number:05d}.tfrecord"


def build_shard(
    parts: Iterable[Iterable[Document]], *, plan: Plan, split: str, number: int
) -> Built:
    """Writes a shard of each source.

    Args:
        parts: the documents of each part of the shard, in any order.
        plan: `Plan`.
        split: `"train"` or `"validation"`.
        number: int. The shard's number in the split.

    Returns:
        `Built`. A source without documents here has no shard.

    Raises:
        ValueError: if the vocabulary cannot spell a document, naming its file.
        OSError: if a file cannot be written.
    """
    tokenizer = load_tokenizer(plan.tokenizer_class, plan.tokenizer_folder)
    writers: dict[int, _ShardWriter] = {}
    duplicates = dict.fromkeys(plan.sources, 0)
    try:
        for part in parts:
            for source, documents in _distinct(part, plan, duplicates):
                if source not in writers:
                    name = shard_file(plan.sources[source], split, number)
                    writers[source] = _ShardWriter(name, plan, tokenizer)
                writers[source].add(documents)
        shards = {plan.sources[s]: writers[s].finish() for s in sorted(writers)}
    finally:
        for writer in writers.values():
            writer.discard()
    return Built(split, number, shards, duplicates)


def _distinct(
    part: Iterable[Document], plan: Plan, duplicates: dict[str, int]
) -> Iterator[tuple[int, list[Document]]]:
    """Yields the documents of each source, in order of keys, each document once."""
    kept: dict[int, list[Document]] = {}
    last = b""
    # Of the same text, the first source's comes first.
    for document in sorted(part):
        if document.key == last:
            duplicates[plan.sources[document.source]] += 1
            continue
        last = document.key
        kept.setdefault(document.source, []).append(document)
    yield from sorted(kept.items())


class Tokenizers(NamedTuple):
    """A tokenizer and its fast form."""

    tokenizer: Any
    bulk: BulkTokenizer


@functools.lru_cache(maxsize=1)
def load_tokenizer(class_name: str, folder: str) -> Tokenizers:
    """Loads the tokenizer of a dataset, once in each process.

    Raises:
        ValueError: if its files are broken, or its class is unknown.
        OSError: if they cannot be read.
    """
    tokenizer = read_tokenizer(class_name, folder)
    return Tokenizers(tokenizer, BulkTokenizer(tokenizer))


def read_tokenizer(class_name: str, folder: str) -> Any:
    """Reads the tokenizer's files; errors as `load_tokenizer`."""
    check_tokenizer_class(class_name)
    found = _TOKENIZERS[class_name].from_huggingface_files(files.local_folder(folder))
    if found is None:
        raise FileNotFoundError(f"{folder!r} must hold a tokenizer's files, got none.")
    return found


def check_tokenizer_class(class_name: str) -> None:
    """Raises unless the class is one whose files a dataset can hold."""
    if class_name not in _TOKENIZERS:
        raise ValueError(
            f"tokenizer must be a {' or a '.join(_TOKENIZERS)}, got {class_name}."
        )


class _ShardWriter:
    """Writes the shard of one source under a temporary name, then gives it its own."""

    def __init__(self, name: str, plan: Plan, tokenizers: Tokenizers) -> None:
        self._name = name
        self._path = os.path.join(plan.output, name)
        self._files = {piece.file: piece.path for piece in plan.pieces}
        self._bulk = tokenizers.bulk
        self._end_token_id = tokenizers.tokenizer.end_token_id
        self._format = plan.record_format()
        self._packer = Packer(self._format)
        self._examples = self._text_bytes = 0
        self._temporary = _local_temporary(self._path)
        self._writer = tf.io.TFRecordWriter(self._temporary)

    def add(self, documents: list[Document]) -> None:
        """Adds documents, in order."""
        for batch in portions(
            documents, size=lambda document: len(document.text), limit=_BATCH_BYTES
        ):
            texts = [document.text for document in batch]
            names = [self._files[document.file] for document in batch]
            for ids in self._bulk.encode(texts, names=names):
                self._packer.add(self._ended(ids))
            self._text_bytes += sum(map(len, texts))
            self._write(last=False)

    def _ended(self, ids: np.ndarray) -> np.ndarray:
        if self._end_token_id is None:
            return ids
        return np.append(ids, np.int32(self._end_token_id))

    def _write(self, *, last: bool) -> None:
        records = self._packer.take(last=last)
        if records is None:
            return
        for example in self._format.serialize(records):
            self._writer.write(example)
        self._examples += len(records.lengths)

    def finish(self) -> BuiltShard:
        """Writes the rest and gives the file its name."""
        self._write(last=True)
        self._writer.close()
        shard = BuiltShard(
            file=self._name,
            examples=self._examples,
            tokens=self._packer.num_tokens,
            targets=self._packer.num_targets,
            documents=self._packer.num_documents,
            text_bytes=self._text_bytes,
            file_bytes=os.path.getsize(self._temporary),
            sha256=files.checksum(self._temporary),
        )
        files.move(self._temporary, self._path)
        return shard

    def discard(self) -> None:
        """Removes what is unfinished."""
        self._writer.close()
        if os.path.exists(self._temporary):
            os.remove(self._temporary)


def _local_temporary(path: str) -> str:
    """A local name to write a file under: beside it where that is local."""
    if files.is_local(path):
        return files.temporary_name(path)
    handle, name = tempfile.mkstemp(prefix="keras_gpt-")
    os.close(handle)
    return name
