"""Encoding many documents at once, on one core or all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from keras_gpt.data.corpus import encode_text, text_chunks
from keras_gpt.tokenizer import GPTTokenizer, gpt2_files, tokenizer_json

T = TypeVar("T")

# Text handed to the `tokenizers` library at once: its result takes a hundredfold.
BATCH_CHARACTERS = 1_000_000


class BulkTokenizer:
    """Encodes documents with the ids of a tokenizer, faster than the tokenizer.

    Byte-level BPE runs in the `tokenizers` library with the tokenizer's own
    vocabulary and merges, and without its special tokens, so that `<|endoftext|>`
    in a text is text. Any other tokenizer runs as in `encode_text`.

    Args:
        tokenizer: a `GPTTokenizer`, or as in `encode_text`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pipeline: Any = None
        # A subclass may encode in another way, as GPT-1's does.
        if type(tokenizer) is not GPTTokenizer:
            return
        tokens = tokenizer.get_vocabulary()
        vocabulary = {token: index for index, token in enumerate(tokens)}
        self._pipeline = tokenizer_json.build_pipeline(
            tokenizer_json.Contents(vocabulary, tokenizer.merges, special_tokens=[]),
            tokenizer_json.GPT2,
        )
        characters = gpt2_files.byte_characters()
        self._unknown = bytes(
            byte for byte in range(256) if characters[byte] not in vocabulary
        )

    def encode(
        self, documents: Sequence[bytes], *, names: Sequence[str]
    ) -> Iterator[np.ndarray]:
        """Yields the ids of each document, in order.

        Args:
            documents: UTF-8 texts.
            names: of each document, what an error calls it: its file.

        Yields:
            int32 (n,).

        Raises:
            ValueError: if the vocabulary cannot spell a document, naming it.
        """
        chunks: list[str] = []
        counts: list[int] = []  # chunks of each waiting document
        size = 0
        for document, name in zip(documents, names, strict=True):
            text = document.decode("utf-8")
            if self._pipeline is None or self._lacks(document):
                yield from self._encode_chunks(chunks, counts)
                chunks, counts, size = [], [], 0
                yield self._encode_slowly(text, name)
                continue
            parts = list(text_chunks(text))
            chunks += parts
            counts.append(len(parts))
            size += len(text)
            if size >= BATCH_CHARACTERS:
                yield from self._encode_chunks(chunks, counts)
                chunks, counts, size = [], [], 0
        yield from self._encode_chunks(chunks, counts)

    def _lacks(self, document: bytes) -> bool:
        """Whether a document has bytes that the vocabulary lacks."""
        if not self._unknown:
            return False
        return len(document.translate(None, self._unknown)) != len(document)

    def _encode_slowly(self, text: str, name: str) -> np.ndarray:
        try:
            return encode_text(text, tokenizer=self._tokenizer)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error

    def _encode_chunks(
        self, chunks: list[str], counts: list[int]
    ) -> Iterator[np.ndarray]:
        start = 0
        encoded = self._ids(chunks)
        for count in counts:
            yield np.concatenate(encoded[start : start + count])
            start += count

    def _ids(self, chunks: list[str]) -> list[np.ndarray]:
        """Ids of each chunk; of a very long document, some chunks at a time."""
        ids: list[np.ndarray] = []
        for batch in portions(chunks, size=len, limit=BATCH_CHARACTERS):
            found = self._pipeline.encode_batch_fast(batch, add_special_tokens=False)
            ids += [np.array(encoding.ids, np.int32) for encoding in found]
        return ids


def portions(
    items: Iterable[T], *, size: Callable[[T], int], limit: int
) -> Iterator[list[T]]:
    """Yields the items in lists, each ended once its sizes reach the limit.

    Args:
        items: iterable.
        size: function of an item to its size.
        limit: int. Of the sizes of a list together.
    """
    portion: list[T] = []
    total = 0
    for item in items:
        portion.append(item)
        total += size(item)
        if total >= limit:
            yield portion
            portion, total = [], 0
    if portion:
        yield portion
