"""Tests of reading text files."""

import pytest

from keras_gpt.data import read_text_files


def test_reads_bytes_as_they_are(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("line\r\n六\n".encode())
    assert read_text_files([path, str(path)]) == ["line\r\n六\n"] * 2


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"no\.txt' does not exist"),
        (b"", r"no\.txt' is empty"),
        (b"abc\xff\xfe", r"no\.txt' is not UTF-8: byte 0xff at offset 3"),
        (b"ab\xe5\x85", r"not UTF-8: byte 0xe5 at offset 2"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "no.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text_files([path])


def test_bad_lists(tmp_path):
    with pytest.raises(ValueError, match="directory"):
        read_text_files([tmp_path])
    with pytest.raises(ValueError, match="at least one"):
        read_text_files([])
    with pytest.raises(ValueError, match="paths must be a list"):
        read_text_files("corpus.txt")
