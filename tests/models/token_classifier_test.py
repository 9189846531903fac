"""Labels of words on the tokens of texts, against going through them one by one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone
from keras_gpt.models import GPTTokenClassifier, GPTTokenClassifierPreprocessor

WORDS = [
    ["the", "king", "is", "dead"],
    ["my"],
    ["long", "é😀", "live"],
    [],
    ["patricians", "accounted", "citizens"],
]
LABELS = [[1, 2, 0, 2], [1], [2, 1, 2], [], [1, 2, 1]]
NAMES = ["O", "X", "Y"]


def by_hand(tokenizer, words, labels, *, start, end, length):
    """Ids, and label and weight of each token, of one row."""
    room = length - len(start) - len(end)
    ids, targets, weights, places = [], [0] * length, [0.0] * length, []
    for number, (word, label) in enumerate(zip(words, labels, strict=True)):
        text = " " + word if number else word
        ids += tokenizer.tokenize(text).numpy().tolist()
        places.append(len(start) + len(ids) - 1 if len(ids) <= room else -1)
        if places[-1] >= 0:
            targets[places[-1]], weights[places[-1]] = label, 1.0
    ids = start + ids[:room] + end
    if not ids and not end:
        places = []
    return ids + [0] * (length - len(ids)), targets, weights, places


@pytest.mark.parametrize("adds", [(False, True), (True, False)])
@pytest.mark.parametrize("length", [4, 9, 60])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_labels_are_on_the_last_token_of_each_word(tokenizer, adds, length, is_ragged):
    start, end = ([tokenizer.end_token_id] * add for add in adds)
    preprocessor = GPTTokenClassifierPreprocessor(
        tokenizer, length, add_start_token=adds[0], add_end_token=adds[1]
    )
    x = tf.ragged.constant(WORDS, tf.string)
    y = tf.ragged.constant(LABELS, tf.int32)
    if not is_ragged:
        x, y = x.to_tensor(""), y.to_tensor(2)  # what is no word has no label
    rows, targets, weights = preprocessor(x, y)
    scaled = preprocessor(x, y, tf.range(5.0))[2]
    places = preprocessor.rows(tf.ragged.constant(WORDS).to_tensor("")).places
    for row, given in enumerate(zip(WORDS, LABELS, strict=True)):
        ids, wanted, counted, last = by_hand(
            tokenizer, *given, start=start, end=end, length=length
        )
        assert rows["token_ids"][row].numpy().tolist() == ids
        np.testing.assert_array_equal(targets[row], wanted)
        np.testing.assert_array_equal(weights[row], counted)
        np.testing.assert_array_equal(scaled[row], row * np.array(counted))
        assert places[row].numpy().tolist() == last + [-1] * (4 - len(last))


@pytest.fixture
def tagger(tokenizer):
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=300, num_layers=1, dropout=0.0
    )
    preprocessor = GPTTokenClassifierPreprocessor(tokenizer, 9)
    task = GPTTokenClassifier(backbone, None, preprocessor, label_names=NAMES)
    task.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return task


@pytest.mark.filterwarnings("ignore:3 texts were longer")
def test_words_that_were_cut_have_no_label(tagger, tokenizer):
    tags = tagger.tag(WORDS)
    logits = tagger.predict(tf.ragged.constant(WORDS), verbose=0)
    for row, (words, found) in enumerate(zip(WORDS, tags, strict=True)):
        *_, places = by_hand(
            tokenizer, words, words, start=[], end=[tokenizer.end_token_id], length=9
        )
        expected = [
            NAMES[logits[row, place].argmax()] if place >= 0 else None
            for place in places
        ]
        assert found == expected
    assert None in tags[4]


@pytest.mark.filterwarnings("ignore:3 texts were longer")
def test_names_numbers_lists_and_datasets_are_the_same(tagger):
    names = [[NAMES[label] for label in row] for row in LABELS]
    ragged = [tf.ragged.constant(part) for part in (WORDS, names, LABELS)]
    dense = [ragged[0].to_tensor(""), ragged[1].to_tensor("")]
    measured = [
        tagger.evaluate(x, y, verbose=0)
        for x, y in [
            (WORDS, LABELS),
            (WORDS, names),
            (ragged[0], ragged[2]),
            dense,
        ]
    ]
    batches = tf.data.Dataset.from_tensor_slices(tuple(ragged[:2])).batch(32)
    measured.append(tagger.evaluate(batches, verbose=0))
    np.testing.assert_allclose(measured, measured[:1] * len(measured), rtol=1e-6)


def test_labels_that_do_not_fit_are_named(tagger):
    words = [["a", "b"], ["c"]]
    with pytest.raises(ValueError, match="y must be of the 3 labels .*, got 'Z'"):
        tagger.fit(words, [["X", "Z"], ["O"]], verbose=0)
    with pytest.raises(ValueError, match="y must be of the 3 labels .*, got ''"):
        tagger.fit(words, [["X", ""], ["O"]], verbose=0)
    with pytest.raises(ValueError, match=r"y must be in \[0, 3\), .*, got -1"):
        tagger.fit(words, [[0, -1], [2]], verbose=0)
    # As many labels and as wide, but of other words.
    with pytest.raises(ValueError, match="a label for each word, got 1 for 2"):
        tagger.fit(words, [["X"], ["X", "O"]], verbose=0)
    with pytest.raises(ValueError, match="a label for each word, got 1 for 2"):
        tagger.fit([["a", "b"], ["c", "d"]], [["X"], ["X", "O"]], verbose=0)
