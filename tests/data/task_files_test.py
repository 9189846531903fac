"""Tables of examples: formats, kinds of cells, and what is wrong with a file."""

import csv
import gzip
import io
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
import zstandard

from keras_gpt.data import Column, read_table

COLUMNS = {
    "text": "sentence",
    "label": Column("category", "label"),
    "labels": Column("topics", "labels"),
    "choices": Column("endings", "choices"),
    "words": Column("tokens", "words"),
    "number": Column("n", "integer"),
    "pair": Column("second", is_optional=True),
}
ROWS = [
    {
        "sentence": 'He said "no",\nand left; ünï 六',
        "category": 7,
        "topics": ["a b", "c"],
        "endings": ["one.", "two, three."],
        "tokens": ["The", "cat", ","],
        "n": -3,
        "second": "more",
        "unused": 1.5,
    },
    {
        "sentence": "",
        "category": True,
        "topics": [],
        "endings": ["x"],
        "tokens": ["y"],
        "n": 0,
        "second": None,
        "unused": 2.5,
    },
    {
        "sentence": " as it is ",
        "category": "sports",
        "topics": ["c"],
        "endings": [],
        "tokens": [],
        "n": 12,
        "second": None,
        "unused": 3.5,
    },
]
WANTED = {
    "text": [row["sentence"] for row in ROWS],
    "label": ["7", "true", "sports"],
    "labels": [row["topics"] for row in ROWS],
    "choices": [row["endings"] for row in ROWS],
    "words": [row["tokens"] for row in ROWS],
    "number": [-3, 0, 12],
    "pair": ["more", None, None],
}


def as_csv():
    joined = {"topics": "|".join, "endings": "|".join, "tokens": " ".join}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(ROWS[0])
    for row, label in zip(ROWS, WANTED["label"], strict=True):
        cells = {k: joined[k](v) if k in joined else v for k, v in row.items()}
        writer.writerow({**cells, "category": label}.values())
    return buffer.getvalue().encode()


def as_jsonl():
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_parquet(rows=None):
    rows = rows or [
        {**row, "category": label}
        for row, label in zip(ROWS, WANTED["label"], strict=True)
    ]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), sink, row_group_size=2
    )
    return sink.getvalue().to_pybytes()


CONTENTS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}


@pytest.mark.parametrize("form", CONTENTS)
def test_every_format_gives_the_same_columns(tmp_path, form):
    content = CONTENTS[form]()
    packed = {"": content, ".gz": gzip.compress(content)}
    for ending, data in {**packed, ".zst": zstandard.compress(content)}.items():
        path = tmp_path / f"a.{form}{ending}"
        path.write_bytes(data)
        assert read_table(path, columns=COLUMNS).columns == WANTED
    (tmp_path / "unnamed").write_bytes(content)
    read = read_table([path, tmp_path / "unnamed"], columns=COLUMNS, format=form)
    assert read.columns == {name: cells * 2 for name, cells in WANTED.items()}
    remote = f"ram://task_files/a.{form}"
    with tf.io.gfile.GFile(remote, "wb") as file:
        file.write(content)
    assert read_table(remote, columns=COLUMNS).columns == WANTED


