"""The training order is a pure function, visits all, and checks what it reads."""

import json
import shutil
import time

import numpy as np
import pytest

from keras_gpt.data import DataSource, PackedDataset, PrepareConfig, prepare_data
from keras_gpt.data.mixing import BLOCK_SLOTS, Cache, Mixture, permutation, slot_counts
from keras_gpt.tokenizer import train_tokenizer


def write(folder, tokenizer, *, sources, **options):
    values = {"context_length": 8, "document": "line", "num_shards": 4, **options}
    prepare_data(
        PrepareConfig(**{"validation_fraction": 0.1, **values}),
        sources=sources,
        tokenizer=tokenizer,
        output_dir=str(folder),
        workers=1,
    )
    return PackedDataset(folder)


def source(folder, name, count, weight=1.0):
    path = folder / f"{name}.txt"
    path.write_text("".join(f"{name} king {n * n} dead {n}\n" for n in range(count)))
    return DataSource(name, (str(path),), weight)


@pytest.fixture(scope="module")
def single(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("single")
    return write(folder / "out", tokenizer, sources=[source(folder, "a", 90)])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("mixed")
    sources = [source(folder, "a", 30, 3.0), source(folder, "b", 50, 1.0)]
    return write(folder / "out", tokenizer, sources=sources, segments=True)


def names(dataset, steps, batch_size, seed=3):
    return [
        name
        for step in steps
        for name in dataset.example_names(step, seed=seed, batch_size=batch_size)
    ]


def test_each_epoch_visits_each_example_once(single):
    count = single.num_examples("train")
    found = names(single, range(3 * count // 7 + 1), batch_size=7)
    epochs = [found[e * count : (e + 1) * count] for e in range(3)]
    assert all(len(set(epoch)) == count for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3
    orders = {tuple(dict.fromkeys(n.split("#")[0] for n in e)) for e in epochs}
    assert len(orders) > 1 and all(len(order) == 4 for order in orders)
    other = names(single, range(count // 7), batch_size=7, seed=4)
    assert other != found[: len(other)]


def test_a_batch_is_what_its_names_say(mixed):
    """Read with plain NumPy, by the numbers in the names."""
    size = 16 + mixed._format.example_bytes
    for step in (0, 5, 1000):
        batch = mixed.training_batch(step, seed=3, batch_size=6)
        for row, name in enumerate(mixed.example_names(step, seed=3, batch_size=6)):
            file, number = name.split("#")
            content = np.fromfile(f"{mixed.path}/{file}", np.uint8).reshape(-1, size)
            records = mixed._format.parse(content[[int(number)], 12:-4])
            np.testing.assert_array_equal(batch.windows[row], records.token_ids[0])
            np.testing.assert_array_equal(batch.segments[row], records.segments[0])
            np.testing.assert_array_equal(batch.mask[row], records.target_mask()[0])
    assert batch.windows.dtype == np.int32 and batch.mask.dtype == bool


@pytest.mark.parametrize("dataset_name", ["single", "mixed"])
def test_any_number_of_workers_sees_the_same(dataset_name, request):
    dataset = request.getfixturevalue(dataset_name)
    batch_size = 6
    steps = range(2 * dataset.num_examples("train") // batch_size)
    for step in steps:
        whole = dataset.training_batch(step, seed=1, batch_size=batch_size)
        workers = 1 + step % 3  # their number changes in mid-run
        rows = batch_size // workers
        parts = [
            PackedDataset(dataset.path).training_batch(
                step, seed=1, batch_size=batch_size, first_row=w * rows, num_rows=rows
            )
            for w in range(workers)
        ]
        for ours, theirs in zip(zip(*parts, strict=True), whole, strict=True):
            if theirs is not None:
                np.testing.assert_array_equal(np.concatenate(ours), theirs)


def test_sources_share_the_positions_by_weight_and_have_epochs_of_their_own(mixed):
    batch_size = 64
    steps = 4 * BLOCK_SLOTS // batch_size
    found = names(mixed, range(steps), batch_size)
    for block in range(4):
        part = found[block * BLOCK_SLOTS : (block + 1) * BLOCK_SLOTS]
        assert sum(n.startswith("a/") for n in part) == BLOCK_SLOTS * 3 // 4
    for name in mixed.weights:
        own = [n for n in found if n.startswith(f"{name}/")]
        count = len(set(own))
        shards = mixed._manifest["shards"]["train"][name]
        assert count == sum(shard["examples"] for shard in shards)
        for epoch in range(len(own) // count):
            assert len(set(own[epoch * count : (epoch + 1) * count])) == count


def test_validation_examples_come_once(mixed):
    count = mixed.num_examples("validation")
    batches = list(mixed.evaluation_batches(batch_size=4))
    assert len(batches) == -(-count // 4)
    assert all(batch.windows.shape == (4, 9) for batch in batches)
    assert sum(b.mask.sum() for b in batches) == mixed.num_tokens("validation")
    rows = np.concatenate([batch.windows for batch in batches])
    assert len({row.tobytes() for row in rows[:count]}) == count
    assert not rows[count:].any()
    assert not np.concatenate([b.mask for b in batches])[count:].any()
    some = list(mixed.evaluation_batches(batch_size=2, max_batches=2))
    chosen = [row for batch in some for row in batch.windows]
    np.testing.assert_array_equal(chosen, rows[np.arange(4) * count // 4])


def test_sizes_are_those_of_the_text(mixed, tmp_path):
    text = sum(mixed.num_bytes(split) for split in ("train", "validation"))
    lines = [f"a king {n * n} dead {n}" for n in range(30)]
    lines += [f"b king {n * n} dead {n}" for n in range(50)]
    assert text == sum(map(len, lines))
    documents = [mixed.num_documents(split) for split in ("train", "validation")]
    assert sum(documents) == 80 and documents[1] > 0
    ids = mixed.tokenizer().tokenize(lines).row_lengths().numpy() + 1
    # With segments, no document's first id is a target.
    targets = sum(mixed.num_tokens(split) for split in ("train", "validation"))
    assert targets == sum(ids) - 80
    with pytest.raises(ValueError, match="split must be one of train, validation"):
        mixed.num_tokens("test")


def test_another_tokenizer_is_refused(single, tokenizer):
    single.check_tokenizer(tokenizer)
    single.check_tokenizer(single.tokenizer())
    for other, message in (
        (train_tokenizer(["abc"], kind="char"), "whose vocabulary_size is 300, got 4"),
        (train_tokenizer(["xyz " * 999 + "uv" * 99], vocabulary_size=262), "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            single.check_tokenizer(other)


@pytest.fixture
def damaged(single, tmp_path):
    shutil.copytree(single.path, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "but there is no such file"),
        (lambda path: path.write_bytes(b""), "got 0: it is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "it is too long"),
    ],
)
def test_damaged_shards_are_named(damaged, damage, message):
    damage(damaged / "a/train-00002.tfrecord")
    with pytest.raises(
        ValueError, match=f"train-00002.tfrecord' must have .* {message}"
    ):
        PackedDataset(damaged)


def test_a_changed_shard_is_named_when_it_is_opened(damaged):
    path = damaged / "a/train-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    dataset = PackedDataset(damaged)
    with pytest.raises(ValueError, match="train-00002.tfrecord' must have the SHA-256"):
        for step in range(100):
            dataset.training_batch(step, seed=0, batch_size=4)
    assert next(dataset.evaluation_batches(batch_size=2)).mask.any()


def test_a_damaged_manifest_is_named(damaged):
    path = damaged / "dataset.json"
    good = json.loads(path.read_text())
    for content, message in (
        ("{", "must hold the JSON that prepare_data wrote"),
        ("[]", "must hold the JSON that prepare_data wrote"),
        (json.dumps({**good, "format_version": 2}), "format_version 1, got 2"),
        (json.dumps({**good, "shards": {}}), "lacks or changes 'train'"),
        (json.dumps({**good, "context_length": 9}), "must list shards with examples"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            PackedDataset(damaged)
    path.unlink()
    with pytest.raises(ValueError, match="has no dataset.json"):
        PackedDataset(damaged)


def test_the_checksum_is_that_of_the_shards(single, mixed, damaged):
    assert PackedDataset(damaged).checksum() == single.checksum() != mixed.checksum()
    path = damaged / "dataset.json"
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 2))
    assert PackedDataset(damaged).checksum() != single.checksum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"first_row": 3, "num_rows": 2}, "first_row and num_rows must lie in"),
    ],
)
def test_arguments_out_of_range(single, arguments, message):
    values = {"step": 0, "seed": 0, "batch_size": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        single.training_batch(values.pop("step"), **values)


def test_far_steps_need_no_steps_before(single):
    fresh = PackedDataset(single.path)
    start = time.monotonic()
    batch = fresh.training_batch(10**12, seed=2**40, batch_size=512)
    assert batch.windows.shape == (512, 9)
    assert time.monotonic() - start < 1.0


def test_permutations_are_the_same_for_ever():
    assert permutation(8, 1, 2).tolist() == [5, 4, 1, 2, 0, 3, 6, 7]
    assert sorted(permutation(1000, 5)) == list(range(1000))
    assert not np.array_equal(permutation(1000, 5), permutation(1000, 6))


def test_slots_follow_the_weights_by_largest_remainder():
    assert slot_counts([3.0, 1.0]) == [768, 256]
    assert slot_counts([1.0, 1.0, 1.0]) == [342, 341, 341]
    assert slot_counts([0.5004, 0.4996]) == [512, 512]
    assert sum(slot_counts([0.1, 0.7, 0.123, 5.0])) == BLOCK_SLOTS


def test_a_source_goes_on_from_block_to_block():
    at = Mixture([2.0, 1.0, 1.0]).at(np.arange(5 * BLOCK_SLOTS), seed=9)
    for number in range(3):
        own = at.indices[at.sources == number]
        np.testing.assert_array_equal(own, np.arange(len(own)))
    one = Mixture([2.0, 1.0, 1.0]).at(np.array([4 * BLOCK_SLOTS + 17]), seed=9)
    assert one.sources[0] == at.sources[4 * BLOCK_SLOTS + 17]
    assert one.indices[0] == at.indices[4 * BLOCK_SLOTS + 17]


def test_a_cache_forgets_what_was_used_longest_ago():
    made = []

    def make(key):
        made.append(key)
        return np.zeros(4)

    cache = Cache(max_items=9)
    for key in (1, 2, 1, 3, 1, 2):
        cache.get(key, lambda key=key: make(key))
    assert made == [1, 2, 3, 2]
