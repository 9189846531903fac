"""SQuAD's scores on cases worked by hand."""

import math
import random

import pytest

from keras_gpt.data import read_squad
from keras_gpt.metrics import (
    SquadPart,
    best_no_answer_threshold,
    exact_match,
    f1_score,
    normalize_answer,
    squad_scores,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Denver\tBroncos!", "denver broncos"),
        ("A theatre, an Anchor and the The", "theatre anchor and"),
        ("U.S. (1-0)", "us 10"),
        ("a.", ""),
        ("A-ha", "aha"),  # Punctuation goes before articles.
        ("", ""),
        ("\u00a0Ünïted\u2003六", "ünïted 六"),
        ("“The” end", "“ ” end"),  # Only ASCII punctuation goes.
        ("thé an\u0301", "thé \u0301"),
    ],
)
def test_normalization(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Denver Broncos defeated", ["the broncos"], 0, 1 / 2),
        ("Panthers", ["Denver Broncos"], 0, 0),
        ("Broncos Denver", ["Denver Broncos"], 0, 1),
        # Each answer alone: 2/3 and 1/2.
        ("old cat", ["cat", "an old dog"], 0, 2 / 3),
        ("old cat", ["cat", "The old cat"], 1, 1),
        # Words count as often as they occur: 2 common of 6 and 2; 1 of 2 and 1.
        ("to be or not to be", ["to be"], 0, 1 / 2),
        ("to to", ["to"], 0, 2 / 3),
        ("", ["cat"], 0, 0),
        ("the", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("The!", [], 1, 1),
        ("cat", [], 0, 0),
        # Answers that normalise to nothing count only where all do.
        ("", ["the", "cat"], 0, 0),
        ("", ["the", "a"], 1, 1),
        ("Straße 六", ["straße 七", "六"], 0, 2 / 3),
    ],
)
def test_scores_of_one_question(prediction, answers, exact, f1):
    assert exact_match(prediction, answers=answers) == exact
    assert f1_score(prediction, answers=answers) == pytest.approx(f1)


ANSWERS = {"a": ["old cat", "cat"], "b": ["dog"], "c": [], "d": []}
PREDICTIONS = {"a": "the cat", "b": "dog house", "c": "", "d": "cat"}


def test_scores_of_a_data_set():
    scores = squad_scores(PREDICTIONS, answers=ANSWERS)
    assert scores.exact_match == pytest.approx(50.0)
    assert scores.f1 == pytest.approx(100 * (1 + 2 / 3 + 1 + 0) / 4)
    assert scores.total == 4
    assert scores.has_answer == SquadPart(50.0, pytest.approx(100 * 5 / 6), 2)
    assert scores.no_answer == SquadPart(50.0, 50.0, 2)


def test_a_version_without_impossible_questions_has_no_such_part():
    scores = squad_scores({"a": "cat"}, answers={"a": ["cat"]})
    assert scores == (100.0, 100.0, 1, SquadPart(100.0, 100.0, 1), None)
    assert squad_scores({"c": ""}, answers={"c": []}).has_answer is None


def test_questions_above_the_threshold_count_as_unanswered():
    no_answer = {"a": 0.6, "b": 0.1, "c": 0.9, "d": 0.7}
    scores = [
        squad_scores(
            PREDICTIONS, answers=ANSWERS, no_answer_scores=no_answer, threshold=t
        )
        for t in (1.0, 0.6, 0.5)
    ]
    assert scores[0] == squad_scores(PREDICTIONS, answers=ANSWERS)
    assert scores[1].exact_match == pytest.approx(75.0)  # d is right now.
    assert scores[1].no_answer == SquadPart(100.0, 100.0, 2)
    assert scores[2].exact_match == pytest.approx(50.0)  # a is wrong now.
    assert scores[2].f1 == pytest.approx(100 * (0 + 2 / 3 + 1 + 1) / 4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("metric", ["f1", "exact_match"])
def test_best_threshold_is_that_of_a_search(seed, metric):
    draw = random.Random(seed)
    names = [str(n) for n in range(12)]
    answers = {n: draw.choice([[], [], ["cat"], ["old cat"]]) for n in names}
    predictions = {n: draw.choice(["", "cat", "dog"]) for n in names}
    no_answer = {n: draw.randrange(6) / 2 - 1 for n in names}
    best = best_no_answer_threshold(
        predictions, answers=answers, no_answer_scores=no_answer, metric=metric
    )

    def score(threshold):
        scores = squad_scores(
            predictions,
            answers=answers,
            no_answer_scores=no_answer,
            threshold=threshold,
        )
        return getattr(scores, metric)

    assert best.score == pytest.approx(score(best.threshold))
    every = [-math.inf, *set(no_answer.values())]
    assert best.score == pytest.approx(max(map(score, every)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {}}, "answers must have at least one question"),
        ({"predictions": {"a": ""}}, "predictions must have every .* 3, among .* 'b'"),
        ({"predictions": {**PREDICTIONS, "e": ""}}, "predictions must have only .* 'e"),
        ({"no_answer_scores": {"a": 1.0}}, "no_answer_scores must have every"),
        (
            {"no_answer_scores": {**dict.fromkeys(ANSWERS, 0.0), "d": math.nan}},
            "no_answer_scores must be numbers, got nan for 'd'",
        ),
        ({"answers": {**ANSWERS, "b": "dog"}}, "answers must be a list .* got 'dog'"),
    ],
)
def test_arguments_are_checked(change, message):
    arguments = {"predictions": PREDICTIONS, "answers": ANSWERS, **change}
    with pytest.raises(ValueError, match=message):
        squad_scores(arguments.pop("predictions"), **arguments)


def test_squad_development_set(shared_data):
    examples = read_squad(shared_data / "squad_dev-v1.1.json")
    answers = {e.id: [answer.text for answer in e.answers] for e in examples}
    first = {name: texts[0] for name, texts in answers.items()}
    assert squad_scores(first, answers=answers)[:3] == (100.0, 100.0, 10_570)
    # Of one annotator against the others, about the paper's figures for people (77.0
    # and 86.8 on its test set, with fewer others).
    others = {name: texts[1:] for name, texts in answers.items() if texts[1:]}
    agreed = squad_scores({n: first[n] for n in others}, answers=others)
    assert 70 < agreed.exact_match < agreed.f1 < 95
