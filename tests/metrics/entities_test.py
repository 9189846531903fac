"""Entities out of labels of words, by worked cases of CoNLL's rule."""

import pytest

from keras_gpt.metrics import are_entity_labels, entities, entity_scores


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("O O", []),
        ("", []),
        ("B-PER I-PER O", [("PER", 0, 1)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O I-PER", [("PER", 0, 1), ("PER", 3, 3)]),
        ("B-PER I-LOC I-LOC B-LOC", [("PER", 0, 0), ("LOC", 1, 2), ("LOC", 3, 3)]),
        ("B-PER O I-PER", [("PER", 0, 0), ("PER", 2, 2)]),
        ("B-a-b I-a-b I-a", [("a-b", 0, 1), ("a", 2, 2)]),
    ],
)
def test_entities_begin_and_end_as_in_conll(labels, found):
    assert entities(labels.split()) == found


def test_scores_are_those_of_a_published_example():
    # The example of seqeval's README: one of two found, two said.
    labels = [["O"] * 3 + ["B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    said = [["O"] * 2 + ["B-MISC"] + ["I-MISC"] * 3 + ["O"], ["B-PER", "I-PER", "O"]]
    assert entity_scores(labels, predictions=said) == (0.5, 0.5, 0.5)


def test_type_and_both_ends_must_be_right():
    labels = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-LOC"]]
    said = [["B-PER", "O", "O", "B-PER", "O", "B-LOC"]]
    scores = entity_scores(labels, predictions=said)
    assert scores == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    scores = entity_scores(labels, predictions=[["O"] * 5 + ["B-LOC"]])
    assert scores == pytest.approx((1.0, 1 / 3, 0.5))


def test_without_entities_all_is_0():
    assert entity_scores([["O"]], predictions=[["O"]]) == (0.0, 0.0, 0.0)
    assert entity_scores([], predictions=[]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("names", "spell"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["B-PER"], True),
        (["O"], False),
        (["O", "PER"], False),
        (["O", "B-"], False),
        (["O", "b-per"], False),
    ],
)
def test_labels_that_spell_entities_are_known(names, spell):
    assert are_entity_labels(names) is spell


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="got 1 and 2 in row 0"):
        entity_scores([["O", "O"]], predictions=[["O"]])
    with pytest.raises(ValueError, match=r"O, B-... or I-... .* got 'PER'"):
        entities(["PER"])
