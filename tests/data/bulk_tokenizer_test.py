"""Bulk encoding gives the tokenizer's own ids."""

import numpy as np
import pytest

from keras_gpt.data import bulk_tokenizer
from keras_gpt.data.bulk_tokenizer import BulkTokenizer
from keras_gpt.tokenizer import GPT1Tokenizer, train_tokenizer

TEXTS = [
    "The king is dead, long live the king!",
    "a\n\nb  c\t 'tis the king's   \r\n",
    "<|endoftext|>the king<|endoftext|>",
    "६ x \u3000六 \u00a0\u2028 naïve 🙂",
    " ",
]


@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("batch", [1, 50, 1_000_000])
def test_ids_equal_the_tokenizers(monkeypatch, tokenizer, kind, batch):
    monkeypatch.setattr(bulk_tokenizer, "BATCH_CHARACTERS", batch)
    if kind == "char":
        tokenizer = train_tokenizer(TEXTS, kind="char")
    texts = [text.encode() for text in TEXTS]
    found = list(BulkTokenizer(tokenizer).encode(texts, names=TEXTS))
    assert len(found) == len(TEXTS)
    for text, ids in zip(TEXTS, found, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.tokenize(text))


def test_long_documents_are_cut_where_no_id_changes(monkeypatch, tokenizer):
    monkeypatch.setattr(bulk_tokenizer, "BATCH_CHARACTERS", 300_000)
    text = "".join(f"The king's  {n}th\n\n lord " for n in range(40_000))
    (ids,) = BulkTokenizer(tokenizer).encode([text.encode()], names=["a"])
    np.testing.assert_array_equal(ids, tokenizer.tokenize(text))


def test_what_cannot_be_spelt_names_the_file():
    tokenizer = train_tokenizer(["abc"], kind="char")
    bulk = BulkTokenizer(tokenizer)
    texts = [b"cab", b"abd", b"abc"]
    with pytest.raises(ValueError, match="'two.txt': tokenizer must .* lacks 'd'"):
        list(bulk.encode(texts, names=["one.txt", "two.txt", "three.txt"]))


def test_other_tokenizers_encode_as_they_do():
    vocabulary = {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "<unk>": 4}
    tokenizer = GPT1Tokenizer(vocabulary=vocabulary, merges=["a b</w>"])
    bulk = BulkTokenizer(tokenizer)
    (ids,) = bulk.encode([b"ab b"], names=["a"])
    assert ids.tolist() == [3, 2]
    with pytest.raises(ValueError, match="'a': tokenizer must be able to spell"):
        list(bulk.encode([b"AB"], names=["a"]))