def test_places_are_the_first_lines_of_rows(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbftext,n\r\n\r\n"one\r\ntwo",1\r\n\nthree,2\n'
    )
    (tmp_path / "b.jsonl").write_bytes(b'\n{"text": "four"}\r\n\n{"text": "five"}')
    (tmp_path / "c.parquet").write_bytes(as_parquet([{"text": "six"}] * 2))
    paths = [str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.parquet")]
    table = read_table(paths, columns={"t": "text"})
    assert table.columns["t"] == ["one\r\ntwo", "three", "four", "five", "six", "six"]
    assert [str(place) for place in table.places] == [
        f"{paths[0]!r} line 3",
        f"{paths[0]!r} line 6",
        f"{paths[1]!r} line 2",
        f"{paths[1]!r} line 4",
        f"{paths[2]!r} row 0",
        f"{paths[2]!r} row 1",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_csv_written_by_python_is_read_back(tmp_path, seed):
    draw = random.Random(seed)
    # Python's writer quotes the characters of its own line end alone.
    end = draw.choice(["\n", "\r\n"])
    characters = 'a",\t é\u2028\x0b' + end
    rows = [
        ["".join(draw.choices(characters, k=draw.randrange(6))) for _ in range(2)]
        for _ in range(20)
    ]
    path = tmp_path / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=end).writerows([["a", "b"], *rows])
    table = read_table(path, columns={"x": "b", "y": "a"})
    assert table.columns == {"x": [r[1] for r in rows], "y": [r[0] for r in rows]}


def test_a_quote_is_a_character_of_tsv(tmp_path):
    # With quoting, rows 1 and 2 would be one.
    path = tmp_path / "a.tsv"
    path.write_text('a\tb\n"He left.\tx\ny\tShe said "no"\n"z"\t\n')
    read = read_table(path, columns={"a": "a", "b": "b"}).columns
    assert read == {
        "a": ['"He left.', "y", '"z"'],
        "b": ["x", 'She said "no"', ""],
    }
    path.write_text('a\tb\n"one\ttwo"\t""""\n')
    read = read_table(path, columns={"a": "a", "b": "b"}, quotes=True).columns
    assert read == {"a": ["one\ttwo"], "b": ['"']}


def test_a_field_may_be_long_and_the_csv_module_keeps_its_limit(tmp_path):
    limit = csv.field_size_limit()
    text = "x" * (2 * limit)
    (tmp_path / "a.csv").write_text(f"t\n{text}\n")
    assert read_table(tmp_path / "a.csv", columns={"t": "t"}).columns["t"] == [text]
    (tmp_path / "b.csv").write_text("t\na\n\"b\n")
    with pytest.raises(ValueError, match="line 3"):
        read_table(tmp_path / "b.csv", columns={"t": "t"})
    assert csv.field_size_limit() == limit


def test_separators(tmp_path):
    (tmp_path / "a.csv").write_text("tags\nB-PER O O\n")
    tags = Column("tags", "labels", separator=" ")
    read = read_table(tmp_path / "a.csv", columns={"tags": tags})
    assert read.columns["tags"] == [["B-PER", "O", "O"]]


def test_an_optional_column_may_be_missing(tmp_path):
    pair = Column("second", is_optional=True)
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.jsonl").write_text('{"a": "1"}\n{"a": "2", "second": ""}')
    (tmp_path / "a.parquet").write_bytes(as_parquet([{"a": "1"}]))
    for name, wanted in (("csv", [None]), ("jsonl", [None, ""]), ("parquet", [None])):
        read = read_table(tmp_path / f"a.{name}", columns={"a": "a", "b": pair})
        assert read.columns["b"] == wanted


TEXT = {"text": "text"}
FULL = {"text": "text", "label": Column("label", "label")}


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.csv", b"", TEXT, r"a.csv' must have a header line"),
        ("a.csv", b"\n\n", TEXT, r"a.csv' must have a header line"),
        ("a.csv", b"text\n", TEXT, r"a.csv' must have at least one row"),
        ("a.csv", b"x,y\n1,2\n", FULL, r"columns 'text', 'label', got 'x', 'y'\.$"),
        ("a.csv", b"text,text\n1,2\n", TEXT, r"'text' once, got it 2 times"),
        ("a.csv", b"text,x\n1,2\n\n1\n", TEXT, r"line 4 must have 2 fields.* got 1"),
        ("a.csv", b'text,x\n"1\n",2\n1,2,3', TEXT, r"line 4 must have 2 .* got 3"),
        ("a.csv", b'text\na\n"b\nc\n', TEXT, r"line 3 must be .*: unexpected end"),
        ("a.csv", b'text,x\n"a"b,c\n', TEXT, r"line 2 must be well-formed CSV"),
        ("a.csv", b'text,x\na,5" disk\n', TEXT, r"line 2 must have a field with a d"),
        ("a.csv", b'text,x\na, "b,c"\n', TEXT, r"line 2 must have a field with a d"),
        ("a.csv", b"text\na\nb\0c\n", TEXT, r"line 3 must be text, got a NUL"),
        ("a.csv", b"text\na\n\xe9t\xe9\n", TEXT, r"line 3 must be UTF-8, .* 0xe9"),
        ("a.csv", b"text,label\na,\n", FULL, r"line 2 must have a label .* got ''"),
        ("a.jsonl", b"", TEXT, r"must have at least one row"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', TEXT, r"line 2 must be a JSON object:"),
        ("a.jsonl", b'\n["text"]', TEXT, r"line 2 must be a JSON object, got \["),
        ("a.jsonl", b"[" * 99999, TEXT, r"line 1 must be a JSON object:"),
        ("a.jsonl", b'{"text": 1}', FULL, r"line 1 .* 'text', 'label', got 'text'\."),
        ("a.jsonl", b'{"text": 1}', TEXT, r"line 1 must have Unicode text .* got 1\."),
        ("a.jsonl", b'{"text": null}', TEXT, r"must have Unicode text .* got None"),
        ("a.jsonl", b'{"text": "\\ud800"}', TEXT, r"line 1 must have Unicode text"),
        ("a.jsonl", b'{"text": "\xff"}', TEXT, r"line 1 must be UTF-8"),
        ("a.jsonl", b'{"text": "", "label": 0.5}', FULL, r"must have a label .* 0\.5"),
        ("a.parquet", b"PAR1", TEXT, r"a.parquet' must be a Parquet file"),
        ("a.parquet", as_parquet([{"x": "a"}]), TEXT, r"'text', got 'x'"),
        (
            "a.parquet",
            as_parquet([{"text": "a"}, {"text": None}]),
            TEXT,
            r"row 1 must have Unicode text in the column 'text', got None",
        ),
        ("a.txt", b"text\na\n", TEXT, r"format must be given .*a\.txt'"),
    ],
)
def test_broken_files_say_what_and_where(tmp_path, name, content, columns, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name, columns=columns)


