"""GPT-2's file format."""

import os

import pytest
import tokenizers

from keras_gpt.tokenizer import gpt2_files


def test_alphabet_is_the_reference_s():
    table = gpt2_files.byte_characters()
    assert sorted(table) == list(range(256))
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert sorted(table.values()) == sorted(alphabet)
    # Ids 0, 188 and 220 of GPT-2's released vocabulary.
    assert list(table.values())[0] == "!"
    assert list(table)[188] == 0 and list(table.values())[188] == "\u0100"
    assert table[ord(" ")] == list(table.values())[220] == "\u0120"


def test_bytes_and_characters_reverse_each_other():
    data = bytes(range(256))
    assert gpt2_files.to_bytes(gpt2_files.to_characters(data)) == data
    assert gpt2_files.to_bytes("\u6625") == "\u6625".encode()


def test_merges_may_look_like_comments():
    lines = ["#version: 0.2", "# #", "#version: x", "", "a b\r\n"]
    assert gpt2_files.parse_merges(lines) == ["# #", "#version: x", "a b"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "merges.txt"
    gpt2_files.write_merges(path, ["a b"])
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        gpt2_files.write_merges(path, ["c d"])
    assert path.read_bytes() == before == b"#version: 0.2\na b\n"
    assert os.listdir(tmp_path) == ["merges.txt"]
