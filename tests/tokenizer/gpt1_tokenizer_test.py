"""GPT-1's ids and text against Hugging Face `tokenizers`."""

import json
import random
import unicodedata

import keras
import pytest
import tensorflow as tf
import tokenizers

from keras_gpt.tokenizer import END_TOKEN, GPT1Tokenizer, GPTTokenizer

NUM_FUZZED = 20_000
TEXT = """The king is dead, long live the king! What say you, my lord?
O my lord, the queen hath said that you're not the man you were;
"""
ATOMS = [
    *" \n\t\r\v\f\0\x1c\x1f\x7f\x85\xa0\xad\u1680\u2003\u2028\u202f\u3000\u200b\ufeff",
    *"  \n''\u2019.,!?-_<|>$+^`~\ufffd\u037e\u1fef\u3002\u2e3a\U00010100\U0001e95e",
    *["the", "The ", "KING", " king", "lord's", "you're", "aaaa", "U.S.A."],
    *["\xe9", "e\u0301", "E\u0300\u0323", "\u1e9b\u0323", "\u0344", "\u0345", "\u0f73"],
    *["\uac00", "\uac01", "\u1100\u1161\u11a8", "\u6625\u7720", "\uf900", "\U0002f800"],
    *[
        "\u039f\u0394\u039f\u03a3",
        "\u03c2",
        "\u0130",
        "\u0131",
        "\xdf",
        "\u212a",
        "\u01c5",
    ],
    *["\U0001f600", "\U0001f468\u200d\U0001f469", "\u263a\ufe0f", "\u0663", "\xb2"],
    *["\u302e", "\U0001d165", "\U0001d15e", "\U0001d160", "\u0ddd", "\u0dca", "\u1734"],
    *[
        "<unk>",
        "<unk",
        "</w>",
        "e</w>",
        END_TOKEN,
        "\uffff",
        "\U0010ffff",
        "\U000f0000",
    ],
]
MARKS = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]


def fuzzed_strings(count=NUM_FUZZED, seed=0):
    draw = random.Random(seed)

    def any_character():
        code_point = draw.randrange(draw.choice([0x800, 0x3000, 0x20000, 0x110000]))
        return "x" if 0xD800 <= code_point < 0xE000 else chr(code_point)

    strings = ["", " ", "'", "\0", "\ufffd", "a\u0301\u0323"]
    while len(strings) < count:
        atoms = draw.choices(ATOMS, k=draw.choice([1, 2, 3, 5, 8, 13, 21]))
        for _ in range(draw.randrange(4)):
            other = draw.choice(MARKS) if draw.random() < 0.5 else any_character()
            atoms[draw.randrange(len(atoms))] = other
        strings.append("".join(atoms))
    return strings


def pipeline(model):
    reference = tokenizers.Tokenizer(model)
    reference.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    reference.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
    return reference


def reference_of(tokenizer, *, special=False):
    vocabulary = {t: i for i, t in enumerate(tokenizer.get_vocabulary())}
    model = tokenizers.models.BPE(
        vocab=vocabulary,
        merges=[tuple(m.split(" ")) for m in tokenizer.merges],
        end_of_word_suffix="</w>",
        unk_token="<unk>" if "<unk>" in vocabulary else None,
        fuse_unk=False,
    )
    reference = pipeline(model)
    if special:
        reference.add_special_tokens(tokenizer.special_tokens)
    return reference


def learn(texts, *, special, size):
    """Learns a vocabulary, special tokens first, with the library's own trainer."""
    model = tokenizers.models.BPE(end_of_word_suffix="</w>", unk_token="<unk>")
    reference = pipeline(model)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    reference.train_from_iterator(texts, trainer)
    learnt = json.loads(reference.to_str())["model"]
    return learnt["vocab"], [" ".join(pair) for pair in learnt["merges"]]


@pytest.fixture(scope="module")
def small():
    """Letters of a few lines, so that most other characters are unknown."""
    return GPT1Tokenizer(*learn([TEXT], special=["<unk>"], size=120))


@pytest.fixture(scope="module")
def large():
    """Learnt from the fuzz itself, so that its odd characters are known and merge."""
    texts = [TEXT, *fuzzed_strings(4000, seed=1)]
    return GPT1Tokenizer(*learn(texts, special=["<unk>", END_TOKEN], size=9000))


