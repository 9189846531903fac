"""Learning vocabularies."""

import pytest
import tokenizers

from keras_gpt.tokenizer import END_TOKEN, gpt2_files, train_tokenizer

TEXT = "the king and the queen\n\n\nthe king's men\u6625\u7720 \u6625\u7720\n" * 3


def test_vocabulary_is_laid_out_as_gpt2_s():
    tokenizer = train_tokenizer([TEXT], vocabulary_size=270)
    tokens = tokenizer.get_vocabulary()
    assert len(tokens) == tokenizer.vocabulary_size() == 270
    assert tokens[:256] == list(gpt2_files.byte_characters().values())
    assert tokens[256:269] == [m.replace(" ", "") for m in tokenizer.merges]
    assert tokens[269] == END_TOKEN and tokenizer.end_token_id == 269


def test_merges_are_those_of_the_whole_text():
    """Cutting long texts for speed must not change what is learnt."""
    text = "a\n\n\nb \n  c\nd" * 5
    reference = tokenizers.Tokenizer(tokenizers.models.BPE())
    reference.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=259, initial_alphabet=alphabet, show_progress=False
    )
    reference.train_from_iterator([text], trainer)
    learnt = {t for t, i in reference.get_vocab().items() if i >= 256}
    tokenizer = train_tokenizer([text], vocabulary_size=259, end_token=False)
    assert set(tokenizer.get_vocabulary()[256:]) == learnt
    assert "\u010a\u010a" in learnt


def test_training_is_deterministic():
    first, second = (train_tokenizer([TEXT], vocabulary_size=280) for _ in range(2))
    assert first.merges == second.merges
    assert first.get_vocabulary() == second.get_vocabulary()


def test_end_token_can_be_left_out():
    tokenizer = train_tokenizer([TEXT], vocabulary_size=260, end_token=False)
    assert END_TOKEN not in tokenizer.get_vocabulary()
    assert tokenizer.end_token_id is None
    assert tokenizer.vocabulary_size() == 260
    # Asked to parse what the vocabulary lacks, it takes it as text.
    ids = tokenizer.tokenize(END_TOKEN, parse_special=True)
    assert tokenizer.detokenize(ids).numpy() == END_TOKEN.encode()


def test_files_and_strings_learn_the_same(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    of_file = train_tokenizer([path], vocabulary_size=265)
    assert of_file.merges == train_tokenizer(iter([TEXT]), vocabulary_size=265).merges


def test_characters_are_one_token_each():
    text = "ab\u6625\u7720 \xe9\xe8\U0001f600\U0001f601'\n"
    tokenizer = train_tokenizer([text], kind="char")
    ids = [tokenizer.tokenize(c).numpy().tolist() for c in text]
    assert all(len(row) == 1 for row in ids)
    assert len({row[0] for row in ids}) == len(set(text))
    # Whole, too, whatever stands beside them.
    whole = tokenizer.tokenize(text)
    assert whole.numpy().tolist() == [row[0] for row in ids]
    assert tokenizer.detokenize(whole).numpy().decode() == text
    assert tokenizer.get_vocabulary()[: len(set(text))] == [
        gpt2_files.to_characters(c.encode()) for c in sorted(set(text))
    ]
    # A character that the texts lack has no token.
    assert tokenizer.tokenize("axb").shape == [2]


def test_ascii_characters_need_no_merges():
    tokenizer = train_tokenizer(["cab"], kind="char", end_token=False)
    assert tokenizer.get_vocabulary() == ["a", "b", "c"]
    assert tokenizer.merges == []


def test_tinyshakespeare_has_65_characters(shared_data):
    path = shared_data / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"{path} is absent.")
    tokenizer = train_tokenizer([path], kind="char", end_token=False)
    assert tokenizer.vocabulary_size() == 65
    assert tokenizer.merges == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": None}, "at least 257"),
        ({"vocabulary_size": -5}, "at least 257 .*got -5"),
        ({"vocabulary_size": 256}, "at least 257 .*got 256"),
        ({"vocabulary_size": 255, "end_token": False}, "at least 256 .*got 255"),
        ({"vocabulary_size": 300.5}, "vocabulary_size must be an integer, got 300.5"),
        ({"vocabulary_size": True}, "vocabulary_size must be an integer, got True"),
        ({"kind": "char", "vocabulary_size": 70}, "must be None .*got 70"),
        ({"kind": "word"}, "kind must be one of bpe, char, got 'word'"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer([TEXT], **options)


def test_vocabulary_larger_than_the_texts_can_fill_is_refused():
    with pytest.raises(ValueError, match="at most 258, .*got 5000"):
        train_tokenizer(["ab ab"], vocabulary_size=5000, end_token=False)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_texts_without_text_are_refused(texts):
    with pytest.raises(ValueError, match="texts must not be empty"):
        train_tokenizer(texts, vocabulary_size=300)


@pytest.mark.parametrize("texts", ["one text", b"bytes"])
def test_one_text_that_is_no_list_is_refused(texts):
    with pytest.raises(ValueError, match="texts must be a list"):
        train_tokenizer(texts, kind="char")


def test_bad_files_are_named(tmp_path):
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_bytes(b"good\xffbad")
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="bad.txt must be UTF-8, .*0xff at offset 4"):
        train_tokenizer([bad], vocabulary_size=300)
    with pytest.raises(ValueError, match="empty.txt is empty"):
        train_tokenizer([TEXT, empty], vocabulary_size=300)
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        train_tokenizer([tmp_path / "absent.txt"], vocabulary_size=300)
