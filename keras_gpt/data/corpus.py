"""Encoding documents to token ids, split by position into train and validation."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Characters per tokenizer call: large enough that the call's overhead vanishes,
# small enough that the tokenizer's tables of a call stay small.
CHUNK_CHARACTERS = 200_000

# A white-space character right after a character that is none. Every pre-token of
# the GPT-2 pattern is white space alone, or a run of other characters with at most
# one space before it; so one always ends here, and the pattern looks behind
# nowhere: encoding the two sides apart gives the ids of the whole. Left of the
# boundary, `\S` excludes everything that any definition of white space includes;
# right of it stand only the four characters that every definition includes.
_BOUNDARY = re.compile(r"(?<=\S)[ \n\r\t]")


class TokenCorpus(NamedTuple):
    """Token ids of a corpus.

    Attributes:
        train: int32 (n,) array. Ids to train on.
        validation: int32 (m,) array. Ids held out, from the corpus' end.
        train_bytes: int. UTF-8 bytes of text behind `train`.
        validation_bytes: int. UTF-8 bytes of text behind `validation`.
    """

    train: np.ndarray
    validation: np.ndarray
    train_bytes: int
    validation_bytes: int

    def checksum(self) -> str:
        """Returns the SHA-256 of both parts' ids, as hexadecimal digits."""
        digest = hashlib.sha256()
        for ids in (self.train, self.validation):
            digest.update(f"{len(ids)}:".encode())
            digest.update(np.ascontiguousarray(ids, dtype="<i4").tobytes())
        return digest.hexdigest()


def encode_text(
    text: str, *, tokenizer: Any, chunk_characters: int = CHUNK_CHARACTERS
) -> np.ndarray:
    """Encodes one text of any length; the ids equal those of a single call.

    Args:
        text: string.
        tokenizer: with `tokenize(string) -> int32 (n,)` and its inverse
            `detokenize`, whose tokens never span a character that is no white space
            and white space after it (byte-level BPE with GPT-2's pattern, or
            characters).
        chunk_characters: int. Texts are cut at the first safe place after so many
            characters. Defaults to 200,000.

    Returns:
        int32 (n,) array.

    Raises:
        ValueError: if the vocabulary cannot spell the text (a character vocabulary
            that was made from another text, say), naming the first such place.
    """
    pieces = [np.zeros([0], np.int32)]
    for chunk in text_chunks(text, chunk_characters):
        ids = np.asarray(tokenizer.tokenize(chunk), np.int32).reshape(-1)
        _check_spelling(chunk, ids, tokenizer)
        pieces.append(ids)
    return np.concatenate(pieces)


def _check_spelling(text: str, ids: np.ndarray, tokenizer: Any) -> None:
    # Byte-level vocabularies skip bytes they lack; training on what is left would
    # silently be training on another text.
    spelt = np.asarray(tokenizer.detokenize(tf.constant(ids))).item()
    if spelt == text.encode("utf-8"):
        return
    common = os.path.commonprefix([spelt.decode("utf-8", "replace"), text])
    raise ValueError(
        "tokenizer must be able to spell the corpus, but its vocabulary lacks "
        f"{text[len(common) : len(common) + 1]!r}, in "
        f"{text[max(len(common) - 10, 0) : len(common) + 10]!r}."
    )


def encode_corpus(
    documents: str | Sequence[str],
    *,
    tokenizer: Any,
    validation_fraction: float = 0.1,
) -> TokenCorpus:
    """Encodes documents and holds out the last part of the text.

    An end token follows each document where the tokenizer has one. The cut is by
    position in characters, moved to the next place where cutting changes no id.

    Args:
        documents: string or list of strings, not all empty.
        tokenizer: as in `encode_text`, with `end_token_id` (int or None).
        validation_fraction: float in (0, 1). Share of the characters held out.
            Defaults to 0.1.

    Returns:
        A `TokenCorpus`.

    Raises:
        ValueError: if an argument is out of its range, or the vocabulary cannot
            spell a document.
    """
    if isinstance(documents, str):
        documents = [documents]
    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(
            f"validation_fraction must be in (0, 1), got {validation_fraction}."
        )
    total = sum(len(document) for document in documents)
    if not total:
        raise ValueError("documents must hold some text, got none.")
    left = int(total * (1.0 - validation_fraction))  # characters still to train on
    train: list[tuple[str, bool]] = []
    held_out: list[tuple[str, bool]] = []
    for document in documents:
        cut = _cut_at_or_after(document, left) if left > 0 else 0
        left -= len(document)
        # The end token belongs to the part that holds the document's end.
        if cut > 0:
            train.append((document[:cut], cut == len(document)))
        if cut < len(document):
            held_out.append((document[cut:], True))
    return TokenCorpus(
        train=_encode_parts(train, tokenizer),
        validation=_encode_parts(held_out, tokenizer),
        train_bytes=_num_bytes(train),
        validation_bytes=_num_bytes(held_out),
    )


def _encode_parts(parts: list[tuple[str, bool]], tokenizer: Any) -> np.ndarray:
    end_token_id = getattr(tokenizer, "end_token_id", None)
    pieces = [np.zeros([0], np.int32)]
    for text, ends_document in parts:
        pieces.append(encode_text(text, tokenizer=tokenizer))
        if ends_document and end_token_id is not None:
            pieces.append(np.array([end_token_id], np.int32))
    return np.concatenate(pieces)


def _num_bytes(parts: list[tuple[str, bool]]) -> int:
    return sum(len(text.encode("utf-8")) for text, _ in parts)


def _cut_at_or_after(text: str, position: int) -> int:
    if position >= len(text):
        return len(text)
    boundary = _BOUNDARY.search(text, max(position, 1))
    # A text with no white space after the place (one long line of Chinese, say) is
    # cut at the place itself: a held-out part matters more than one token's shape.
    return boundary.start() if boundary else max(position, 1)


def text_chunks(text: str, chunk_characters: int = CHUNK_CHARACTERS) -> Iterator[str]:
    """Cuts a text into parts whose ids, joined, are those of the whole.

    Args:
        text: string.
        chunk_characters: int. Parts end at the first safe place after so many
            characters; a text without one stays whole. Defaults to 200,000.

    Yields:
        strings, none of them empty.
    """
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + max(chunk_characters, 1))
        end = boundary.start() if boundary else len(text)
        yield text[start:end]
        start = end