@pytest.fixture(params=["small", "large"])
def either(request):
    return request.getfixturevalue(request.param)


def check_rows(actual, expected, strings):
    assert len(actual) == len(expected) == len(strings)
    for got, want, string in zip(actual, expected, strings, strict=True):
        assert got == want, ascii(string)


@pytest.mark.parametrize("special", [False, True])
def test_fuzzed_ids_equal_the_reference(either, special):
    strings = fuzzed_strings()
    assert len(strings) >= NUM_FUZZED
    reference = reference_of(either, special=special)
    expected = [e.ids for e in reference.encode_batch(strings)]
    check_rows(
        either.tokenize(strings, parse_special=special).to_list(), expected, strings
    )
    dataset = tf.data.Dataset.from_tensor_slices(strings).batch(512)
    dataset = dataset.map(lambda texts: either.tokenize(texts, parse_special=special))
    check_rows([row for ids in dataset for row in ids.to_list()], expected, strings)


@pytest.mark.parametrize("special", [False, True])
def test_decoded_text_equals_the_reference(either, special):
    strings = fuzzed_strings(4000, seed=2)
    ids = either.tokenize(strings, parse_special=special)
    expected = reference_of(either, special=special).decode_batch(
        ids.to_list(), skip_special_tokens=False
    )
    texts = [text.decode() for text in either.detokenize(ids).numpy()]
    check_rows(texts, expected, strings)


def test_strings_alone_equal_strings_in_a_batch(large):
    strings = fuzzed_strings(60, seed=3)
    alone = [large.tokenize(string).numpy().tolist() for string in strings]
    check_rows(alone, large.tokenize(strings).to_list(), strings)


def test_words_lose_case_accents_and_layout(small):
    ids = small.tokenize("  TH\xc9   k\u0131ng, the\n\nKing's!  ")
    # The dotless i is no i with an accent, so it is unknown.
    assert small.detokenize(ids).numpy() == b"the k<unk>ng , the king ' s !"
    assert small.tokenize("the king").shape == [2]
    assert small.end_token_id is None
    assert small.special_token_ids == [small.token_to_id("<unk>")] == [0]


def test_end_token_is_special_where_the_vocabulary_has_it(large):
    assert large.special_tokens == ["<unk>", END_TOKEN]
    assert large.end_token_id == large.start_token_id == 1
    text = f"the{END_TOKEN}king"
    parsed = large.tokenize(text, parse_special=True).numpy().tolist()
    king = large.token_to_id("king</w>")
    assert parsed == [large.token_to_id("the</w>"), 1, king]
    assert large.detokenize(parsed).numpy() == b"the <|endoftext|>king"
    assert 1 not in large.tokenize(text).numpy()


PLAIN = {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "a</w>": 4}


def test_unknown_characters_are_dropped_without_an_unknown_token():
    tokenizer = GPT1Tokenizer(PLAIN, ["a b</w>"])
    strings = ["ab", "axb", "abx", "x", "xab", "ab ab", ""]
    expected = [e.ids for e in reference_of(tokenizer).encode_batch(strings)]
    # A dropped last character leaves its word without an end.
    assert expected[:4] == [[3], [3], [0, 1], []]
    assert tokenizer.tokenize(strings).to_list() == expected
    assert tokenizer.special_tokens == []


def test_each_unknown_character_is_one_unknown_token():
    vocabulary = {**PLAIN, "<unk>": 5, "<unk>a</w>": 6}
    tokenizer = GPT1Tokenizer(vocabulary, ["a b</w>", "<unk> a</w>"])
    strings = ["xyz", "ab\u6625\u7720", "axb", "xa", "xxa", "x\u0301"]
    expected = [e.ids for e in reference_of(tokenizer).encode_batch(strings)]
    assert expected[0] == [5, 5, 5] and expected[3] == [6]
    assert tokenizer.tokenize(strings).to_list() == expected


def test_bytes_that_are_not_utf8_are_dropped(small):
    bad = [b"ki\xffng", b"\xe4\xb8", b"the\xc3 king"]
    expected = small.tokenize(["king", "", "the king"]).to_list()
    assert small.tokenize(bad).to_list() == expected


