"""Hugging Face's files: read alike from every form, refused, and written."""

import copy
import json
import random

import pytest
import tokenizers

from keras_gpt.tokenizer import (
    END_TOKEN,
    GPT1Tokenizer,
    GPTTokenizer,
    gpt2_files,
    train_tokenizer,
)

TEXT = (
    "The king's men and the queen;\n\n they know\tthe  kings \u6625\u7720 caf\xe9s.\n"
    * 3
)
STRINGS = [
    *[
        "",
        " ",
        "the king",
        "The  queen's\n\n men",
        "\u6625\u7720 \u96ea",
        "CAF\xc9S, e\u0301!",
    ],
    *[END_TOKEN, f"a{END_TOKEN} b", "<unk>", "a<pad x>b", "  <pad x>", "know\t1234"],
]
PAD = "<pad x>"


def fuzzed_strings(count=1000):
    draw = random.Random(0)
    parts = [*STRINGS, *" \n't,", "king", "\xe9", "\U0001f600"]
    return STRINGS + ["".join(draw.choices(parts, k=5)) for _ in range(count)]


@pytest.fixture(scope="module")
def gpt2_like():
    """Bytes, merges, `<|endoftext|>` and `<pad x>`."""
    learnt = train_tokenizer([TEXT], vocabulary_size=290)
    tokens = [*learnt.get_vocabulary(), PAD]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GPTTokenizer(vocabulary, learnt.merges, special_tokens=[END_TOKEN, PAD])


@pytest.fixture(scope="module")
def gpt1_like():
    """`<unk>`, letters and merges of a few words, and `<pad x>`."""
    merges = ["t h", "th e</w>", "k i", "ki n", "kin g</w>", "m e", "me n</w>"]
    letters = "abcdefghiklmnoqrstuwy.,'\u6625"
    tokens = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(merge.split(" ")) for merge in merges] + [PAD]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GPT1Tokenizer(vocabulary, merges, special_tokens=["<unk>", PAD])


@pytest.fixture(params=["gpt2_like", "gpt1_like"])
def either(request):
    return request.getfixturevalue(request.param)


def written(tokenizer, folder):
    """The tokenizer.json that the tokenizer writes, as data."""
    tokenizer.save_huggingface_files(folder, max_length=64)
    return json.loads((folder / "tokenizer.json").read_text())


