"""Special tokens against the added tokens of `tokenizers`."""

import itertools
import json
import random

import keras
import pytest
import tensorflow as tf
import tokenizers

from keras_gpt.tokenizer import END_TOKEN, GPTTokenizer, train_tokenizer
from keras_gpt.tokenizer.special_tokens import SpecialTokenFinder

TEXT = "the king and the queen, the king's men\n" * 3
# A space inside, a prefix of another, byte characters, overlaps with itself and others.
SPECIAL = [
    "<pad>",
    "<|im_start|>",
    "<|im_start|>user",
    "a b",
    "\xe9\xe8",
    "==",
    "=<pad",
]


@pytest.fixture(scope="module")
def base():
    """270 tokens, the last of which is `<|endoftext|>`."""
    return train_tokenizer([TEXT], vocabulary_size=270)


def with_special(base, special):
    tokens = base.get_vocabulary() + special
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GPTTokenizer(vocabulary, base.merges, special_tokens=[END_TOKEN, *special])


@pytest.fixture(scope="module")
def tokenizer(base):
    return with_special(base, [s for s in SPECIAL if s.isascii()])


def reference_of(tokenizer):
    merges = [tuple(m.split(" ")) for m in tokenizer.merges]
    vocabulary = {t: i for i, t in enumerate(tokenizer.get_vocabulary())}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=merges)
    reference = tokenizers.Tokenizer(model)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    reference.decoder = tokenizers.decoders.ByteLevel()
    reference.add_special_tokens(tokenizer.special_tokens)
    return reference


def fuzzed_strings(special, *, count=4000, seed=0):
    draw = random.Random(seed)
    parts = [*special, *special, *" \n'=<|>ab", "the king", "\xe9", "\u6625"]
    parts += [token[:-1] for token in special] + [token[1:] for token in special]
    return [
        "".join(draw.choices(parts, k=draw.choice([1, 2, 3, 5, 8])))
        for _ in range(count)
    ]


def found_spans(finder, strings):
    """(start, token) of each special token of each string."""
    points = [[ord(c) for c in string] for string in strings]
    flat = tf.constant(list(itertools.chain(*points)), tf.int32)
    is_first = [i == 0 for row in points for i in range(len(row))]
    found = finder.find(flat, is_first=tf.constant(is_first, tf.bool))
    opens = iter(found.opens.numpy().tolist())
    return [
        [(place, token) for place, token in enumerate(row) if token >= 0]
        for row in [[next(opens) for _ in points_of] for points_of in points]
    ], found.inside.numpy().tolist()


def naive_spans(tokens, string):
    spans, place = [], 0
    while place < len(string):
        here = [t for t in tokens if string.startswith(t, place)]
        if here:
            token = max(here, key=len)
            spans.append((place, tokens.index(token)))
            place += len(token)
        else:
            place += 1
    return spans


@pytest.mark.parametrize(
    "tokens", [["a"], ["aa"], ["ab", "ba"], ["a", "aab", "abb"], ["abab", "bab", "b"]]
)
def test_finder_takes_the_leftmost_and_longest(tokens):
    strings = [
        "".join(s) for n in range(1, 9) for s in itertools.product("ab", repeat=n)
    ]
    spans, inside = found_spans(SpecialTokenFinder(tokens), strings)
    expected = [naive_spans(tokens, string) for string in strings]
    assert spans == expected
    covered = sum(len(tokens[token]) - 1 for row in expected for _, token in row)
    assert sum(inside) == covered


def test_finder_takes_long_runs_in_few_rounds():
    spans, _ = found_spans(SpecialTokenFinder(["aa"]), ["a" * 99_999])
    assert spans == [[(place, 0) for place in range(0, 99_998, 2)]]


def test_ids_equal_the_reference_s(tokenizer):
    strings = fuzzed_strings(tokenizer.special_tokens)
    expected = [e.ids for e in reference_of(tokenizer).encode_batch(strings)]
    assert tokenizer.tokenize(strings, parse_special=True).to_list() == expected
    dataset = tf.data.Dataset.from_tensor_slices(strings).batch(512)
    dataset = dataset.map(lambda texts: tokenizer.tokenize(texts, parse_special=True))
    assert [row for ids in dataset for row in ids.to_list()] == expected
    used = set(itertools.chain(*expected))
    assert used.issuperset(tokenizer.special_token_ids)