@pytest.mark.parametrize(
    ("kind", "csv_cell", "json_cell"),
    [
        ("integer", "1.5", "1.5"),
        ("integer", "", "true"),
        ("integer", "1_0", '"3"'),
        ("labels", "a||b", '["a", ""]'),
        ("labels", "|", '"a|b"'),
        ("choices", "a|", "[1]"),
        ("words", "a  b", '["a", null]'),
    ],
)
def test_cells_of_another_kind_are_refused(tmp_path, kind, csv_cell, json_cell):
    (tmp_path / "a.csv").write_text(f"x,y\n{csv_cell},\n")
    (tmp_path / "a.jsonl").write_text(f'\n{{"x": {json_cell}}}')
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(ValueError, match=r"line 2 must have .* column 'x', got"):
            read_table(tmp_path / name, columns={"x": Column("x", kind)})


def test_parquet_text_that_is_not_utf8(tmp_path):
    binary = pyarrow.array([b"a", b"\xff"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
    table = pyarrow.table({"text": text})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"row 1 must be UTF-8 in the column 'text'"):
        read_table(tmp_path / "a.parquet", columns=TEXT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {}}, "columns must name at least one"),
        ({"columns": {"a": Column("a", "texts")}}, r"columns\['a'\].kind .* 'texts'"),
        ({"columns": {"a": Column("a", separator=";")}}, r"columns\['a'\].separator"),
        ({"format": "xml"}, "format must be one of .* got 'xml'"),
        ({"paths": []}, "paths must name at least one file"),
    ],
)
def test_arguments_are_checked(tmp_path, change, message):
    (tmp_path / "a.csv").write_text("a\n1\n")
    arguments = {"paths": tmp_path / "a.csv", "columns": {"a": "a"}, **change}
    with pytest.raises(ValueError, match=message):
        read_table(arguments.pop("paths"), **arguments)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_table(tmp_path / "nowhere.csv", columns=TEXT)


def test_banking77(shared_data):
    path = shared_data / "banking77_train.csv"
    table = read_table(path, columns={"x": "text", "y": Column("category", "label")})
    with open(path, encoding="utf-8", newline="") as file:
        wanted = list(csv.DictReader(file))
    assert len(table.places) == 10_003
    assert len(set(table.columns["y"])) == 77
    assert table.columns["x"] == [row["text"] for row in wanted]
    assert table.columns["y"] == [row["category"] for row in wanted]