def read(cls, folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return cls.from_huggingface_files(folder)


def check_same(actual, expected):
    assert type(actual) is type(expected)
    assert actual.get_vocabulary() == expected.get_vocabulary()
    assert actual.merges == expected.merges
    assert actual.special_tokens == expected.special_tokens
    for special in (False, True):
        ids = expected.tokenize(fuzzed_strings(), parse_special=special)
        again = actual.tokenize(fuzzed_strings(), parse_special=special)
        assert again.to_list() == ids.to_list()
        texts = actual.detokenize(ids).numpy().tolist()
        assert texts == expected.detokenize(ids).numpy().tolist()


def check_reference(path, tokenizer):
    """Ids and text of the library's own tokenizer, which always parses specials."""
    reference = tokenizers.Tokenizer.from_file(str(path))
    strings = fuzzed_strings()
    expected = [encoding.ids for encoding in reference.encode_batch(strings)]
    ids = tokenizer.tokenize(strings, parse_special=True)
    assert ids.to_list() == expected
    texts = [
        text.decode("utf-8", "replace") for text in tokenizer.detokenize(ids).numpy()
    ]
    assert texts == reference.decode_batch(expected, skip_special_tokens=False)


def test_written_files_are_those_of_the_reference(either, tmp_path):
    either.save_huggingface_files(tmp_path / "new" / "folder", max_length=64)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [
        *["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    ]
    check_reference(folder / "tokenizer.json", either)
    model = tokenizers.models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    assert model.token_to_id(PAD) == either.token_to_id(PAD)


def test_written_files_are_read_back(either, tmp_path):
    either.save_huggingface_files(tmp_path, max_length=64)
    check_same(type(either).from_huggingface_files(str(tmp_path)), either)


def test_pairs_of_files_give_the_same(either, tmp_path):
    names = [["vocab.json", "merges.txt"], ["encoder.json", "vocab.bpe"]]
    tokens = {token: index for index, token in enumerate(either.get_vocabulary())}
    pad = {PAD: tokens.pop(PAD)}
    for number, (vocabulary, merges) in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        gpt2_files.write_vocabulary(folder / vocabulary, tokens)
        gpt2_files.write_merges(folder / merges, either.merges)
        (folder / "added_tokens.json").write_text(json.dumps(pad))
        check_same(type(either).from_huggingface_files(folder), either)


def test_special_tokens_of_pairs_without_added_tokens(either, tmp_path):
    tokens = {token: index for index, token in enumerate(either.get_vocabulary())}
    gpt2_files.write_vocabulary(tmp_path / "vocab.json", tokens)
    gpt2_files.write_merges(tmp_path / "merges.txt", either.merges)
    loaded = type(either).from_huggingface_files(tmp_path)
    assert loaded.special_tokens == either.special_tokens[:1]


def test_older_spellings_of_the_same_are_read(either, tmp_path):
    content = written(either, tmp_path)
    assert isinstance(content["model"]["merges"][0], list)
    content["model"]["merges"] = [" ".join(m) for m in content["model"]["merges"]]
    for key in ("type", "byte_fallback", "ignore_merges"):
        del content["model"][key]
    for part in (content["pre_tokenizer"], content["decoder"]):
        part.pop("use_regex", None)
    content["model"]["continuing_subword_prefix"] = ""
    content["added_tokens"].reverse()
    # Added tokens need not be in the model's vocabulary.
    del content["model"]["vocab"][PAD]
    check_same(read(type(either), tmp_path, content), either)


def test_harmless_settings_are_read(gpt2_like, tmp_path):
    content = written(gpt2_like, tmp_path)
    for token in content["added_tokens"]:
        token["normalized"] = True
        token["special"] = False
    ids = {"type_id": 0}
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", **ids}}],
        "pair": [{"Sequence": {"id": "A", **ids}}, {"Sequence": {"id": "B", **ids}}],
        "special_tokens": {},
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    content["post_processor"] = {
        "type": "Sequence",
        "processors": [template, {**byte_level, "use_regex": True}],
    }
    content["decoder"].update(add_prefix_space=True, use_regex=False)
    content["pre_tokenizer"].update(trim_offsets=False)
    content["model"].update(end_of_word_suffix="", unk_token=END_TOKEN, fuse_unk=True)
    content["truncation"] = {
        **{"direction": "Right", "max_length": 3, "strategy": "LongestFirst"},
        "stride": 0,
    }
    check_same(read(GPTTokenizer, tmp_path, content), gpt2_like)


def test_pre_tokenizer_may_be_an_equal_sequence(gpt2_like, tmp_path):
    content = written(gpt2_like, tmp_path)
    byte_level = content["pre_tokenizer"]
    pattern = (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?!\S)|\s+"
    )
    split = {
        **{"type": "Split", "pattern": {"Regex": pattern}},
        **{"behavior": "Isolated", "invert": False},
    }
    for steps in ([byte_level], [split, {**byte_level, "use_regex": False}]):
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        loaded = read(GPTTokenizer, tmp_path, content)
        check_same(loaded, gpt2_like)
        check_reference(tmp_path / "tokenizer.json", loaded)


def test_accents_may_be_stripped_expressly(gpt1_like, tmp_path):
    content = written(gpt1_like, tmp_path)
    content["normalizer"]["strip_accents"] = True
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"]]}
    check_same(read(GPT1Tokenizer, tmp_path, content), gpt1_like)


def test_ignored_merges_are_read_where_merges_make_every_word(gpt2_like, tmp_path):
    content = written(gpt2_like, tmp_path)
    content["model"]["ignore_merges"] = True
    loaded = read(GPTTokenizer, tmp_path, content)
    check_same(loaded, gpt2_like)
    check_reference(tmp_path / "tokenizer.json", loaded)


def test_folder_without_files_has_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "added_tokens.json").write_text("{}")
    assert GPTTokenizer.from_huggingface_files(tmp_path) is None
    assert GPT1Tokenizer.from_huggingface_files(tmp_path) is None


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("vocab.json", "merges.txt"),
        ("merges.txt", "vocab.json"),
        ("encoder.json", "vocab.bpe"),
        ("vocab.bpe", "encoder.json"),
    ],
)
def test_half_a_pair_is_refused(tmp_path, there, missing):
    (tmp_path / there).write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"{there} must have .*{missing}"):
        GPTTokenizer.from_huggingface_files(tmp_path)