def test_text_is_never_special_unless_parsed(tokenizer):
    strings = fuzzed_strings(tokenizer.special_tokens, seed=1)
    ids = tokenizer.tokenize(strings)
    assert not set(ids.flat_values.numpy()) & set(tokenizer.special_token_ids)
    assert [s.decode() for s in tokenizer.detokenize(ids).numpy()] == strings


def test_detokenize_writes_names_as_they_are(base):
    tokenizer = with_special(base, SPECIAL)
    strings = fuzzed_strings(tokenizer.special_tokens, seed=2)
    ids = tokenizer.tokenize(strings, parse_special=True)
    assert [s.decode() for s in tokenizer.detokenize(ids).numpy()] == strings
    # As a token of bytes it would be the bytes 0xE9 and 0xE8.
    name = tokenizer.detokenize([tokenizer.token_to_id("\xe9\xe8")]).numpy()
    assert name == "\xe9\xe8".encode()


def test_specials_are_listed_in_the_order_given(base):
    tokenizer = with_special(base, ["<pad>", "a b"])
    assert tokenizer.special_tokens == [END_TOKEN, "<pad>", "a b"]
    assert tokenizer.special_token_ids == [269, 270, 271]
    assert tokenizer.end_token_id == 269


def test_default_is_the_end_token_and_none_can_be_asked_for(base):
    vocabulary = {token: index for index, token in enumerate(base.get_vocabulary())}
    assert GPTTokenizer(vocabulary, base.merges).special_tokens == [END_TOKEN]
    plain = GPTTokenizer(vocabulary, base.merges, special_tokens=[])
    assert plain.special_token_ids == []
    assert plain.end_token_id == 269
    ids = plain.tokenize(END_TOKEN, parse_special=True).numpy()
    assert ids.tolist() == plain.tokenize(END_TOKEN).numpy().tolist()
    assert 269 not in ids


def test_preset_keeps_special_tokens(tokenizer, tmp_path):
    tokenizer.save_to_preset(str(tmp_path))
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    loaded = keras.saving.deserialize_keras_object(config)
    assert loaded.special_tokens == []
    loaded.load_preset_assets(str(tmp_path))
    assert loaded.special_token_ids == tokenizer.special_token_ids
    strings = fuzzed_strings(tokenizer.special_tokens, count=200, seed=3)
    expected = tokenizer.tokenize(strings, parse_special=True)
    actual = loaded.tokenize(strings, parse_special=True)
    assert actual.to_list() == expected.to_list()
    assert loaded.detokenize(actual).numpy().tolist() == (
        tokenizer.detokenize(expected).numpy().tolist()
    )


def test_config_keeps_the_default(base):
    assert base.get_config()["special_tokens"] is None
    clone = GPTTokenizer.from_config(base.get_config())
    clone.set_vocabulary_and_merges({"a": 0, END_TOKEN: 1}, [])
    assert clone.special_token_ids == [1]


def test_exported_module_parses_special_tokens(tokenizer, tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.tables = tokenizer.trackables

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode(self, texts):
            return tokenizer.tokenize(texts, parse_special=True).to_tensor(-1)

    tf.saved_model.save(Module(), str(tmp_path))
    strings = fuzzed_strings(tokenizer.special_tokens, count=200, seed=4)
    actual = tf.saved_model.load(str(tmp_path)).encode(tf.constant(strings)).numpy()
    expected = tokenizer.tokenize(strings, parse_special=True).to_list()
    assert [[i for i in row if i >= 0] for row in actual.tolist()] == expected


@pytest.mark.parametrize(
    ("special", "message"),
    [
        (["<pad>"], "of the vocabulary, got '<pad>', which vocabulary lacks"),
        ("<pad>", "list of strings .* got '<pad>'"),
        ([""], r"not empty, got \[''\]"),
        ([3], r"list of strings .* got \[3\]"),
        (["ab"], "text becomes by merges or as a single character, got 'ab'"),
        (["a"], "text becomes by merges or as a single character, got 'a'"),
    ],
)
def test_wrong_special_tokens_are_refused(special, message):
    with pytest.raises(ValueError, match=message):
        GPTTokenizer({"a": 0, "b": 1, "ab": 2}, ["a b"], special_tokens=special)


def test_file_that_lacks_a_special_token_is_named(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text('{"a": 0}')
    with pytest.raises(ValueError, match=r"got '<pad>', which vocabulary .*vocab.json"):
        GPTTokenizer(path, [], special_tokens=["<pad>"])
