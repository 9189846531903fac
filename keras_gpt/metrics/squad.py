"""Exact match and F1 of extracted answers, by the rules of SQuAD's evaluation.

References: Rajpurkar et al. 2016, section 6.1 (v1.1); Rajpurkar et al. 2018, section 5
(v2.0: questions without an answer). The rules are those of v2.0's evaluation, which on
v1.1 differs only for predictions that normalise to nothing.
"""

from __future__ import annotations

import collections
import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


class SquadPart(NamedTuple):
    """Scores of some of the questions.

    Attributes:
        exact_match: float in [0, 100]. Percent of the questions answered exactly.
        f1: float in [0, 100]. Mean F1 of the words, in percent.
        total: int. Number of questions.
    """

    exact_match: float
    f1: float
    total: int


class SquadScores(NamedTuple):
    """Scores of a data set.

    Attributes:
        exact_match: float in [0, 100]. Percent of the questions answered exactly.
        f1: float in [0, 100]. Mean F1 of the words, in percent.
        total: int. Number of questions.
        has_answer: `SquadPart` of the questions with an answer; None if there is none.
        no_answer: `SquadPart` of those without one; None if there is none.
    """

    exact_match: float
    f1: float
    total: int
    has_answer: SquadPart | None
    no_answer: SquadPart | None


def normalize_answer(text: str) -> str:
    """Returns an answer as SQuAD compares it.

    Lower case, without ASCII punctuation, without the words a, an, the, and with
    single spaces. Punctuation goes before articles: `"a."` is empty, `"a-b"` is `"ab"`.
    """
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, *, answers: Sequence[str]) -> float:
    """Returns 1.0 if a prediction is one of the answers after normalisation, else 0.0.

    Args:
        prediction: string. Empty: the question has no answer.
        answers: strings; empty where the question has no answer. Of several, answers
            that normalise to nothing do not count.
    """
    found = normalize_answer(prediction)
    return float(found in map(normalize_answer, _gold_answers(answers)))


def f1_score(prediction: str, *, answers: Sequence[str]) -> float:
    """Returns the highest F1 of a prediction's words against those of an answer.

    Words are counted as often as they occur. Where prediction or answer has none, the
    score is 1.0 if both have none, else 0.0.

    Args:
        prediction: string. Empty: the question has no answer.
        answers: strings, as in `exact_match`.
    """
    return max(_word_f1(prediction, answer) for answer in _gold_answers(answers))


