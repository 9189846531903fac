"""Ids against Hugging Face `tokenizers`, and the ways a tokenizer is used."""

import json
import random

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from keras_gpt.tokenizer import END_TOKEN, GPTTokenizer, gpt2_files, train_tokenizer

NUM_FUZZED = 10_000
ATOMS = [
    *" \n\t\r\v\f\0\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff",
    *"  \n\n'''",
    *"stmdrevlaAbZ019.,!?-_<|>",
    *["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'r", "'v", "'l", "\u2019s"],
    *["the", " the", "king", " king", "aaaa", "aaaaa", "ababab", "    ", "----"],
    *["\u6625\u7720", "\u4e0d\u89c9\u6653", "\u3002", "\xe9", "e\u0301", "\u0436"],
    *["\u0663", "\xb2", "\u2167", "\u0966", "\u096c", "\u0152", "\u01c5", "\u2c6f"],
    *["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u263a\ufe0f"],
    *["\U0001d7d8", "\U00020000", "\U000e0041", "\U0010ffff", "\ufffd", "\uffff"],
    *[END_TOKEN, "<|endof", "|>", f" {END_TOKEN} ", f"{END_TOKEN}\n"],
]


def fuzzed_strings(count=NUM_FUZZED, seed=0):
    """Strings that stress the pattern and the merges; the first few by hand."""
    draw = random.Random(seed)

    def any_character():
        plane = draw.choice([0x80, 0x800, 0x10000, 0x20000, 0x110000])
        code_point = draw.randrange(plane)
        return "x" if 0xD800 <= code_point < 0xE000 else chr(code_point)

    strings = [
        "",
        " ",
        "a\n\nb",
        "\u096c x",
        "it's",
        " 's",
        "\n's",
        "x 're",
        "'",
        "''s",
    ]
    while len(strings) < count:
        length = draw.choice([1, 2, 3, 5, 8, 13, 21])
        atoms = draw.choices(ATOMS, k=length)
        if draw.random() < 0.3:
            atoms[draw.randrange(length)] = any_character()
        if draw.random() < 0.1:
            atoms[draw.randrange(length)] = draw.choice(ATOMS) * draw.randrange(20)
        strings.append("".join(atoms))
    return strings


def reference_of(vocabulary, merges, *, special=False):
    model = tokenizers.models.BPE(
        vocab=vocabulary, merges=[tuple(m.split(" ")) for m in merges]
    )
    reference = tokenizers.Tokenizer(model)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    if special:
        reference.add_special_tokens([END_TOKEN])
    return reference


def reference_ids(tokenizer, strings, **options):
    vocabulary = {t: i for i, t in enumerate(tokenizer.get_vocabulary())}
    reference = reference_of(vocabulary, tokenizer.merges, **options)
    return [encoding.ids for encoding in reference.encode_batch(strings)]


def check_ids(actual, expected, strings):
    """Fails with the first string whose ids differ."""
    assert len(actual) == len(expected)
    for got, want, string in zip(actual, expected, strings, strict=True):
        assert got == want, repr(string)


def in_tf_data(tokenizer, strings, batch_size=512):
    dataset = tf.data.Dataset.from_tensor_slices(strings).batch(batch_size)
    return [row for ids in dataset.map(tokenizer) for row in ids.to_list()]


@pytest.fixture(scope="module")
def gpt2(shared_data):
    paths = shared_data / "gpt2_encoder.json", shared_data / "gpt2_vocab.bpe"
    for path in paths:
        if not path.is_file():
            pytest.skip(f"{path} is absent: GPT-2's vocabulary was not fetched.")
    return GPTTokenizer(vocabulary=paths[0], merges=paths[1])


@pytest.fixture(scope="module")
def trained():
    """400 tokens learnt from the fuzz itself, so that odd words merge, too."""
    return train_tokenizer(fuzzed_strings(500, seed=1), vocabulary_size=400)


@pytest.fixture(params=["gpt2", "trained"])
def either(request):
    return request.getfixturevalue(request.param)


def test_fuzzed_ids_equal_the_reference(either):
    strings = fuzzed_strings()
    expected = reference_ids(either, strings)
    assert len(strings) >= NUM_FUZZED
    check_ids(either.tokenize(strings).to_list(), expected, strings)
    check_ids(in_tf_data(either, strings), expected, strings)


def test_strings_alone_equal_strings_in_a_batch(trained):
    strings = fuzzed_strings(100, seed=2)
    batch = trained.tokenize(strings).to_list()
    alone = [trained.tokenize(string).numpy().tolist() for string in strings]
    check_ids(alone, batch, strings)


def test_every_code_point_survives(trained):
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    strings = [
        "".join(map(chr, points[start : start + 4096]))
        for start in range(0, len(points), 4096)
    ]
    ids = trained.tokenize(strings)
    assert [s.decode() for s in trained.detokenize(ids).numpy()] == strings
    first = strings[:16]
    check_ids(ids.to_list()[:16], reference_ids(trained, first), first)


