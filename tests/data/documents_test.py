"""Reading documents: formats, compressions, pieces, and what is wrong with a file."""

import bz2
import gzip
import json
import lzma
import random

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
import zstandard

from keras_gpt.data import documents, files
from keras_gpt.data.documents import Reading, read_documents, split_file


def read(path, reading, piece_bytes=1 << 20):
    """Documents of all pieces, in order."""
    pieces = split_file(
        str(path), file=0, source=0, reading=reading, piece_bytes=piece_bytes
    )
    return [text for piece in pieces for text in read_documents(piece, reading)]


def naive_paragraphs(content):
    found, lines = [], []
    for line in [*content.split(b"\n"), b""]:
        if line.strip():
            lines.append(line)
        elif lines:
            found.append(b"\n".join(lines).removesuffix(b"\r"))
            lines = []
    return found


def random_text(seed):
    """Lines of all lengths; blank ones, CRLF, none at the end, or several."""
    draw = random.Random(seed)
    lines = [
        draw.choice(["", "", " ", "a", "ab é", "cde fgh ijk", "\t\r", "lmn\r", "六 x"])
        for _ in range(draw.randrange(40))
    ]
    return ("\n".join(lines) + draw.choice(["", "\n", "\r\n", "\n\n"])).encode()


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("blocks", [3, 1 << 20])
def test_pieces_give_each_document_once(tmp_path, monkeypatch, seed, blocks):
    monkeypatch.setattr(files, "BLOCK_BYTES", blocks)
    content = random_text(seed)
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    lines = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    for size in (1, 2, 3, 7, 50, 1 << 20):
        by_line = read(path, Reading(document="line"), size)
        assert by_line == [line for line in lines if line]
        by_blank = read(path, Reading(document="blank_line"), size)
        assert by_blank == naive_paragraphs(content)
    whole = read(path, Reading(document="file"), 1)
    assert whole == ([content] if content else [])