def test_a_whole_pair_counts_more_than_half_of_another(gpt2_like, tmp_path):
    gpt2_like.save_files(tmp_path)
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").write_text("half of a pair")
    loaded = GPTTokenizer.from_huggingface_files(tmp_path)
    assert loaded.get_vocabulary() == gpt2_like.get_vocabulary()


def change(content, key, value):
    """Sets a dotted key of a copy."""
    content = copy.deepcopy(content)
    *path, last = key.split(".")
    inner = content
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = value
    return content


SPLIT = {
    **{"type": "Split", "pattern": {"Regex": r"\s+"}},
    **{"behavior": "Isolated", "invert": False},
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": END_TOKEN, "type_id": 0}},
    ],
    "pair": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}},
    ],
    "special_tokens": {END_TOKEN: {"id": END_TOKEN, "ids": [0], "tokens": [END_TOKEN]}},
}
BERT = tokenizers.processors.BertProcessing(("a", 0), ("b", 1))
REFUSED = [
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "model.type"),
    ("model.dropout", 0.1, "model.dropout must be null or 0, got 0.1"),
    ("model.continuing_subword_prefix", "##", 'prefix must be null or "", got "##"'),
    ("model.byte_fallback", True, "model.byte_fallback must be false, got true"),
    ("decoder", None, "decoder must be .*, got null"),
    ("decoder", {"type": "Fuse"}, 'decoder must be .*, got {"type": "Fuse"}'),
    ("post_processor", TEMPLATE, r"post_processor.single must add no tokens .*got \[{"),
    ("post_processor", json.loads(BERT.__getstate__()), "post_processor.type must be"),
    (
        "added_tokens.1.lstrip",
        True,
        r"added_tokens\[1\].lstrip must be false, got true",
    ),
    (
        "added_tokens.1.rstrip",
        True,
        r"added_tokens\[1\].rstrip must be false, got true",
    ),
    ("added_tokens.1.single_word", True, r"\[1\].single_word must be false, got true"),
    ("added_tokens.1.id", 3, r"added_tokens\[1\] must have the id .* '<pad x>', got 3"),
    ("model.merges", [["a b", "c"]], "must be of tokens|out of vocabulary|white space"),
    ("model.merges", 3, "must be a file of the `tokenizers` library"),
    ("added_tokens", [{"content": "a"}], "must be a file of the `tokenizers` library"),
    ("version", "9.9", "must be a file of the `tokenizers` library"),
]
REFUSED_BY_GPT2 = [
    ("model.end_of_word_suffix", "</w>", 'suffix must be null or "", got "</w>"'),
    ("normalizer", {"type": "Lowercase"}, 'normalizer must be null, got {"type": "Low'),
    (
        "pre_tokenizer.add_prefix_space",
        True,
        "add_prefix_space must be false, got true",
    ),
    ("pre_tokenizer.use_regex", False, "pre_tokenizer.use_regex must be true, got fal"),
    ("pre_tokenizer", SPLIT, r"pre_tokenizer must be .*, got {.*Split"),
    ("pre_tokenizer", None, "pre_tokenizer must be .*, got null"),
]
REFUSED_BY_GPT1 = [
    ("model.end_of_word_suffix", None, 'end_of_word_suffix must be "</w>", got null'),
    ("model.unk_token", None, 'model.unk_token must be "<unk>", got null'),
    ("model.fuse_unk", True, "model.fuse_unk must be false, got true"),
    ("normalizer", None, "normalizer must be .*, got null"),
    ("normalizer.lowercase", False, "normalizer.lowercase must be true, got false"),
    ("normalizer.clean_text", False, "normalizer.clean_text must be true, got false"),
    ("normalizer.strip_accents", False, "strip_accents must be null, got false"),
    ("normalizer.handle_chinese_chars", False, "chinese_chars must be true, got false"),
    ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer must be .*BertPreTok"),
    ("decoder.suffix", "@@", 'decoder.suffix must be "</w>", got "@@"'),
    ("added_tokens.1.normalized", True, r"\[1\].normalized must be false, got true"),
    ("model.ignore_merges", True, "model.ignore_merges must be false where merges"),
]