def test_detokenize_reverses_tokenize(either):
    strings = fuzzed_strings(2000, seed=3)
    ids = either.tokenize(strings)
    assert [s.decode() for s in either.detokenize(ids).numpy()] == strings


def test_known_gpt2_ids(gpt2):
    # Ids that the literature gives: Radford et al. 2019, encoder.py.
    assert gpt2.tokenize("Hello world").numpy().tolist() == [15496, 995]
    assert gpt2.vocabulary_size() == 50257
    assert gpt2.end_token_id == gpt2.start_token_id == 50256
    assert gpt2.pad_token_id == 0


def test_special_token_is_text_unless_parsed(either):
    strings = [s for s in fuzzed_strings(4000, seed=4) if END_TOKEN in s]
    strings += [END_TOKEN, END_TOKEN * 2, f"it{END_TOKEN}'s", f"a  {END_TOKEN}  b"]
    plain = either.tokenize(strings).to_list()
    assert not any(either.end_token_id in row for row in plain)
    parsed = either.tokenize(strings, parse_special=True)
    expected = reference_ids(either, strings, special=True)
    check_ids(parsed.to_list(), expected, strings)
    assert [s.decode() for s in either.detokenize(parsed).numpy()] == strings


def test_special_tokens_do_not_join_across_rows(trained):
    rows = trained.tokenize(["a<|endof", "text|>b"], parse_special=True).to_list()
    assert not any(trained.end_token_id in row for row in rows)


def test_bytes_that_are_not_utf8_become_replacement_characters(trained):
    bad = [b"a\xffb", b"\xe4\xb8", b"\xed\xa0\x80", b"ok \xc3("]
    texts = [s.decode() for s in trained.detokenize(trained.tokenize(bad)).numpy()]
    assert texts[0] == "a\ufffdb"
    assert texts[3] == "ok \ufffd("
    assert all(set(text) == {"\ufffd"} for text in texts[1:3])
    # What takes their place is tokenized as that text.
    assert trained.tokenize(bad).to_list() == trained.tokenize(texts).to_list()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (2, 1, 3)])
def test_shape_of_ids_follows_the_strings(trained, shape):
    strings = np.full(shape, "the king", object)
    one = trained.tokenize("the king").numpy().tolist()
    ids = trained.tokenize(tf.constant(strings.tolist(), shape=shape))
    assert ids.dtype == tf.int32
    nested = ids.to_list() if isinstance(ids, tf.RaggedTensor) else ids.numpy().tolist()
    expected = np.broadcast_to(one, (*shape, len(one))).tolist()
    assert nested == expected


@pytest.mark.parametrize("special", [False, True])
def test_nothing_gives_nothing(trained, special):
    assert trained.tokenize("", parse_special=special).numpy().tolist() == []
    assert trained.tokenize(["", ""], parse_special=special).to_list() == [[], []]
    assert trained.tokenize([], parse_special=special).to_list() == []
    assert trained.detokenize([]).numpy() == b""
    assert trained.detokenize([[], []]).numpy().tolist() == [b"", b""]


def test_detokenize_takes_every_form_of_ids(trained):
    ids = trained.tokenize("the king").numpy()
    forms = [ids, ids.tolist(), tf.constant(ids), tf.constant(ids, tf.int64)]
    assert {trained.detokenize(form).numpy() for form in forms} == {b"the king"}
    for form in ([ids.tolist()] * 2, np.stack([ids] * 2), tf.stack([ids] * 2)):
        assert trained.detokenize(form).numpy().tolist() == [b"the king"] * 2


@pytest.mark.parametrize("bad", [-1, 400])
@pytest.mark.parametrize("wrap", [lambda i: [i], lambda i: tf.ragged.constant([[i]])])
def test_ids_out_of_range_are_refused(trained, bad, wrap):
    with pytest.raises(ValueError, match=rf"ids must be in \[0, 400\), got {bad}"):
        trained.detokenize(wrap(bad))


def test_calls_eagerly_and_in_a_tf_function(trained):
    strings = ["the king's men", "", "a\n\nb"]
    expected = trained.tokenize(strings).to_list()
    assert trained(strings) == expected
    traced = tf.function(trained, input_signature=[tf.TensorSpec([None], tf.string)])
    assert traced(tf.constant(strings)).to_list() == expected


@pytest.mark.parametrize("in_data", [False, True])
def test_serves_a_causal_lm_preprocessor(trained, in_data):
    preprocessor = keras_nlp.models.CausalLMPreprocessor(
        trained, sequence_length=8, _allow_python_workflow=False
    )
    end = trained.end_token_id
    ids = trained.tokenize("king").numpy().tolist()
    row = ([end, *ids, end] + [0] * 9)[:9]
    if in_data:
        dataset = tf.data.Dataset.from_tensors(tf.constant(["king"]))
        (x, y, _) = next(iter(dataset.map(preprocessor)))
    else:
        x, y, _ = preprocessor(["king"])
    assert np.asarray(x["token_ids"]).tolist() == [row[:-1]]
    assert np.asarray(y).tolist() == [row[1:]]