def test_pieces_of_json_lines(tmp_path):
    texts = ["one", "zwei ä\n\n", "", "three" * 9, "<|endoftext|>"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\r\n\n" for t in texts))
    for size in (1, 5, 30, 1000):
        found = read(path, Reading(), size)
        assert found == [text.encode() for text in texts if text]


def write_parquet(path, texts, **options):
    table = pyarrow.table({"n": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, **options)


PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
# Without the time of day, which would be in the name of its test.
CUT_GZIP = gzip.compress(b"abc" * 99, mtime=0)[:-9]
TEXTS = ["The king is dead.", "Long live\nthe king!", "六 ४२", "x" * 5000]


@pytest.mark.parametrize("ending", PACK)
def test_formats_and_compressions_give_the_same(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(files, "_PACKED_BYTES", 10)
    write_parquet(tmp_path / "plain.parquet", TEXTS, row_group_size=1)
    contents = {
        "text.txt": "\n\n".join(TEXTS).encode(),
        "a.jsonl": "".join(json.dumps({"text": t}) + "\n" for t in TEXTS).encode(),
        "b.parquet": (tmp_path / "plain.parquet").read_bytes(),
    }
    for name, content in contents.items():
        path = tmp_path / (name + ending)
        path.write_bytes(PACK[ending](content))
        for size in (1, 1 << 20):
            found = read(path, Reading(document="blank_line"), size)
            assert found == [text.encode() for text in TEXTS], name


def test_members_of_a_compressed_file_follow_one_another(tmp_path):
    for ending, pack in PACK.items():
        path = tmp_path / f"a.txt{ending}"
        padding = b"\0" * 512 if ending == ".gz" else b""
        path.write_bytes(pack(b"a\nb") + pack(b"c\nd") + padding)
        assert read(path, Reading(document="line")) == [b"a", b"bc", b"d"]


def test_files_of_elsewhere(tmp_path):
    write_parquet(tmp_path / "a.parquet", TEXTS)
    tf.io.gfile.copy(str(tmp_path / "a.parquet"), "ram://documents/a.parquet")
    assert read("ram://documents/a.parquet", Reading()) == [t.encode() for t in TEXTS]
    with tf.io.gfile.GFile("ram://documents/a.txt", "wb") as file:
        file.write(b"one\ntwo\nthree")
    assert files.find_files("ram://documents/*.txt") == ["ram://documents/a.txt"]
    assert read("ram://documents/a.txt", Reading(document="line"), 5) == [
        *(b"one", b"two", b"three")
    ]


@pytest.mark.parametrize(
    ("name", "content", "reading", "message"),
    [
        ("a.txt", b"ab\xffc", Reading(), "byte 0xff at offset 2"),
        ("a.txt", b"ab\nc\xc3", Reading(document="line"), "byte 0xc3 at offset 4"),
        (
            "a.txt",
            b"ab\n\ncd\ne\x80",
            Reading(document="blank_line"),
            "byte 0x80 at offset 8",
        ),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', Reading(), "line 3 must be a JSON"),
        ("a.jsonl", b'\n[1, "text"]', Reading(), "line 2 must be a JSON object, got"),
        ("a.jsonl", b"[" * 10000, Reading(), "line 1 must be a JSON object"),
        (
            "a.jsonl",
            b'{"a": "b", "c": 1}',
            Reading(),
            "line 1 must have the field 'text', got 'a', 'c'.",
        ),
        (
            "a.jsonl",
            b'{"a": null}',
            Reading(field="a"),
            "line 1 must have text in the field 'a', got null.",
        ),
        ("a.jsonl", b'{"text": "a\\ud800"}', Reading(), "half of a surrogate pair"),
        ("a.jsonl", b'{"text": "\xff"}', Reading(), "byte 0xff at offset 10"),
        ("a.parquet", b"PAR1", Reading(), "must be a Parquet file"),
        ("a.txt.gz", CUT_GZIP, Reading(), "is cut short"),
        ("a.txt.xz", lzma.compress(b"abc" * 99)[:-9], Reading(), "is cut short"),
        ("a.txt.bz2", bz2.compress(b"abc" * 99)[:-9], Reading(), "is cut short"),
        ("a.txt.zst", zstandard.compress(b"abcd" * 99)[:-2], Reading(), "is cut short"),
        ("a.txt.gz", b"abc", Reading(), "are damaged"),
    ],
)
def test_errors_name_file_and_place(tmp_path, name, content, reading, message):
    path = tmp_path / name
    path.write_bytes(content)
    for size in (4, 1 << 20):
        with pytest.raises(ValueError) as error:
            read(path, reading, size)
        assert message in str(error.value)
        assert str(path) in str(error.value)


def test_errors_of_tables_name_row_and_column(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, ["a", None, "b"], row_group_size=1)
    with pytest.raises(ValueError, match="row 1 must have text in the column 'text'"):
        read(path, Reading())
    with pytest.raises(
        ValueError, match="must have the column 'body', got 'n', 'text'"
    ):
        read(path, Reading(field="body"))
    with pytest.raises(ValueError, match="must have text in the column 'n', got int64"):
        read(path, Reading(field="n"))
    raw = pyarrow.array([b"good", b"b\xff"], pyarrow.binary())
    pyarrow.parquet.write_table(
        pyarrow.table({"text": raw.cast("string", safe=False)}), path
    )
    with pytest.raises(ValueError, match="row 1 must be UTF-8 .* 0xff at offset 1"):
        read(path, Reading())


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    (tmp_path / "a.txt.zst").write_bytes(b"")
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setattr(files.importlib, "import_module", absent)
    with pytest.raises(ValueError, match="need the package zstandard"):
        read(tmp_path / "a.txt.zst", Reading())
    monkeypatch.setattr(documents.importlib, "import_module", absent)
    with pytest.raises(ValueError, match="need the package pyarrow"):
        read(tmp_path / "a.parquet", Reading())
