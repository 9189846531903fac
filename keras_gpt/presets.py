"""What `from_preset` finds: a KerasHub preset, or a network in another format.

The classes with a `from_preset` stand below `keras_gpt.checkpoints`, which knows the
formats; so it registers itself here.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_gpt.config import GPTConfig

FIELDS = tuple(field.name for field in dataclasses.fields(GPTConfig))
BACKBONE_ARGUMENTS = ("dtype", *FIELDS)
TASK_FILE = "task.json"  # of a KerasHub preset


class Found(NamedTuple):
    """What a preset's name led to.

    Attributes:
        location: string. What KerasHub's own `from_preset` takes.
        checkpoint: `keras_gpt.checkpoints.Checkpoint`, or None if the preset is
            KerasHub's format with classes of this library.
    """

    location: str
    checkpoint: Any | None


class FoundTokenizer(NamedTuple):
    """What a preset's name led to, of its tokenizer alone.

    Attributes:
        location: string. What KerasHub's own `from_preset` takes.
        tokenizer: a tokenizer read from another format, or None as in `Found`.
    """

    location: str
    tokenizer: Any | None


class Finders(NamedTuple):
    """The functions that `find` and `find_tokenizer` call."""

    preset: Callable[[str], Found]
    tokenizer: Callable[[str], FoundTokenizer]


_registered: list[Finders] = []


def register_finders(finders: Finders) -> None:
    """Makes these the functions that `find` and `find_tokenizer` call."""
    _registered[:] = [finders]


def find(preset: Any) -> Found:
    """Finds a preset.

    Args:
        preset: string or path. A directory, or a name such as `"hf://owner/name"`.

    Raises:
        ValueError: if it is no preset or checkpoint, or a broken one.
        OSError: if a file is missing or cannot be fetched.
    """
    return _registered[0].preset(str(preset))


def find_tokenizer(preset: Any) -> FoundTokenizer:
    """Finds the tokenizer of a preset, without its weights; else as `find`."""
    return _registered[0].tokenizer(str(preset))


def task_class(location: str) -> Any | None:
    """Returns the class of the task that a directory holds; None for a network alone.

    Raises:
        ValueError: if there is no such class.
    """
    path = os.path.join(location, TASK_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        name = json.load(file).get("registered_name")
    cls = keras.saving.get_registered_object(name)
    if cls is None:
        raise ValueError(f"{path} must be of a registered class, got {name!r}.")
    return cls


def task_arguments(
    cls: Any, checkpoint: Any, *, load_weights: bool, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Returns the constructor's arguments of a task on a network in another format.

    Args:
        cls: class of the task, with `backbone_cls` and `preprocessor_cls`.
        checkpoint: `keras_gpt.checkpoints.Checkpoint`.
        load_weights: bool. Whether the backbone gets its weights.
        kwargs: arguments of `from_preset`: `dtype` and fields of `GPTConfig` go to
            the backbone, the others to the task.
    """
    kwargs = dict(kwargs)
    overrides = {
        name: kwargs.pop(name) for name in BACKBONE_ARGUMENTS if name in kwargs
    }
    if "backbone" not in kwargs:
        kwargs["backbone"] = checkpoint.build_backbone(
            cls.backbone_cls, load_weights=load_weights, **overrides
        )
    if "preprocessor" not in kwargs:
        kwargs["preprocessor"] = (
            checkpoint.tokenizer and cls.preprocessor_cls.from_checkpoint(checkpoint)
        )
    return kwargs