def check_refused(tokenizer, folder, key, value, message):
    content = change(written(tokenizer, folder), key, value)
    with pytest.raises(ValueError, match=message) as caught:
        read(type(tokenizer), folder, content)
    assert str(folder / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_other_pipelines_are_refused(either, tmp_path, key, value, message):
    check_refused(either, tmp_path, key, value, message)


@pytest.mark.parametrize(("key", "value", "message"), REFUSED_BY_GPT2)
def test_other_pipelines_than_gpt2_s_are_refused(
    gpt2_like, tmp_path, key, value, message
):
    check_refused(gpt2_like, tmp_path, key, value, message)


@pytest.mark.parametrize(("key", "value", "message"), REFUSED_BY_GPT1)
def test_other_pipelines_than_gpt1_s_are_refused(
    gpt1_like, tmp_path, key, value, message
):
    check_refused(gpt1_like, tmp_path, key, value, message)


def test_pipelines_of_the_other_class_are_refused(gpt1_like, gpt2_like, tmp_path):
    gpt2_like.save_huggingface_files(tmp_path, max_length=64)
    with pytest.raises(ValueError, match='end_of_word_suffix must be "</w>", got null'):
        GPT1Tokenizer.from_huggingface_files(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="vocab.json must have tokens that end in"):
        GPT1Tokenizer.from_huggingface_files(tmp_path)
    gpt1_like.save_huggingface_files(tmp_path, max_length=64)
    with pytest.raises(ValueError, match='end_of_word_suffix must be .*got "</w>"'):
        GPTTokenizer.from_huggingface_files(tmp_path)


def test_ignored_merges_that_matter_are_refused(tmp_path):
    vocabulary = {"a": 0, "b": 1, "ab": 2, "\u0120": 3, END_TOKEN: 4}
    content = written(GPTTokenizer(vocabulary, []), tmp_path)
    content["model"]["ignore_merges"] = True
    with pytest.raises(ValueError, match="ignore_merges must be false .* to 'ab'"):
        read(GPTTokenizer, tmp_path, content)


def test_unknown_token_that_matters_is_refused(tmp_path):
    content = written(GPTTokenizer({"a": 0, END_TOKEN: 1}, []), tmp_path)
    content["model"]["unk_token"] = END_TOKEN
    with pytest.raises(ValueError, match="model.unk_token must be null, got .<|endof"):
        read(GPTTokenizer, tmp_path, content)


def test_gap_in_the_ids_is_refused(gpt2_like, tmp_path):
    content = written(gpt2_like, tmp_path)
    del content["model"]["vocab"][PAD]
    content["added_tokens"][1]["id"] += 5
    with pytest.raises(ValueError, match=r"tokenizer.json: .* got 295 for '<pad x>'"):
        read(GPTTokenizer, tmp_path, content)


def test_added_tokens_in_two_passes_that_may_meet_are_refused(gpt2_like, tmp_path):
    content = written(gpt2_like, tmp_path)
    # The library looks for normalized ones in what the others leave.
    content["added_tokens"][1]["normalized"] = True
    check_same(read(GPTTokenizer, tmp_path, content), gpt2_like)
    other = {**content["added_tokens"][1], "id": 291, "content": "x><|end"}
    content["added_tokens"].append(other)
    with pytest.raises(
        ValueError, match="may overlap, got .*endoftext.* and 'x><|end'"
    ):
        read(GPTTokenizer, tmp_path, content)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ('{"<x>": "9"}', 'added_tokens.json: "<x>" must have an integer id, got "9"'),
        ('{"a": 0}', r'added_tokens.json: "a" must have the id 64 .*, got 0'),
        ('{"<x>": 400}', r"vocab.json and merges.txt: .* got 400 for '<x>'"),
        ("[]", "added_tokens.json must be a JSON object, got a list"),
        ("{", "added_tokens.json must be a JSON file"),
    ],
)
def test_wrong_added_tokens_are_refused(gpt2_like, tmp_path, added, message):
    gpt2_like.save_files(tmp_path)
    (tmp_path / "added_tokens.json").write_text(added)
    with pytest.raises(ValueError, match=message):
        GPTTokenizer.from_huggingface_files(tmp_path)


