"""Datasets are a function of the set of documents, and whole or not there at all."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.data import (
    DataSource,
    PackedDataset,
    PrepareConfig,
    prepare,
    prepare_data,
)
from keras_gpt.tokenizer import GPT1Tokenizer, train_tokenizer

WORDS = "the king is dead long live my lord what say you First Citizen".split()


def texts(count, seed=0):
    draw = random.Random(seed)
    return [
        f"{n} " + " ".join(draw.choices(WORDS, k=draw.randrange(1, 30)))
        for n in range(count)
    ]


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def config(**changes):
    values = {"context_length": 16, "document": "line", "num_shards": 3, **changes}
    return PrepareConfig(**{"validation_fraction": 0.2, **values})


def build(path, tokenizer, patterns, conf=None, **options):
    sources = patterns
    if isinstance(patterns, str):
        sources = [DataSource("corpus", (patterns,))]
    prepare_data(
        conf or config(),
        sources=sources,
        tokenizer=tokenizer,
        output_dir=str(path),
        **options,
    )
    return contents(path)


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def documents_of(path, split, tokenizer):
    """Texts of each shard, in order, from its ids."""
    dataset = json.loads((path / "dataset.json").read_text())
    found = []
    for shards in dataset["shards"][split].values():
        for shard in shards:
            ids = []
            for batch in tf.data.TFRecordDataset(str(path / shard["file"])):
                example = tf.train.Example.FromString(batch.numpy()).features.feature
                row = np.frombuffer(example["token_ids"].bytes_list.value[0], "<u2")
                length = np.frombuffer(example["length"].bytes_list.value[0], "<i4")[0]
                ids += row[bool(ids) : length].tolist()
            parts, part = [], []
            for token in ids:
                if token == tokenizer.end_token_id:
                    parts.append(tokenizer.detokenize(part).numpy().decode())
                    part = []
                else:
                    part.append(token)
            assert not part
            found.append(parts)
    return found


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("lines") / "a.txt", texts(300))


@pytest.fixture(scope="module")
def reference(lines, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference")
    build(path, tokenizer, lines, workers=1)
    return path


def test_a_dataset_is_what_its_keys_say(reference, tokenizer):
    """The rule written down again: hash, split, shard, order."""
    expected = {("train", n): [] for n in range(3)} | {("validation", 0): []}
    for text in texts(300):
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        order, chance = (int.from_bytes(half, "big") for half in (key[:8], key[8:]))
        is_held_out = chance < 0.2 * 2**64
        place = ("validation", 0) if is_held_out else ("train", order * 3 // 2**64)
        expected[place].append((key, text))
    whole = [[text for _, text in sorted(kept)] for kept in expected.values()]
    found = documents_of(reference, "train", tokenizer)
    assert found + documents_of(reference, "validation", tokenizer) == whole


def test_statistics(reference, tokenizer):
    content = json.loads((reference / "dataset.json").read_text())
    assert content["context_length"] == 16 and not content["segments"]
    assert content["duplicates"] == {"corpus": 0}
    for split in ("train", "validation"):
        shards = content["shards"][split]["corpus"]
        for shard, kept in zip(
            shards, documents_of(reference, split, tokenizer), strict=True
        ):
            data = (reference / shard["file"]).read_bytes()
            assert shard["sha256"] == hashlib.sha256(data).hexdigest()
            assert shard["file_bytes"] == len(data)
            assert shard["documents"] == len(kept)
            assert shard["text_bytes"] == sum(len(text.encode()) for text in kept)
            ids = (tokenizer.tokenize(kept).row_lengths().numpy() + 1).tolist()
            assert shard["tokens"] == sum(ids)
            assert shard["targets"] == sum(ids) - 1
            assert shard["examples"] == -(-(sum(ids) - 1) // 16)
        total = content["totals"][split]
        assert total["shards"] == len(shards)
        assert total["tokens"] == sum(shard["tokens"] for shard in shards)
    assert sum(t["documents"] for t in content["totals"].values()) == 300


def test_processes_pieces_parts_and_files_change_no_byte(
    reference, lines, tokenizer, tmp_path, monkeypatch
):
    expected = contents(reference)
    monkeypatch.setattr(prepare, "PIECE_BYTES", 2000)
    assert build(tmp_path / "processes", tokenizer, lines, workers=2) == expected
    monkeypatch.setattr(prepare, "PART_BYTES", 1000)
    assert build(tmp_path / "parts", tokenizer, lines, workers=1) == expected
    mixed = texts(300)
    random.Random(5).shuffle(mixed)
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_lines(tmp_path / f"in/{number}.txt", mixed[number::3])
    patterns = str(tmp_path / "in/*.txt")
    assert build(tmp_path / "files", tokenizer, patterns, workers=1) == expected


def test_formats_and_compressions_change_no_shard(reference, tokenizer, tmp_path):
    expected = contents(reference)
    kept = texts(300)
    rows = "".join(json.dumps({"body": text}) + "\n" for text in kept)
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(kept).encode()))
    for name, found in {
        "a.jsonl": config(field="body"),
        "b.txt.gz": config(),
    }.items():
        output = tmp_path / f"{name}.out"
        files = build(output, tokenizer, str(tmp_path / name), found, workers=1)
        for file in expected.keys() - {"dataset.json"}:
            assert files[file] == expected[file]


def test_duplicates_go_and_the_first_source_keeps_them(tokenizer, tmp_path):
    kept = texts(60)
    sources = [
        DataSource("one", (write_lines(tmp_path / "1.txt", kept[:40] + kept[:7]),)),
        DataSource("two", (write_lines(tmp_path / "2.txt", kept[30:]),), 2.0),
    ]
    found = {}
    for order in (sources, sources[::-1]):
        path = tmp_path / order[0].name
        build(path, tokenizer, order, workers=1)
        content = json.loads((path / "dataset.json").read_text())
        documents = dict.fromkeys(("one", "two"), 0)
        for split in content["shards"].values():
            for name, shards in split.items():
                documents[name] += sum(shard["documents"] for shard in shards)
        assert content["weights"] == {"one": 1.0, "two": 2.0}
        found[order[0].name] = (documents, content["duplicates"])
    assert found["one"] == ({"one": 40, "two": 20}, {"one": 7, "two": 10})
    assert found["two"] == ({"one": 30, "two": 30}, {"one": 17, "two": 0})


def test_the_split_stays_when_documents_are_added(tokenizer, tmp_path):
    held_out = []
    for count, shards in ((100, 1), (200, 4)):
        lines = write_lines(tmp_path / f"{count}.txt", texts(count))
        path = tmp_path / str(count)
        build(path, tokenizer, lines, config(num_shards=shards), workers=1)
        parts = documents_of(path, "validation", tokenizer)
        held_out.append({text for part in parts for text in part})
    assert 5 < len(held_out[0]) < 40
    first = set(texts(100))
    assert held_out[1] & first == held_out[0]


def test_nothing_held_out(lines, tokenizer, tmp_path):
    build(tmp_path / "a", tokenizer, lines, config(validation_fraction=0.0), workers=1)
    dataset = PackedDataset(tmp_path / "a")
    assert dataset.num_documents("train") == 300
    assert dataset.num_examples("validation") == 0
    with pytest.raises(ValueError, match="must have validation examples, got none"):
        next(dataset.evaluation_batches(batch_size=2))


def test_output_and_input_elsewhere(reference, lines, tokenizer, tmp_path):
    tf.io.gfile.makedirs("ram://prepare")
    tf.io.gfile.copy(lines, "ram://prepare/a.txt", overwrite=True)
    prepare_data(
        config(),
        sources=[DataSource("corpus", ("ram://prepare/*.txt",))],
        tokenizer=tokenizer,
        output_dir="ram://prepare/output",
        workers=1,
    )
    for name, content in contents(reference).items():
        with tf.io.gfile.GFile(f"ram://prepare/output/{name}", "rb") as file:
            assert file.read() == content
    here, there = PackedDataset(reference), PackedDataset("ram://prepare/output")
    assert here.checksum() == there.checksum()
    for step in (0, 7):
        ours = here.training_batch(step, seed=1, batch_size=5)
        theirs = there.training_batch(step, seed=1, batch_size=5)
        np.testing.assert_array_equal(ours.windows, theirs.windows)
    there.check_tokenizer(there.tokenizer())


def test_a_finished_dataset_is_not_overwritten(reference, lines, tokenizer):
    before = contents(reference)
    with pytest.raises(ValueError, match="holds a finished dataset"):
        build(reference, tokenizer, lines)
    assert contents(reference) == before


def test_a_folder_of_others_is_left_alone(lines, tokenizer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty, but .* holds letter.txt"):
        build(tmp_path / "out", tokenizer, lines)
    assert contents(tmp_path / "out") == {"letter.txt": b"mine"}
    with pytest.raises(ValueError, match="output must be a folder, got the file"):
        build(tmp_path / "out/letter.txt", tokenizer, lines)


KILLED = """
import json, os, sys, time
from keras_gpt.data import DataSource, PrepareConfig, local_runner, prepare_data, shards
from keras_gpt.tokenizer import GPTTokenizer

