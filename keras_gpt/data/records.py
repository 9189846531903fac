"""Records of fixed size: token ids packed, written, and read at random.

Axes: B records, T positions. A record holds T + 1 ids: T inputs and, one place
later, T targets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

MAX_UINT16 = 2**16 - 1
# What a TFRecord file puts before and after each record: its length with a checksum,
# and a checksum (tensorflow/core/lib/io/record_writer.h).
HEADER_BYTES, FOOTER_BYTES = 12, 4


class Records(NamedTuple):
    """Packed records.

    Attributes:
        token_ids: int32 (B, T + 1). 0 where padded.
        lengths: int32 (B,). Ids that are no padding.
        segments: int32 (B, T + 1), or None. The number of each id's document within
            the record, from 1; 0 where padded.
    """

    token_ids: np.ndarray
    lengths: np.ndarray
    segments: np.ndarray | None

    def target_mask(self) -> np.ndarray:
        """Returns bool (B, T). True where the target counts.

        Padding never does; with segments, nor does a target of another document
        than its input.
        """
        places = np.arange(1, self.token_ids.shape[1])
        mask = places[None, :] < self.lengths[:, None]
        if self.segments is not None:
            mask &= self.segments[:, 1:] == self.segments[:, :-1]
        return mask


class RecordFormat:
    """How a record is stored: a `tf.train.Example` of features of fixed size.

    `token_ids` little-endian uint16, or int32 where the vocabulary needs it,
    `length` int32, and `segment_ids` uint16 if stored, each as bytes for
    `tf.io.decode_raw`. So all records have the same length, and the place of each in
    the file is known.

    Args:
        context_length: int, T.
        vocabulary_size: int.
        segments: bool. Whether segments are stored.

    Raises:
        ValueError: if the context is empty, or too long to number its documents.
    """

    def __init__(
        self, *, context_length: int, vocabulary_size: int, segments: bool
    ) -> None:
        if context_length < 1:
            raise ValueError(
                f"context_length must be at least 1, got {context_length}."
            )
        if segments and context_length + 1 > MAX_UINT16:
            raise ValueError(
                f"context_length must be less than {MAX_UINT16} with segments, "
                f"got {context_length}."
            )
        self.context_length = context_length
        self.segments = segments
        is_small = vocabulary_size <= MAX_UINT16 + 1
        self.token_type = np.dtype("<u2" if is_small else "<i4")
        self._sizes = {
            "length": 4,
            "token_ids": (context_length + 1) * self.token_type.itemsize,
        }
        if segments:
            self._sizes["segment_ids"] = (context_length + 1) * 2
        # The protocol buffer around the values is the same for all records.
        self._template, self._places = _template(self._sizes)

    @property
    def example_bytes(self) -> int:
        """Size of a serialized example."""
        return len(self._template)

    @property
    def record_bytes(self) -> int:
        """Size of a record in the file."""
        return HEADER_BYTES + self.example_bytes + FOOTER_BYTES

    def serialize(self, records: Records) -> list[bytes]:
        """Returns a serialized `tf.train.Example` for each record."""
        count = len(records.lengths)
        rows = np.tile(np.frombuffer(self._template, np.uint8), (count, 1))
        self._part(rows, "token_ids")[:] = _bytes(records.token_ids, self.token_type)
        self._part(rows, "length")[:] = _bytes(records.lengths[:, None], "<i4")
        if records.segments is not None:
            self._part(rows, "segment_ids")[:] = _bytes(records.segments, "<u2")
        return [row.tobytes() for row in rows]

    def parse(self, rows: np.ndarray) -> Records:
        """Reads examples: uint8 (B, example_bytes)."""
        segments = None
        if self.segments:
            segments = self._values(rows, "segment_ids", "<u2")
        return Records(
            token_ids=self._values(rows, "token_ids", self.token_type),
            lengths=self._values(rows, "length", "<i4")[:, 0],
            segments=segments,
        )

    def _part(self, rows: np.ndarray, name: str) -> np.ndarray:
        start = self._places[name]
        return rows[:, start : start + self._sizes[name]]

    def _values(self, rows: np.ndarray, name: str, kind: np.dtype | str) -> np.ndarray:
        part = np.ascontiguousarray(self._part(rows, name))
        return part.view(kind).astype(np.int32)


def _bytes(values: np.ndarray, kind: np.dtype | str) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=kind).view(np.uint8)


def _template(sizes: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    """An example with stand-ins, and where in it each feature's value begins."""
    # Bytes that are no ASCII, and that no length ends in: found only where they stand.
    stand_ins = {
        name: bytes([0xF1 + number]) * size
        for number, (name, size) in enumerate(sizes.items())
    }
    example = tf.train.Example()
    for name, value in stand_ins.items():
        example.features.feature[name].bytes_list.value.append(value)
    # Deterministic: features in the order of their names.
    content = example.SerializeToString(deterministic=True)
    return content, {name: content.index(value) for name, value in stand_ins.items()}


class Packer:
    """Cuts the ids of documents, one after another, into records.

    Neighbouring records share one id, so that each id but the first is a target
    exactly once. The last record is filled up with padding.

    Args:
        record_format: `RecordFormat`.
    """

    def __init__(self, record_format: RecordFormat) -> None:
        self._context_length = record_format.context_length
        self._with_segments = record_format.segments
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0
        self._has_packed = False
        self.num_tokens = 0
        self.num_documents = 0

    @property
    def num_targets(self) -> int:
        """Targets that count, of all ids added so far."""
        if self._with_segments:
            return self.num_tokens - self.num_documents
        return max(self.num_tokens - 1, 0)

    def add(self, ids: np.ndarray) -> None:
        """Adds a document: int32 (n,), n at least 1."""
        numbers = np.full(len(ids), self.num_documents, np.int64)
        self._waiting.append((ids, numbers))
        self._num_waiting += len(ids)
        self.num_documents += 1
        self.num_tokens += len(ids)

    def take(self, *, last: bool = False) -> Records | None:
        """Returns the records that are full, or None; at last, what is left, too."""
        length = self._context_length
        count = max(self._num_waiting - 1, 0) // length
        # A single id that is left has been a target, unless there never was another.
        left = self._num_waiting - count * length
        is_new = left > 1 or (left == 1 and not (count or self._has_packed))
        is_padded = last and is_new
        if not count and not is_padded:
            return None
        ids = np.concatenate([ids for ids, _ in self._waiting])
        numbers = np.concatenate([numbers for _, numbers in self._waiting])
        rest = count * length
        self._waiting = [(ids[rest:], numbers[rest:])]
        self._num_waiting, self._has_packed = left, True
        rows = count + is_padded
        return self._records(ids, numbers, rows)

    def _records(self, ids: np.ndarray, numbers: np.ndarray, rows: int) -> Records:
        length = self._context_length
        places = np.arange(rows)[:, None] * length + np.arange(length + 1)[None, :]
        is_real = places < len(ids)
        places = np.minimum(places, len(ids) - 1)
        segments = None
        if self._with_segments:
            numbers = numbers[places]
            segments = np.where(is_real, numbers - numbers[:, :1] + 1, 0)
            segments = segments.astype(np.int32)
        return Records(
            token_ids=np.where(is_real, ids[places], 0).astype(np.int32),
            lengths=is_real.sum(axis=1).astype(np.int32),
            segments=segments,
        )