def test_exported_module_gives_the_same_ids(trained, tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.tables = trained.trackables

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode(self, texts):
            return trained.tokenize(texts).to_tensor(default_value=-1)

    strings = fuzzed_strings(300, seed=5)
    tf.saved_model.save(Module(), str(tmp_path))
    actual = tf.saved_model.load(str(tmp_path)).encode(tf.constant(strings)).numpy()
    rows = [[int(i) for i in row if i >= 0] for row in actual]
    check_ids(rows, trained.tokenize(strings).to_list(), strings)


def test_preset_round_trip(trained, tmp_path):
    trained.save_to_preset(str(tmp_path))
    folder = tmp_path / "assets" / "tokenizer"
    assert sorted(p.name for p in folder.iterdir()) == ["merges.txt", "vocabulary.json"]
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    loaded = keras.saving.deserialize_keras_object(config)
    with pytest.raises(ValueError, match="must be set before use"):
        loaded.tokenize("not yet")
    loaded.load_preset_assets(str(tmp_path))
    strings = fuzzed_strings(300, seed=6)
    assert loaded.get_vocabulary() == trained.get_vocabulary()
    check_ids(
        loaded.tokenize(strings).to_list(), trained.tokenize(strings).to_list(), strings
    )


def test_files_round_trip_and_are_the_reference_s(trained, tmp_path):
    trained.save_files(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    paths = tmp_path / "vocab.json", tmp_path / "merges.txt"
    loaded = GPTTokenizer(vocabulary=str(paths[0]), merges=str(paths[1]))
    assert loaded.get_vocabulary() == trained.get_vocabulary()
    assert loaded.merges == trained.merges
    model = tokenizers.models.BPE.from_file(*map(str, paths))
    assert model.token_to_id("a") == trained.token_to_id("a")


def test_tokens_by_id_and_ids_by_token(trained):
    assert trained.id_to_token(0) == "!"
    assert trained.token_to_id("\u0120") == list(gpt2_files.byte_characters()).index(
        ord(" ")
    )
    assert trained.token_to_id(END_TOKEN) == 399 == trained.vocabulary_size() - 1
    with pytest.raises(ValueError, match=r"id must be in \[0, 400\), got 400"):
        trained.id_to_token(400)
    with pytest.raises(ValueError, match="token must be in the vocabulary, got 'zzz'"):
        trained.token_to_id("zzz")


def test_bytes_that_the_vocabulary_lacks_are_dropped():
    tokenizer = GPTTokenizer(vocabulary={"a": 0, "b": 1, "ab": 2}, merges=["a b"])
    strings = ["axb", "x", "ab", "xaxxbx", "\u6625"]
    expected = reference_ids(tokenizer, strings)
    assert expected[0] == [2]
    assert tokenizer.tokenize(strings).to_list() == expected
    assert tokenizer.end_token_id is None
    assert tokenizer.special_token_ids == []


MANY = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        ({}, [], "vocabulary must have tokens"),
        ({"a": 0, "b": 2}, [], r"integers in \[0, 2\), got 2 for 'b'"),
        ({"a": 0, "b": 0}, [], "distinct, got 0 for 'b' and 'a'"),
        ({"a": 0, "b": True}, [], "integers"),
        ({"a": 0, "b": "1"}, [], "integers"),
        (MANY, ["a"], "'left right', got 'a' at 0"),
        (MANY, ["a b c"], "'left right', got 'a b c' at 0"),
        (MANY, ["a b"], "got 'ab' in 'a b' at 0"),
        (MANY, ["a z"], "got 'z' in 'a z' at 0"),
        (MANY, None, "given together"),
    ],
)
def test_data_that_do_not_fit_are_refused(vocabulary, merges, message):
    with pytest.raises(ValueError, match=message):
        GPTTokenizer(vocabulary=vocabulary, merges=merges)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "broken", "message"),
    [
        (b'{"a": 0', b"", "vocab.json", "JSON"),
        (b"[1]", b"", "vocab.json", "JSON object"),
        (b"\xff", b"", "vocab.json", "JSON"),
        (b'{"a": 5}', b"", "vocab.json", "got 5 for 'a'"),
        (b'{"a": 0}', b"\xff", "merges.txt", "UTF-8"),
        (b'{"a": 0}', b"a\n", "merges.txt", "'left right'"),
        (b'{"a": 0}', b"a a\n", "merges.txt", "'aa'"),
    ],
)
def test_broken_files_are_named(tmp_path, vocabulary, merges, broken, message):
    (tmp_path / "vocab.json").write_bytes(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(ValueError, match=message) as caught:
        GPTTokenizer(vocabulary=tmp_path / "vocab.json", merges=tmp_path / "merges.txt")
    assert str(tmp_path / broken) in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json"):
        GPTTokenizer(vocabulary=tmp_path / "absent.json", merges=[])
