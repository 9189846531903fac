"""Scores of entities that are spelled by a label for each word, as in "B-PER I-PER O".

An entity counts as found where its type, its first and its last word are right: the
rule of CoNLL's shared tasks (Tjong Kim Sang & De Meulder 2003, section 2.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keras_gpt.metrics.classification import AverageScores

OUTSIDE = "O"
_LABEL = re.compile(r"([BI])-(.+)", re.DOTALL)


class Entity(NamedTuple):
    """A run of words.

    Attributes:
        kind: string.
        first: int. Number of its first word.
        last: int. Number of its last word.
    """

    kind: str
    first: int
    last: int


def are_entity_labels(names: Iterable[str]) -> bool:
    """Returns whether labels spell entities: "O", "B-..." and "I-..." and no other."""
    names = set(names)
    return names != {OUTSIDE} and all(
        name == OUTSIDE or _LABEL.fullmatch(name) for name in names
    )


def entities(labels: Sequence[str]) -> list[Entity]:
    """Returns the entities that the labels of a row of words spell, in order.

    One begins at a "B-...", and at an "I-..." behind anything but its own type; it
    goes on as long as "I-..." of its type follow.

    Args:
        labels: strings (W,).

    Raises:
        ValueError: if one is neither "O" nor "B-..." nor "I-...".
    """
    found: list[Entity] = []
    kind = None  # of the entity that is open
    for place, label in enumerate(labels):
        match = _LABEL.fullmatch(label)
        if match is None:
            if label != OUTSIDE:
                raise ValueError(
                    "labels must be O, B-... or I-... to spell entities, got "
                    f"{label!r}."
                )
            kind = None
        elif match[1] == "I" and match[2] == kind:
            found[-1] = found[-1]._replace(last=place)
        else:
            kind = match[2]
            found.append(Entity(kind, place, place))
    return found


def entity_scores(
    labels: Sequence[Sequence[str]], *, predictions: Sequence[Sequence[str]]
) -> AverageScores:
    """Scores the entities that predicted labels spell, all types together.

    Args:
        labels: strings (B, W). True labels of each row's words; rows may differ in
            length.
        predictions: likewise, of the same lengths. Predicted labels.

    Returns:
        `AverageScores`. What is not defined, as there are no entities, is 0.

    Raises:
        ValueError: if a label spells no entity, or lengths differ.
    """
    right = predicted = support = 0
    for row, (true, chosen) in enumerate(zip(labels, predictions, strict=True)):
        if len(true) != len(chosen):
            raise ValueError(
                f"predictions must be as many as labels in each row, got {len(chosen)} "
                f"and {len(true)} in row {row}."
            )
        there, said = set(entities(true)), set(entities(chosen))
        right += len(there & said)
        predicted += len(said)
        support += len(there)
    both = predicted + support
    return AverageScores(
        precision=right / predicted if predicted else 0.0,
        recall=right / support if support else 0.0,
        f1=2 * right / both if both else 0.0,
    )
