"""What a training run reads: the one interface of every kind of data."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.data.corpus import TokenCorpus
from keras_gpt.data.packed_dataset import PackedDataset
from keras_gpt.data.windows import (
    evaluation_batches,
    num_training_windows,
    training_dataset,
    window_starts,
)

BATCHES_AHEAD = 4


class TrainingData(Protocol):
    """Examples to train and to evaluate on.

    The batch of a step is a pure function of (seed, step): nothing is remembered, so
    a run can go on anywhere, and any number of processes can share the rows.

    Attributes:
        context_length: int. Targets per window (T).
        vocabulary_size: int. Above every token id.
        sizes: dict of int: `train_tokens`, `train_bytes`, `validation_tokens` and
            `validation_bytes`; of the held-out tokens, those that are targets.
    """

    context_length: int
    vocabulary_size: int
    sizes: dict[str, int]

    def checksum(self) -> str:
        """Returns hexadecimal digits that change with the data."""

    def training_batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int,
        rows: tuple[int, int],
    ) -> Iterator[ExampleBatch]:
        """Yields without end, from `start_step` on, some rows of each step's batch.

        Args:
            seed: int. Of the order.
            batch_size: int. Rows of the whole batch.
            start_step: int. Steps already done.
            rows: pair of ints. Number of the first row, and how many.
        """

    def evaluation_batches(
        self, *, batch_size: int, max_batches: int | None = None
    ) -> Iterable[ExampleBatch]:
        """Yields the held-out part, or so many batches spread over it.

        Each batch has `batch_size` rows; the last is filled up with masked ones.
        """

    def example_names(self, step: int, *, seed: int, batch_size: int) -> list[str]:
        """Returns a name for each row of a step's batch, to find the text again."""


class CorpusData:
    """A `TokenCorpus` in memory, cut into windows.

    Args:
        corpus: `TokenCorpus`.
        context_length: int. Targets per window (T).
        vocabulary_size: int. Of the tokenizer.

    Raises:
        ValueError: if the training part does not fill one window, or there is
            nothing held out to predict.
    """

    def __init__(
        self, corpus: TokenCorpus, *, context_length: int, vocabulary_size: int
    ) -> None:
        num_training_windows(len(corpus.train), context_length)
        if len(corpus.validation) < 2:
            raise ValueError(
                "The validation part of the corpus must hold at least 2 tokens, got "
                f"{len(corpus.validation)}; raise validation_fraction or give more "
                "text."
            )
        self._corpus = corpus
        self.context_length = context_length
        self.vocabulary_size = vocabulary_size
        self.sizes = {
            "train_tokens": len(corpus.train),
            "train_bytes": corpus.train_bytes,
            # The first one is nobody's target.
            "validation_tokens": len(corpus.validation) - 1,
            "validation_bytes": corpus.validation_bytes,
        }

    def checksum(self) -> str:
        """Returns the SHA-256 of the ids."""
        return self._corpus.checksum()

    def training_batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int,
        rows: tuple[int, int],
    ) -> Iterator[ExampleBatch]:
        """Yields batches of windows; see `training_windows` for their order."""
        dataset = training_dataset(
            self._corpus.train,
            seed=seed,
            batch_size=batch_size,
            context_length=self.context_length,
            start_step=start_step,
            rows=rows,
        )
        return _ahead(ExampleBatch(w) for w in dataset.as_numpy_iterator())

    def evaluation_batches(
        self, *, batch_size: int, max_batches: int | None = None
    ) -> Iterable[ExampleBatch]:
        """Yields batches of neighbouring windows; see `keras_gpt.data`."""
        return evaluation_batches(
            self._corpus.validation,
            batch_size=batch_size,
            context_length=self.context_length,
            max_batches=max_batches,
        )

    def example_names(self, step: int, *, seed: int, batch_size: int) -> list[str]:
        """Returns names such as `"tokens 640 to 704"`, places in the training part."""
        starts: Any = window_starts(
            len(self._corpus.train),
            step=step,
            seed=seed,
            batch_size=batch_size,
            context_length=self.context_length,
        )
        ends = np.asarray(starts) + self.context_length
        return [f"tokens {a} to {b}" for a, b in zip(starts.numpy(), ends, strict=True)]


class ShardData:
    """A `PackedDataset`, read ahead of the training.

    Args:
        dataset: `PackedDataset`.

    Raises:
        ValueError: if nothing is held out to evaluate on.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        if not dataset.num_examples("validation"):
            raise ValueError(
                f"dataset {dataset.path!r} must have validation examples, got none: "
                "prepare it with a larger validation_fraction or more documents."
            )
        self._dataset = dataset
        self.context_length = dataset.context_length
        self.vocabulary_size = dataset.vocabulary_size
        self.sizes = {
            f"{split}_{name}": count(split)
            for split in ("train", "validation")
            for name, count in (
                ("tokens", dataset.num_tokens),
                ("bytes", dataset.num_bytes),
            )
        }

    def checksum(self) -> str:
        """Returns the SHA-256 of the shards' checksums."""
        return self._dataset.checksum()

    def training_batches(
        self,
        *,
        seed: int,
        batch_size: int,
        start_step: int,
        rows: tuple[int, int],
    ) -> Iterator[ExampleBatch]:
        """Yields batches; see `PackedDataset` for their order."""
        first, number = rows
        steps = itertools.count(start_step)
        return _ahead(
            self._dataset.training_batch(
                step,
                seed=seed,
                batch_size=batch_size,
                first_row=first,
                num_rows=number,
            )
            for step in steps
        )

    def evaluation_batches(
        self, *, batch_size: int, max_batches: int | None = None
    ) -> Iterable[ExampleBatch]:
        """Yields the validation examples, each once."""
        return self._dataset.evaluation_batches(
            batch_size=batch_size, max_batches=max_batches
        )

    def example_names(self, step: int, *, seed: int, batch_size: int) -> list[str]:
        """Returns names such as `"corpus/train-00003.tfrecord#17"`."""
        return self._dataset.example_names(step, seed=seed, batch_size=batch_size)


def _ahead(batches: Iterator[ExampleBatch]) -> Iterator[ExampleBatch]:
    """Yields the same, a few of them made beforehand by a thread."""
    made: queue.Queue[ExampleBatch | BaseException] = queue.Queue(BATCHES_AHEAD)
    wanted = True

    def make() -> None:
        try:
            for batch in batches:
                made.put(batch)
                if not wanted:
                    return
        except BaseException as error:  # raised where the batch is wanted
            made.put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            batch = made.get()
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        wanted = False
        while thread.is_alive():  # it may be waiting for room
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.05)