@pytest.mark.parametrize("key", ["add_prefix_space", "add_bos_token", "add_eos_token"])
def test_settings_that_add_to_the_text_are_refused(gpt2_like, tmp_path, key):
    gpt2_like.save_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: True}))
    message = f"tokenizer_config.json: {key} must be false, got true"
    with pytest.raises(ValueError, match=message):
        GPTTokenizer.from_huggingface_files(tmp_path)


def test_written_config_names_the_class_and_its_tokens(gpt1_like, gpt2_like, tmp_path):
    def config(tokenizer):
        tokenizer.save_huggingface_files(tmp_path, max_length=77)
        content = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert content.pop("model_max_length") == 77
        assert content.pop("clean_up_tokenization_spaces") is False
        return content

    tokens = ("bos_token", "eos_token", "unk_token")
    nulls = dict.fromkeys(tokens)
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    assert config(gpt2_like) == {**gpt2, **dict.fromkeys(tokens, END_TOKEN)}
    assert config(GPTTokenizer({"a": 0}, [])) == {**gpt2, **nulls}
    gpt1 = {"tokenizer_class": "OpenAIGPTTokenizer", **nulls, "unk_token": "<unk>"}
    assert config(gpt1_like) == gpt1
    # transformers' class cannot do without an unknown token.
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", **nulls}
    assert config(GPT1Tokenizer({"a": 0, "a</w>": 1}, [])) == fast


@pytest.mark.parametrize("end_token", [False, True])
def test_character_vocabularies_round_trip(tmp_path, end_token):
    tokenizer = train_tokenizer(["cab, \u6625\n"], kind="char", end_token=end_token)
    tokenizer.save_huggingface_files(tmp_path, max_length=8)
    check_same(GPTTokenizer.from_huggingface_files(tmp_path), tokenizer)
    check_reference(tmp_path / "tokenizer.json", tokenizer)


def test_max_length_must_be_positive(gpt2_like, tmp_path):
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        gpt2_like.save_huggingface_files(tmp_path, max_length=0)
    assert list(tmp_path.iterdir()) == []


def test_gpt2_s_own_files(shared_data, tmp_path):
    names = {"encoder.json": "gpt2_encoder.json", "vocab.bpe": "gpt2_vocab.bpe"}
    for name, shared in names.items():
        if not (shared_data / shared).is_file():
            pytest.skip(f"{shared} is absent: GPT-2's vocabulary was not fetched.")
        (tmp_path / name).write_bytes((shared_data / shared).read_bytes())
    tokenizer = GPTTokenizer.from_huggingface_files(tmp_path)
    assert tokenizer.tokenize("Hello world").numpy().tolist() == [15496, 995]
    tokenizer.save_huggingface_files(tmp_path / "written", max_length=1024)
    check_same(GPTTokenizer.from_huggingface_files(tmp_path / "written"), tokenizer)
    check_reference(tmp_path / "written" / "tokenizer.json", tokenizer)
