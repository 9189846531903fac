"""Heads of transformers' models: of classifiers, choosers and span predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.checkpoints.tensors import RenamedTensors


class Head(NamedTuple):
    """The head of a checkpoint.

    Attributes:
        kind: string. As `head_kind` of the tasks.
        arguments: dict. Arguments of the task's constructor that it stands for.
        weights: dict of `"kernel"` (D, L) and, if there is one, `"bias"` (L,).
    """

    kind: str
    arguments: dict[str, Any]
    weights: dict[str, np.ndarray]


# Kind of head by the prefix of its tensors.
KINDS = {
    "score": "text_classifier",
    "classifier": "token_classifier",
    "qa_outputs": "question_answering",
    "multiple_choice_head.summary": "multiple_choice",
}
# Keys of the config that hold a head's dropout; the first that is set counts.
_DROPOUTS = {
    "text_classifier": (),
    "token_classifier": ("classifier_dropout", "hidden_dropout"),
    "question_answering": (),
    "multiple_choice": ("summary_first_dropout",),
}
DEFAULT_DROPOUT = 0.1  # transformers' own, of heads that have one
# Of `GPT2DoubleHeadsModel`: what the summary must be for ours to be the same.
_SUMMARY = {
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
}


def split_head(
    tensors: RenamedTensors, content: Mapping[str, Any], location: str
) -> tuple[RenamedTensors, Head | None]:
    """Takes the head out of a checkpoint's tensors.

    Args:
        tensors: `RenamedTensors`, by the names of a whole model.
        content: of config.json.
        location: string. For messages.

    Returns:
        The tensors without the head, and the head or None.

    Raises:
        ValueError: if its tensors or options are not those of a head, or it is
            damaged.
    """
    by_prefix: dict[str, dict[str, str]] = {}
    for name in tensors.names:
        prefix, _, part = name.rpartition(".")
        if prefix in KINDS:
            by_prefix.setdefault(prefix, {})[part] = name
    if not by_prefix:
        return tensors, None
    if len(by_prefix) > 1:
        raise ValueError(
            f"{location}: there must be one head, got {', '.join(by_prefix)}."
        )
    ((prefix, names),) = by_prefix.items()
    kind = KINDS[prefix]
    weights = {part: tensors.read(name) for part, name in names.items()}
    _check(weights, prefix=prefix, kind=kind, content=content, location=location)
    weights["kernel"] = weights.pop("weight").T
    own = set(names.values())
    rest = {name: old for name, old in tensors.names.items() if name not in own}
    head = Head(kind, _arguments(kind, weights["kernel"].shape[1], content), weights)
    return RenamedTensors(tensors.stored, rest), head


def _check(
    weights: Mapping[str, np.ndarray],
    *,
    prefix: str,
    kind: str,
    content: Mapping[str, Any],
    location: str,
) -> None:
    parts = {"weight"} if kind == "text_classifier" else {"weight", "bias"}
    if set(weights) != parts:
        raise ValueError(
            f"{location}: {prefix} must have {' and '.join(sorted(parts))}, got "
            f"{', '.join(sorted(weights))}."
        )
    labels = {"question_answering": 2, "multiple_choice": 1}.get(
        kind, weights["weight"].shape[0]
    )
    shapes = {"weight": (labels, content.get("n_embd")), "bias": (labels,)}
    for part, value in weights.items():
        if value.shape != shapes[part]:
            raise ValueError(
                f"{location}: tensor '{prefix}.{part}' must have the shape "
                f"{shapes[part]}, got {value.shape}."
            )
        if not np.isfinite(np.sum(value, dtype=np.float64)):
            raise ValueError(
                f"{location}: tensor '{prefix}.{part}' must be finite, but is not."
            )
    if kind == "multiple_choice":
        for key, only in _SUMMARY.items():
            if content.get(key, only) != only:
                raise ValueError(
                    f"{location}: {key} must be {only!r}, the only value that is "
                    f"supported, got {content[key]!r}."
                )


def _arguments(
    kind: str, num_labels: int, content: Mapping[str, Any]
) -> dict[str, Any]:
    given = [content[key] for key in _DROPOUTS[kind] if content.get(key) is not None]
    default = DEFAULT_DROPOUT if _DROPOUTS[kind] else 0.0
    arguments: dict[str, Any] = {
        "head_dropout": given[0] if given else default
    }
    if kind not in ("text_classifier", "token_classifier"):
        return arguments
    arguments["num_classes"] = num_labels
    names = content.get("id2label") or {}
    if num_labels > 1 and len(names) == num_labels:
        arguments["label_names"] = [names[key] for key in sorted(names, key=int)]
    if content.get("problem_type") == "multi_label_classification":
        arguments["multi_label"] = True
    return arguments
