"""BERT's words against the normaliser and pre-tokenizer of `tokenizers`."""

import random
import unicodedata

import pytest
import tensorflow as tf
from tokenizers import normalizers, pre_tokenizers

from keras_gpt.tokenizer.bert_rules import bert_rules
from keras_gpt.tokenizer.bert_words import BertWordSplitter
from keras_gpt.tokenizer.special_tokens import SpecialTokenFinder

NORMALIZER = normalizers.BertNormalizer(lowercase=True)
PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()
CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
MARKS = [c for c in CHARACTERS if unicodedata.combining(c)]
# Marks that the library does not take for accents; NFD sorts them.
KEPT_MARKS = [c for c in MARKS if NORMALIZER.normalize_str(c)]


def reference_words(string):
    normalized = NORMALIZER.normalize_str(string)
    return [word for word, _ in PRE_TOKENIZER.pre_tokenize_str(normalized)]


def check_words(splitter, strings):
    words = splitter.split(tf.constant(strings))
    rows = tf.RaggedTensor.from_row_lengths(words.words, words.counts)
    assert rows.nrows() == len(strings)
    for row, string in zip(rows.to_list(), strings, strict=True):
        assert [w.decode() for w in row] == reference_words(string), ascii(string)


@pytest.fixture(scope="module")
def splitter():
    return BertWordSplitter()


def test_every_code_point_becomes_what_the_reference_makes_of_it(splitter):
    # In parts, for the sake of memory. Each text is one word or begins with x and ends
    # with y, so that words in a row are the same only if each text's are.
    for start in range(0, len(CHARACTERS), 2**16):
        texts = [f"x{c}y" for c in CHARACTERS[start : start + 2**16]]
        words = splitter.split(tf.constant(texts))
        expected = reference_words("\n".join(texts))
        actual = [word.decode() for word in words.words.numpy()]
        pairs = enumerate(zip(actual, expected, strict=False))
        wrong = next((pair for pair in pairs if pair[1][0] != pair[1][1]), None)
        assert wrong is None and len(actual) == len(expected)


def test_marks_are_sorted_as_nfd_does(splitter):
    assert len(KEPT_MARKS) > 100
    draw = random.Random(1)
    strings = []
    for _ in range(5000):
        marks = draw.choices(KEPT_MARKS, k=draw.randrange(2, 7)) + draw.choices(MARKS)
        draw.shuffle(marks)
        marks.insert(draw.randrange(len(marks)), draw.choice(CHARACTERS))
        strings.append(draw.choice(["", "a", "\u6625", "\u0e48"]) + "".join(marks))
    check_words(splitter, strings)


def test_marks_are_not_sorted_across_texts(splitter):
    # Of classes 216 and 9, both kept: within one text they change places.
    high, low = "\U0001d165", "\U00011235"
    assert reference_words(high + low) == [low + high]
    check_words(splitter, [high + low, high, low])


def test_known_words(splitter):
    strings = [
        "Caf\xe9s,  it's\t\u4e0d\u89c9OK?",
        "\u0130I\u03a3 \x00a\u200bb\ufffd",
        " ",
        "",
    ]
    words = splitter.split(tf.constant(strings))
    assert [w.decode() for w in words.words.numpy()] == [
        *["cafes", ",", "it", "'", "s", "\u4e0d", "\u89c9", "ok", "?"],
        *["ii\u03c3", "ab"],
    ]
    assert words.counts.numpy().tolist() == [9, 2, 0, 0]
    assert words.special is None
    check_words(splitter, strings)


def test_special_tokens_stand_apart(splitter):
    finder = SpecialTokenFinder(["<Pad>", " x"])
    texts = tf.constant(["A<Pad>\u0301B<pad> x", "<Pad>", ""])
    words = splitter.split(texts, special_tokens=finder)
    plain = [w.decode() for w in words.words.numpy()]
    special = words.special.numpy().tolist()
    kept = [w if s < 0 else s for w, s in zip(plain, special, strict=True)]
    assert kept == ["a", 0, "b", "<", "pad", ">", 1, 0]
    assert words.counts.numpy().tolist() == [7, 1, 0]


def test_rules_are_small_and_made_once():
    rules = bert_rules()
    assert bert_rules() is rules
    arrays = [*rules.rules, *rules[1:]]
    assert sum(a.nbytes for a in arrays) < 2**20
    # The graph sorts marks by run * 256 + rank.
    assert 0 < rules.mark_ranks.max() < 256
