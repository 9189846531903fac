"""Tests of files that are whole or as they were."""

import os

import pytest

from keras_gpt.whole_files import write_whole


def test_write_whole_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(str(path), "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space.*a.json'"):
        write_whole(str(path), "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_missing_folder_is_told_by_the_name_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none/a.json'"):
        write_whole(tmp_path / "none" / "a.json", b"new")
