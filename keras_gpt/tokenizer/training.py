"""Learning a vocabulary from text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from keras_gpt.tokenizer import gpt2_files
from keras_gpt.tokenizer.gpt_tokenizer import END_TOKEN, GPTTokenizer

KINDS = ("bpe", "char")
NUM_BYTES = 256

# Places where GPT-2's pattern always splits, whatever stands around: after a line
# feed between two characters that are no space.
SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)")


def train_tokenizer(
    texts: Iterable[str | os.PathLike[str]],
    *,
    vocabulary_size: int | None = None,
    kind: str = "bpe",
    end_token: bool = True,
) -> GPTTokenizer:
    """Learns a tokenizer.

    Args:
        texts: texts as strings, or `pathlib.Path`s of UTF-8 text files.
        vocabulary_size: int. Ids in all, for `kind="bpe"`: 256 bytes, the merges,
            and the end token. `kind="char"` takes none.
        kind: `"bpe"` learns byte-pair merges (Sennrich et al. 2016) with the
            `tokenizers` library. `"char"` makes each character of the texts one
            token; one of several bytes is merged from them, so that the same
            tokenizer and files serve.
        end_token: bool. Whether the vocabulary ends with `<|endoftext|>`. Defaults
            to True.

    Returns:
        `GPTTokenizer`.

    Raises:
        ValueError: if the texts or one of the files are empty, a file is not UTF-8,
            the size is too small or larger than the texts can fill, or the kind is
            unknown.
        OSError: if a file cannot be read.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if isinstance(texts, str | bytes | os.PathLike):
        raise ValueError(f"texts must be a list of texts or paths, got {texts!r:.80}.")
    corpus = [_read(text) for text in texts]
    if not any(corpus):
        raise ValueError(f"texts must not be empty, got {len(corpus)} without text.")
    if kind == "char":
        if vocabulary_size is not None:
            raise ValueError(
                f"vocabulary_size must be None for kind 'char', got {vocabulary_size}."
            )
        tokens, merges = _characters(corpus)
    else:
        tokens, merges = _byte_pairs(corpus, vocabulary_size, int(end_token))
    if end_token:
        tokens.append(END_TOKEN)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GPTTokenizer(vocabulary=vocabulary, merges=merges)


def _read(text: str | os.PathLike[str]) -> str:
    if isinstance(text, str):
        return text
    data = Path(text).read_bytes()
    if not data:
        raise ValueError(f"{os.fspath(text)} is empty.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{os.fspath(text)} must be UTF-8, got byte "
            f"0x{data[error.start]:02x} at offset {error.start}."
        ) from error


def _byte_pairs(
    corpus: list[str], vocabulary_size: int | None, num_special: int
) -> tuple[list[str], list[str]]:
    """Returns tokens in GPT-2's order, without specials, and merges."""
    smallest = NUM_BYTES + num_special
    if vocabulary_size is not None and type(vocabulary_size) is not int:
        raise ValueError(f"vocabulary_size must be an integer, got {vocabulary_size}.")
    if vocabulary_size is None or vocabulary_size < smallest:
        raise ValueError(
            f"vocabulary_size must be at least {smallest} (bytes and special tokens), "
            f"got {vocabulary_size}."
        )
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size - num_special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # In parts, which the library counts in parallel and in little memory.
    parts = (part for text in corpus for part in SAFE_CUT.split(text))
    model.train_from_iterator(parts, trainer)
    learnt = model.get_vocab_size() + num_special
    if learnt < vocabulary_size:
        raise ValueError(
            f"vocabulary_size must be at most {learnt}, all that the texts can fill, "
            f"got {vocabulary_size}."
        )
    merges = _learnt_merges(model)
    tokens = list(gpt2_files.byte_characters().values())
    # Two merges may make the same token; it then stands once.
    tokens += [token for token in dict.fromkeys("".join(m.split(" ")) for m in merges)]
    return tokens, merges


def _learnt_merges(model: tokenizers.Tokenizer) -> list[str]:
    merges = json.loads(model.to_str())["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def _characters(corpus: list[str]) -> tuple[list[str], list[str]]:
    """Returns a token for each character, the bytes they need, and merges."""
    tokens: dict[str, None] = {}
    merges: dict[str, None] = {}
    characters = sorted(set().union(*corpus))
    encoded = [gpt2_files.to_characters(c.encode("utf-8")) for c in characters]
    for token in encoded:
        tokens.setdefault(token)
    for token in encoded:
        for end in range(1, len(token)):
            tokens.setdefault(token[end])
            tokens.setdefault(token[:end])
            merges.setdefault(f"{token[:end]} {token[end]}")
    return list(tokens), list(merges)