def squad_scores(
    predictions: Mapping[str, str],
    *,
    answers: Mapping[str, Sequence[str]],
    no_answer_scores: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> SquadScores:
    """Scores the predictions of a data set.

    Args:
        predictions: dict of question ids to answers; "" for no answer.
        answers: dict of the same ids to the right answers, of which the best counts;
            none where the question has no answer (v2.0).
        no_answer_scores: dict of the same ids to numbers, higher where the model
            rather sees no answer. A question above `threshold` counts as predicted
            to have no answer, whatever its prediction. Defaults to None: not used.
        threshold: float. Defaults to 1.0, of probabilities: as predicted.

    Returns:
        `SquadScores`, in percent.

    Raises:
        ValueError: if there is no question, the ids differ or a score is NaN.
    """
    exact, f1 = _raw_scores(predictions, answers)
    if no_answer_scores is not None:
        _check_no_answer_scores(no_answer_scores, answers)
        for name, score in no_answer_scores.items():
            if score > threshold:
                exact[name] = f1[name] = float(not answers[name])
    return SquadScores(
        *_part(exact, f1, list(answers)),
        has_answer=_part_or_none(exact, f1, [n for n in answers if answers[n]]),
        no_answer=_part_or_none(exact, f1, [n for n in answers if not answers[n]]),
    )


class NoAnswerThreshold(NamedTuple):
    """A threshold above which questions count as having no answer.

    Attributes:
        threshold: float, for `squad_scores`. Minus infinity where it is best to say of
            every question that it has no answer.
        score: float in [0, 100]. The metric at this threshold, in percent.
    """

    threshold: float
    score: float


def best_no_answer_threshold(
    predictions: Mapping[str, str],
    *,
    answers: Mapping[str, Sequence[str]],
    no_answer_scores: Mapping[str, float],
    metric: str = "f1",
) -> NoAnswerThreshold:
    """Finds the threshold of `squad_scores` with the highest score.

    Choose it on one data set and report on another.

    Args:
        predictions: dict, as in `squad_scores`.
        answers: dict, as in `squad_scores`.
        no_answer_scores: dict, as in `squad_scores`.
        metric: string: `"f1"`, the default, or `"exact_match"`.

    Returns:
        A `NoAnswerThreshold`.

    Raises:
        ValueError: if there is no question, the ids differ, a score is NaN or there is
            no such metric.
    """
    if metric not in ("exact_match", "f1"):
        raise ValueError(f"metric must be 'f1' or 'exact_match', got {metric!r}.")
    exact, f1 = _raw_scores(predictions, answers)
    _check_no_answer_scores(no_answer_scores, answers)
    scores = f1 if metric == "f1" else exact
    ordered = sorted(answers, key=lambda name: no_answer_scores[name])
    # Below all: every question counts as having no answer.
    total = best = float(sum(not gold for gold in answers.values()))
    threshold = float("-inf")
    for name, after in zip(ordered, [*ordered[1:], None], strict=True):
        total += scores[name] - float(not answers[name])
        score = no_answer_scores[name]
        # Equal ones fall on the same side of any threshold.
        is_last = after is None or no_answer_scores[after] > score
        if is_last and total > best:
            best, threshold = total, score
    return NoAnswerThreshold(threshold, 100.0 * best / len(answers))


def _gold_answers(answers: Sequence[str]) -> list[str]:
    if isinstance(answers, str):
        raise ValueError(f"answers must be a list of strings, got {answers!r}.")
    return [answer for answer in answers if normalize_answer(answer)] or [""]


def _word_f1(prediction: str, answer: str) -> float:
    found, gold = (normalize_answer(text).split() for text in (prediction, answer))
    if not found or not gold:
        return float(found == gold)
    common = (collections.Counter(found) & collections.Counter(gold)).total()
    return 2.0 * common / (len(found) + len(gold))


def _raw_scores(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    if not answers:
        raise ValueError("answers must have at least one question, got none.")
    _check_ids("predictions", predictions, answers)
    exact, f1 = {}, {}
    for name, gold in answers.items():
        exact[name] = exact_match(predictions[name], answers=gold)
        f1[name] = f1_score(predictions[name], answers=gold)
    return exact, f1


def _check_ids(
    argument: str, given: Mapping[str, object], answers: Mapping[str, object]
) -> None:
    if missing := answers.keys() - given.keys():
        raise ValueError(
            f"{argument} must have every question of answers, got none for "
            f"{len(missing)}, among them {min(missing)!r}."
        )
    if unknown := given.keys() - answers.keys():
        raise ValueError(
            f"{argument} must have only questions of answers, got {len(unknown)} "
            f"others, among them {min(unknown)!r}."
        )


def _check_no_answer_scores(
    scores: Mapping[str, float], answers: Mapping[str, object]
) -> None:
    _check_ids("no_answer_scores", scores, answers)
    for name, score in scores.items():
        if math.isnan(score):
            raise ValueError(
                f"no_answer_scores must be numbers, got {score} for {name!r}."
            )


def _part(
    exact: Mapping[str, float], f1: Mapping[str, float], names: Sequence[str]
) -> SquadPart:
    count = len(names)
    return SquadPart(
        exact_match=100.0 * sum(exact[name] for name in names) / count,
        f1=100.0 * sum(f1[name] for name in names) / count,
        total=count,
    )


def _part_or_none(
    exact: Mapping[str, float], f1: Mapping[str, float], names: Sequence[str]
) -> SquadPart | None:
    return _part(exact, f1, names) if names else None
