"""Packed rows, against lists put together by hand and KerasHub's packer."""

import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.models.segments import TRUNCATIONS, last_tokens, pack_segments

START, SEPARATOR, END = [101], [102, 103], [104]


def random_segments(number, *, longest=12):
    """Rows of ids from 1, of all lengths from 0."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(0, longest + 1, [number, 60])
    return [
        tf.ragged.constant(
            [rng.integers(1, 100, length).tolist() for length in of_segment],
            tf.int32,
            ragged_rank=1,
        )
        for of_segment in lengths
    ]


def kept_by_turns(lengths, room, truncate):
    """How many tokens stay, by giving out one place after the other."""
    kept = [0] * len(lengths)
    for _ in range(room):
        wanting = [i for i, length in enumerate(lengths) if kept[i] < length]
        if wanting:
            fewest = min(wanting, key=lambda i: kept[i])  # the first of equal ones
            kept[fewest if truncate == "round_robin" else wanting[0]] += 1
    return kept


@pytest.mark.parametrize("truncate", TRUNCATIONS)
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("length", [6, 7, 16, 40])
def test_rows_are_those_of_hands(truncate, number, length):
    segments = random_segments(number)
    packed = pack_segments(
        segments,
        sequence_length=length,
        start=START,
        separator=SEPARATOR,
        end=END,
        truncate=truncate,
    )
    room = length - 2 - 2 * (number - 1)
    expected, are_cut = [], []
    for row in zip(*(segment.to_list() for segment in segments), strict=True):
        kept = kept_by_turns(list(map(len, row)), room, truncate)
        parts = [ids[:count] for ids, count in zip(row, kept, strict=True)]
        ids = START + parts[0]
        for part in parts[1:]:
            ids = ids + SEPARATOR + part
        expected.append(ids + END)
        are_cut.append(kept != list(map(len, row)))
    assert any(are_cut) == (length < 8 or (length, number) == (16, 2))
    assert packed.is_cut.numpy().tolist() == are_cut
    for ids, mask, wanted in zip(
        packed.token_ids.numpy(), packed.padding_mask.numpy(), expected, strict=True
    ):
        padding = length - len(wanted)
        assert ids.tolist() == wanted + [0] * padding
        assert mask.tolist() == [True] * len(wanted) + [False] * padding


@pytest.mark.parametrize("truncate", TRUNCATIONS)
@pytest.mark.parametrize("length", [6, 9, 16, 40])
def test_pairs_are_those_of_kerashub(truncate, length):
    segments = random_segments(2)
    packed = pack_segments(
        segments,
        sequence_length=length,
        start=START,
        separator=SEPARATOR,
        end=END,
        truncate=truncate,
    )
    peer = keras_nlp.layers.MultiSegmentPacker(
        sequence_length=length,
        start_value=START[0],
        sep_value=SEPARATOR,
        end_value=END[0],
        truncate=truncate,
    )
    token_ids, _ = peer(tuple(segments))
    np.testing.assert_array_equal(packed.token_ids, token_ids)


def test_last_tokens():
    rows = tf.ragged.constant([[1, 2, 3], [], [4]], tf.int32)
    counts = tf.constant([2, 0, 1], tf.int64)
    assert last_tokens(rows, counts).to_list() == [[2, 3], [], [4]]
