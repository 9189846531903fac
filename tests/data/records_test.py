"""Packing against a naive oracle, and records that plain tf.data reads."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.data.records import Packer, RecordFormat


def pack(documents, record_format, *, take_every=1):
    packer = Packer(record_format)
    taken = []
    for number, ids in enumerate(documents):
        packer.add(np.array(ids, np.int32))
        if number % take_every == 0:
            taken.append(packer.take())
    taken.append(packer.take(last=True))
    rows = [part for part in taken if part is not None]
    columns = [[getattr(r, name) for r in rows] for name in rows[0]._fields]
    whole = type(rows[0])(
        *(None if c[0] is None else np.concatenate(c) for c in columns)
    )
    return packer, whole


def naive(documents, length):
    """Ids, lengths, segments and mask of each record, one id at a time."""
    stream = [(token, n) for n, ids in enumerate(documents) for token in ids]
    records = []
    start = 0
    while start == 0 or start < len(stream) - 1:
        window = stream[start : start + length + 1]
        numbers = [n for _, n in window]
        segments = [1 + n - numbers[0] for n in numbers]
        same = [a == b for a, b in zip(segments, segments[1:], strict=False)]
        missing = length + 1 - len(window)
        records.append(
            (
                [token for token, _ in window] + [0] * missing,
                len(window),
                segments + [0] * missing,
                same + [False] * missing,
            )
        )
        start += length
    return records


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_packing_equals_a_naive_one(seed, length):
    draw = np.random.default_rng(seed)
    documents = [
        draw.integers(1, 70_000, draw.integers(1, 12)).tolist()
        for _ in range(draw.integers(1, 20))
    ]
    expected = naive(documents, length)
    for segments in (False, True):
        record_format = RecordFormat(
            context_length=length, vocabulary_size=70_000, segments=segments
        )
        for every in (1, 3, 100):
            packer, found = pack(documents, record_format, take_every=every)
            ids, lengths, numbers, mask = map(list, zip(*expected, strict=True))
            np.testing.assert_array_equal(found.token_ids, ids)
            np.testing.assert_array_equal(found.lengths, lengths)
            if segments:
                np.testing.assert_array_equal(found.segments, numbers)
                np.testing.assert_array_equal(found.target_mask(), mask)
            assert packer.num_targets == found.target_mask().sum()
    if not segments:  # each id but the first is a target once
        assert found.target_mask().sum() == sum(map(len, documents)) - 1


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("vocabulary_size", [65_536, 65_537])
def test_plain_tf_data_reads_the_records(tmp_path, vocabulary_size, segments):
    record_format = RecordFormat(
        context_length=4, vocabulary_size=vocabulary_size, segments=segments
    )
    documents = [[vocabulary_size - 1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    _, records = pack(documents, record_format)
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for example in record_format.serialize(records):
            writer.write(example)
    names = ["token_ids", "length"] + ["segment_ids"] * segments
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
    token_type = tf.uint16 if vocabulary_size <= 65_536 else tf.int32
    for row, content in enumerate(tf.data.TFRecordDataset(path)):
        parsed = tf.io.parse_single_example(content, features)
        ids = tf.io.decode_raw(parsed["token_ids"], token_type)
        np.testing.assert_array_equal(ids, records.token_ids[row])
        length = tf.io.decode_raw(parsed["length"], tf.int32)
        assert length.numpy() == [records.lengths[row]]
        if segments:
            numbers = tf.io.decode_raw(parsed["segment_ids"], tf.uint16)
            np.testing.assert_array_equal(numbers, records.segments[row])
    assert row == len(records.lengths) - 1
    rows = np.fromfile(path, np.uint8).reshape(-1, record_format.record_bytes)
    parsed = record_format.parse(rows[:, 12:-4])
    np.testing.assert_array_equal(parsed.token_ids, records.token_ids)
    np.testing.assert_array_equal(parsed.lengths, records.lengths)
    if segments:
        np.testing.assert_array_equal(parsed.segments, records.segments)


def test_lengths_out_of_range():
    with pytest.raises(ValueError, match="context_length must be at least 1, got 0"):
        RecordFormat(context_length=0, vocabulary_size=9, segments=False)
    with pytest.raises(ValueError, match="context_length must be less than 65535"):
        RecordFormat(context_length=65_535, vocabulary_size=9, segments=True)
