"""Tests of encoding and splitting a corpus."""

import numpy as np
import pytest
import tokenizers

from keras_gpt.data import encode_corpus, encode_text

AWKWARD = (
    "We're  here.\n\n  'tis\tso \n x's\r\n\r\nend ,, 12 34\n\n\nनमस्ते ६ x 六朝 \u00a0a"
    "\u3000b c's 'll ' s\x1c d  \n"
)


class PatternTokenizer:
    """GPT-2's pre-tokens, each of them one token: cuts in a bad place show."""

    end_token_id = None

    def __init__(self):
        self._split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._ids = {}

    def tokenize(self, text):
        spans = [span for _, span in self._split.pre_tokenize_str(text)]
        pieces = [text[start:end] for start, end in spans]
        return [self._ids.setdefault(piece, len(self._ids)) for piece in pieces]

    def detokenize(self, ids):
        pieces = list(self._ids)
        return np.array("".join(pieces[int(i)] for i in ids).encode(), object)


class CharacterTokenizer:
    def __init__(self, end_token_id=None):
        self.end_token_id = end_token_id

    def tokenize(self, text):
        return [ord(character) for character in text if character != "?"]

    def detokenize(self, ids):
        return np.array("".join(chr(int(i)) for i in ids).encode(), object)


@pytest.mark.parametrize("chunk_characters", [1, 2, 3, 5, 17, 1000])
def test_chunks_do_not_change_the_ids(chunk_characters):
    tokenizer = PatternTokenizer()
    alphabet = list("ab1'.s \n\t\r") + ["\u00a0", "\u3000", "\x1c", "\x85", "六", "é"]
    generator = np.random.default_rng(chunk_characters)
    texts = [AWKWARD] + [
        "".join(generator.choice(alphabet, size=60)) for _ in range(200)
    ]
    for text in texts:
        ids = encode_text(text, tokenizer=tokenizer, chunk_characters=chunk_characters)
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, tokenizer.tokenize(text))


def test_split_keeps_ids_bytes_and_share():
    tokenizer = PatternTokenizer()
    text = AWKWARD * 50
    corpus = encode_corpus(text, tokenizer=tokenizer, validation_fraction=0.25)
    both = np.concatenate([corpus.train, corpus.validation])
    np.testing.assert_array_equal(both, tokenizer.tokenize(text))
    assert corpus.train_bytes + corpus.validation_bytes == len(text.encode())
    assert corpus.validation_bytes / len(text.encode()) == pytest.approx(0.25, abs=0.01)


def test_end_token_follows_each_document():
    corpus = encode_corpus(
        ["abcdef", "ghij"],
        tokenizer=CharacterTokenizer(end_token_id=0),
        validation_fraction=0.2,
    )
    assert corpus.train.tolist() == [*map(ord, "abcdef"), 0, *map(ord, "gh")]
    assert corpus.validation.tolist() == [*map(ord, "ij"), 0]
    assert (corpus.train_bytes, corpus.validation_bytes) == (8, 2)


def test_split_between_documents():
    corpus = encode_corpus(
        ["abcd", "efgh"],
        tokenizer=CharacterTokenizer(end_token_id=0),
        validation_fraction=0.5,
    )
    assert corpus.train.tolist() == [*map(ord, "abcd"), 0]
    assert corpus.validation.tolist() == [*map(ord, "efgh"), 0]


def test_checksum_tells_content_and_split_apart():
    def checksum(text, fraction=0.5):
        return encode_corpus(
            text, tokenizer=CharacterTokenizer(), validation_fraction=fraction
        ).checksum()

    assert checksum("abcdefgh") == checksum("abcdefgh")
    sums = {checksum("abcdefgh"), checksum("abcdefgi"), checksum("abcdefgh", 0.25)}
    assert len(sums) == 3


def test_bad_arguments():
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="validation_fraction"):
            encode_corpus(
                "ab", tokenizer=CharacterTokenizer(), validation_fraction=fraction
            )
    with pytest.raises(ValueError, match="documents"):
        encode_corpus([""], tokenizer=CharacterTokenizer())


def test_text_that_the_vocabulary_cannot_spell():
    with pytest.raises(ValueError, match=r"lacks '\?', in 'so. what\? no'"):
        encode_text("so. what? no", tokenizer=CharacterTokenizer())
    with pytest.raises(ValueError, match="tokenizer must be able to spell"):
        encode_corpus("a" * 20 + "?", tokenizer=CharacterTokenizer())


def test_real_tokenizer_in_chunks(tokenizer):
    ids = encode_text(AWKWARD, tokenizer=tokenizer, chunk_characters=7)
    np.testing.assert_array_equal(ids, tokenizer.tokenize(AWKWARD).numpy())