def test_word_end_inside_a_token_is_a_space_as_in_the_reference():
    tokenizer = GPT1Tokenizer({**PLAIN, "a</w>b</w>": 5}, ["a b</w>"])
    rows = [[5, 5], [0], [3, 0], [], [4, 4, 4], [0, 5]]
    expected = [reference_of(tokenizer).decode(row) for row in rows]
    texts = [text.decode() for text in tokenizer.detokenize(rows).numpy()]
    assert texts == expected == ["a b ab", "a", "ab a", "", "a a a", "aab"]


def test_detokenize_takes_every_form_of_ids():
    tokenizer = GPT1Tokenizer(PLAIN, ["a b</w>"])
    ids = [3, 4, 3]
    forms = [ids, tf.constant(ids), tf.constant(ids, tf.int64)]
    assert {tokenizer.detokenize(form).numpy() for form in forms} == {b"ab a ab"}
    dense = tf.constant([[[3, 4], [4, 4]]])
    assert tokenizer.detokenize(dense).numpy().tolist() == [[b"ab a", b"a a"]]
    mixed = tf.RaggedTensor.from_row_lengths(tf.constant([[3, 4], [4, 3]]), [2, 0])
    assert tokenizer.detokenize(mixed).to_list() == [[b"ab a", b"a ab"], []]
    nested = tf.ragged.constant([[[3], []], [[4, 3]]])
    assert tokenizer.detokenize(nested).to_list() == [[b"ab", b""], [b"a ab"]]


@pytest.mark.parametrize("bad", [-1, 5, 7])
def test_ids_out_of_range_are_refused(bad):
    tokenizer = GPT1Tokenizer(PLAIN, ["a b</w>"])
    with pytest.raises(ValueError, match=rf"ids must be in \[0, 5\), got {bad}"):
        tokenizer.detokenize([0, bad, 0])
    traced = tf.function(tokenizer.detokenize)
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(tf.constant([0, bad, 0]))


def test_exported_module_gives_the_same_ids_and_text(large, tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.tables = large.trackables

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode(self, texts):
            ids = large.tokenize(texts)
            return ids.to_tensor(default_value=-1), large.detokenize(ids)

    tf.saved_model.save(Module(), str(tmp_path))
    strings = fuzzed_strings(500, seed=4)
    ids, texts = tf.saved_model.load(str(tmp_path)).encode(tf.constant(strings))
    expected = large.tokenize(strings)
    rows = [[i for i in row if i >= 0] for row in ids.numpy().tolist()]
    check_rows(rows, expected.to_list(), strings)
    assert texts.numpy().tolist() == large.detokenize(expected).numpy().tolist()


def test_calls_in_a_layer_as_in_a_function(small):
    strings = ["the king's men", "", "a\n\nb"]
    expected = small.tokenize(strings).to_list()
    assert small(strings) == expected
    traced = tf.function(small, input_signature=[tf.TensorSpec([None], tf.string)])
    assert traced(tf.constant(strings)).to_list() == expected


def test_assets_round_trip(small, tmp_path):
    small.save_to_preset(str(tmp_path))
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    loaded = keras.saving.deserialize_keras_object(config)
    assert type(loaded) is GPT1Tokenizer
    loaded.load_preset_assets(str(tmp_path))
    strings = fuzzed_strings(300, seed=5)
    check_rows(
        loaded.tokenize(strings).to_list(), small.tokenize(strings).to_list(), strings
    )


def test_preset_of_a_model_gives_this_class(small, tmp_path):
    from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor

    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=small.vocabulary_size()
    )
    preprocessor = GPTCausalLMPreprocessor(small, sequence_length=16)
    GPTCausalLM(backbone, preprocessor).save_to_preset(str(tmp_path))
    for cls in (GPT1Tokenizer, GPTTokenizer):
        loaded = cls.from_preset(str(tmp_path))
        assert type(loaded) is GPT1Tokenizer
        assert loaded.special_tokens == small.special_tokens
        ids = small.tokenize(TEXT).numpy().tolist()
        assert loaded.tokenize(TEXT).numpy().tolist() == ids


def test_missing_word_of_a_merge_is_named():
    with pytest.raises(ValueError, match="got 'ba</w>' in 'b a</w>' at 0"):
        GPT1Tokenizer(PLAIN, ["b a</w>"])