build = shards.build_shard

def slow(*arguments, **options):
    if options["number"] == 1:
        open(sys.argv[3], "w").close()
        time.sleep(600)
    return build(*arguments, **options)

shards.build_shard = slow
prepare_data(
    PrepareConfig(16, document="line", num_shards=3, validation_fraction=0.2),
    sources=[DataSource("corpus", (sys.argv[1],))],
    tokenizer=GPTTokenizer.from_huggingface_files(sys.argv[4]),
    output_dir=sys.argv[2],
    workers=1,
)
"""


def test_a_killed_run_begins_again(reference, lines, tokenizer, tmp_path):
    output, signal_file = tmp_path / "out", tmp_path / "reached"
    arguments = [lines, str(output), str(signal_file), str(reference / "tokenizer")]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    try:
        while not signal_file.exists():
            assert process.poll() is None
            time.sleep(0.05)
        with pytest.raises(ValueError, match="another process writes"):
            build(output, tokenizer, lines, workers=1)
        assert (output / "corpus/train-00000.tfrecord").exists()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with pytest.raises(ValueError, match="was not prepared, or not to the end"):
        PackedDataset(output)
    (output / "corpus/train-00000.tfrecord").write_bytes(b"half")
    assert build(output, tokenizer, lines, workers=1) == contents(reference)


def test_a_failed_run_leaves_no_dataset(tokenizer, lines, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a b"}\n{"text": 1}\n')
    for workers in (1, 2):
        with pytest.raises(ValueError, match="line 2 must have text in the field"):
            build(
                tmp_path / "out", tokenizer, str(tmp_path / "*.jsonl"), workers=workers
            )
        assert not (tmp_path / "out/dataset.json").exists()
    build(tmp_path / "out", tokenizer, lines, workers=1)


def test_what_cannot_be_spelt_names_its_file(tmp_path):
    characters = train_tokenizer(["abc\n"], kind="char")
    (tmp_path / "good.txt").write_text("abc")
    (tmp_path / "other.txt").write_text("abcd")
    with pytest.raises(ValueError, match="other.txt': tokenizer must .* lacks 'd'"):
        build(tmp_path / "out", characters, str(tmp_path / "*.txt"), workers=1)


def test_tokenizers_come_back_from_their_files(tmp_path, lines):
    characters = train_tokenizer(texts(300), kind="char", end_token=False)
    build(tmp_path / "char", characters, lines, workers=1)
    dataset = PackedDataset(tmp_path / "char")
    assert dataset.tokenizer().get_vocabulary() == characters.get_vocabulary()
    vocabulary = {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "<unk>": 4}
    first = GPT1Tokenizer(vocabulary=vocabulary, merges=["a b</w>"])
    (tmp_path / "ab.txt").write_text("ab\nb\nab ab")
    conf = config(validation_fraction=0.0)
    build(tmp_path / "gpt1", first, str(tmp_path / "ab.txt"), conf, workers=1)
    assert type(PackedDataset(tmp_path / "gpt1").tokenizer()) is GPT1Tokenizer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 0}, "context_length must be at least 1, got 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and"),
        ({"num_shards": 0}, "num_shards must be at least 1, got 0"),
        ({"format": "csv"}, "format must be one of auto, text, jsonl, parquet"),
        ({"document": "page"}, "document must be one of file, line, blank_line"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("../a", 1.0, "source name must be"),
        ("tokenizer", 1.0, "source name must be"),
        ("a", 0.0, "weight of source 'a' must be above 0, got 0.0"),
        ("a", float("nan"), "weight of source 'a' must be above 0, got nan"),
    ],
)
def test_sources_out_of_range(name, weight, message):
    with pytest.raises(ValueError, match=message):
        DataSource(name, ("a.txt",), weight)


def test_processes_are_as_many_as_the_input_is_worth(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    sizes = [0, 63_000_000, 65_000_000, 10**10]
    assert [prepare.default_workers(size) for size in sizes] == [1, 1, 2, 4]


def test_arguments_out_of_range(tokenizer, lines, tmp_path):
    for options, message in (
        ({"runner": "cloud"}, "runner must be one of local, beam"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build(tmp_path / "out", tokenizer, lines, **options)
    sources = [DataSource("a", (lines,), 1e-6), DataSource("b", (lines,))]
    with pytest.raises(ValueError, match="weight of source 'a' must be at least about"):
        build(tmp_path / "out", tokenizer, sources)
    with pytest.raises(ValueError, match="tokenizer must be a GPTTokenizer or"):
        build(tmp_path / "out", object(), lines)
    with pytest.raises(FileNotFoundError, match="no file matches"):
        build(tmp_path / "out", tokenizer, str(tmp_path / "*.absent"))
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="must have documents to train on, but none"):
        build(tmp_path / "out", tokenizer, str(tmp_path / "blank.txt"), workers=1)
