"""How good a fine-tuned task is on examples, and what it predicts for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_gpt import metrics, models
from keras_gpt.models.text_classifier import LIKELY
from keras_gpt.training.task_data import TaskExamples


class TaskScores(NamedTuple):
    """Scores of a task.

    Attributes:
        metrics: dict of names to numbers.
        predictions: list of dicts, one for each example in order.
        confusion: int64 (L, L), numbers of examples by label and prediction; None
            where an example has not one label.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    confusion: np.ndarray | None = None


def score_task(
    task: Any, examples: TaskExamples, *, batch_size: int = 32
) -> TaskScores:
    """Scores a task on examples.

    Args:
        task: `GPTTask`.
        examples: `TaskExamples` of its kind.
        batch_size: int. Defaults to 32.

    Returns:
        `TaskScores`. Of classifiers accuracy, macro F1 and Matthews' correlation; with
        many labels a text exact accuracy, micro and macro F1; of regressions root mean
        squared error and Pearson's and Spearman's correlation; of choosers accuracy;
        of words as of texts, and precision, recall and F1 of entities where labels
        spell them (`keras_gpt.metrics.entities`), over the words that were not cut,
        and how many were, if any; of readers exact match and F1 in percent, as
        SQuAD's; of language models perplexity per token that counts.

    Raises:
        ValueError: if a label is none of the task's, or the task is of another kind.
    """
    for cls, score in _SCORES.items():
        if isinstance(task, cls):
            return score(task, examples, batch_size)
    raise ValueError(f"task must be a GPTTask, got {type(task).__name__}.")


def _classifier(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    if task.problem == "regression":
        return _regression(task, examples, batch_size)
    targets = np.asarray(task.encoded_labels(examples.y))
    found = task.classify(examples.x, batch_size=batch_size)
    predictions = [
        {
            "label": label,
            "prediction": prediction,
            "probabilities": [round(float(p), 6) for p in row],
        }
        for label, prediction, row in zip(
            examples.y, found.labels, found.probabilities, strict=True
        )
    ]
    if task.multi_label:
        chosen = found.probabilities > LIKELY
        scores = _of_many(targets.astype(int), chosen.astype(int))
        return TaskScores(scores, predictions)
    chosen = found.probabilities.argmax(axis=-1)
    return TaskScores(
        _of_one(targets, chosen, len(task.label_names)),
        predictions,
        metrics.confusion_matrix(
            targets, predictions=chosen, num_classes=len(task.label_names)
        ),
    )


def _of_one(labels: np.ndarray, chosen: np.ndarray, count: int) -> dict[str, float]:
    f1 = metrics.average_scores(labels, predictions=chosen, num_classes=count).f1
    return {
        "accuracy": metrics.accuracy(labels, predictions=chosen),
        "f1_macro": f1,
        "matthews": metrics.matthews_correlation(labels, predictions=chosen),
    }


def _of_many(labels: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    def f1(average: str) -> float:
        return metrics.multilabel_average_scores(
            labels, predictions=chosen, average=average
        ).f1

    return {
        "accuracy": metrics.multilabel_accuracy(labels, predictions=chosen),
        "f1_micro": f1("micro"),
        "f1_macro": f1("macro"),
    }


def _regression(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    wanted = np.asarray(examples.y, np.float64)
    found = task.predict(examples.x, batch_size=batch_size, verbose=0)[:, 0]
    found = found.astype(np.float64)
    scores = {
        "rmse": float(np.sqrt(np.mean((wanted - found) ** 2))),
        "pearson": _correlation(wanted, found),
        "spearman": _correlation(_ranks(wanted), _ranks(found)),
    }
    rows = zip(wanted.tolist(), found.tolist(), strict=True)
    return TaskScores(scores, [{"label": a, "prediction": b} for a, b in rows])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's correlation; 0 where one side never changes."""
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns ranks; equal values share the mean of theirs."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last + 1) / 2)[numbers]


def _choice(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    texts, choices = examples.x
    found = task.choose(texts, choices, batch_size=batch_size)
    chosen = found.probabilities.argmax(axis=-1)
    labels = np.asarray(examples.y)
    predictions = [
        {"label": row[label], "prediction": choice}
        for row, label, choice in zip(choices, labels, found.choices, strict=True)
    ]
    return TaskScores(
        {"accuracy": metrics.accuracy(labels, predictions=chosen)}, predictions
    )


def _tokens(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    found = task.tag(examples.x, batch_size=batch_size)
    predictions = [
        {"words": words, "labels": labels, "predictions": tags}
        for words, labels, tags in zip(examples.x, examples.y, found, strict=True)
    ]
    rows = [
        [
            (label, tag)
            for label, tag in zip(row["labels"], row["predictions"], strict=True)
            if tag is not None  # cut
        ]
        for row in predictions
    ]
    numbers = {name: number for number, name in enumerate(task.label_names)}
    task.encoded_labels(examples.y)  # which refuses those that it does not know
    pairs = [[numbers[a], numbers[b]] for row in rows for a, b in row]
    num_cut = sum(map(len, examples.x)) - len(pairs)
    if not pairs:
        raise ValueError(
            "examples must have words that are in the model's rows of "
            f"{task.preprocessor.sequence_length} tokens, got {num_cut} that were cut."
        )
    labels, chosen = np.array(pairs).T
    count = len(numbers)
    confusion = metrics.confusion_matrix(labels, predictions=chosen, num_classes=count)
    scores = _of_one(labels, chosen, count)
    if metrics.are_entity_labels(task.label_names):
        of_entities = metrics.entity_scores(
            [[label for label, _ in row] for row in rows],
            predictions=[[tag for _, tag in row] for row in rows],
        )
        scores |= {f"entity_{k}": x for k, x in of_entities._asdict().items()}
    if num_cut:
        scores["cut_words"] = num_cut
    return TaskScores(scores, predictions, confusion)


def _reader(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    questions = examples.questions
    if questions is None:
        raise ValueError("examples must have questions, got none.")
    answers = task.answer(
        examples.x["question"], examples.x["context"], batch_size=batch_size
    )
    scores = metrics.squad_scores(
        {q.id: answer.text for q, answer in zip(questions, answers, strict=True)},
        answers={q.id: [answer.text for answer in q.answers] for q in questions},
    )
    found = {"exact_match": scores.exact_match, "f1": scores.f1}
    for name in ("has_answer", "no_answer"):
        part = getattr(scores, name)
        if part is not None and part.total < scores.total:
            found[f"{name}_exact_match"] = part.exact_match
            found[f"{name}_f1"] = part.f1
    predictions = [
        {"id": question.id, "prediction": answer.text, "score": answer.score}
        for question, answer in zip(questions, answers, strict=True)
    ]
    return TaskScores(found, predictions)


def _language_model(task: Any, examples: TaskExamples, batch_size: int) -> TaskScores:
    loss = task.evaluate(
        examples.x, batch_size=batch_size, verbose=0, return_dict=True
    )["loss"]
    return TaskScores({"loss": loss, "perplexity": math.exp(min(loss, 700.0))}, [])


_SCORES: dict[type, Callable[[Any, TaskExamples, int], TaskScores]] = {
    models.GPTTextClassifier: _classifier,
    models.GPTMultipleChoice: _choice,
    models.GPTTokenClassifier: _tokens,
    models.GPTQuestionAnswering: _reader,
    models.GPTCausalLM: _language_model,
}
