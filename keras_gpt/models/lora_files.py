"""Adapters in files of their own: small, checked, and for one shape of network.

A file is safetensors (https://huggingface.co/docs/safetensors) with the matrices of
one adapter by the paths of their variables, the weights of a task's head by theirs,
and `METADATA` that say what they are.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from keras_gpt.layers.projection import FACTORS
from keras_gpt.models.lora import (
    DEFAULT_NAME,
    LoraSettings,
    add_adapter,
    changed_layers,
    check_new_name,
)
from keras_gpt.models.parts import backbone_of, head_weights
from keras_gpt.whole_files import write_whole

SUFFIX = ".safetensors"
LIBRARY = "keras_gpt"
# Names in the file's metadata, besides `library`; each holds JSON.
METADATA = ("rank", "alpha", "dropout", "target_layer_names", "base_shapes", "head")

Shapes = dict[str, tuple[int, ...]]


class AdapterFile(NamedTuple):
    """What a file holds.

    Attributes:
        settings: `LoraSettings`.
        base_shapes: shape of each kernel that the adapter changes, by its path.
        matrices: float32 arrays by the path of their variable.
        head: float32 arrays by the path of the task's weight.
        label_names: list of strings, in the order of the head; None for none.
    """

    settings: LoraSettings
    base_shapes: Shapes
    matrices: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    label_names: list[str] | None


def save_adapter(
    model: Any, path: str | os.PathLike[str], *, name: str | None = None
) -> None:
    """Writes one adapter alone, without the network; of a task, with its head.

    Args:
        model: task or `GPTBackbone`. Of a task, the trainable weights outside its
            network are written, too.
        path: of the file, ending in `.safetensors`. Replaced if it exists, whole or
            not at all.
        name: string. Of the adapter. Defaults to the active one.

    Raises:
        ValueError: if there is no such adapter, or the path ends otherwise.
        OSError: if the file cannot be written.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise ValueError(f"path must end in {SUFFIX}, got {os.fspath(path)!r}.")
    backbone = backbone_of(model)
    adapter = backbone.adapters.named(name)
    settings = adapter.settings
    matrices = {
        f"{layer}/{part}": variable
        for layer, change in adapter.changes.items()
        for part, variable in zip(FACTORS, change.variables, strict=True)
    }
    head = {w.path: w for w in head_weights(model) if w.trainable}
    metadata = {
        "rank": settings.rank,
        "alpha": settings.alpha,
        "dropout": settings.dropout,
        "target_layer_names": settings.target_layer_names,
        "base_shapes": _base_shapes(backbone, settings),
        "head": list(head),
        "label_names": getattr(model, "label_names", None),
    }
    tensors = {
        path: np.ascontiguousarray(value.numpy(), np.float32)
        for path, value in (matrices | head).items()
    }
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    content = safetensors.numpy.save(tensors, {"library": LIBRARY, **texts})
    write_whole(path, content)


def load_adapter(
    model: Any, path: str | os.PathLike[str], *, name: str = DEFAULT_NAME
) -> None:
    """Adds an adapter that `save_adapter` wrote, and makes it the active one.

    All is checked before anything is changed. As in `enable_lora`, the network's own
    weights are frozen.

    Args:
        model: task or `GPTBackbone`, with a network of the shapes of that of which
            the adapter was saved. A task gets the weights of its head, too, where the
            file has them; a network by itself leaves them out.
        path: of the file.
        name: string. Of the new adapter. Defaults to `"default"`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is taken, or the file is broken or does not fit; the
            message names file and tensor.
    """
    check_new_name(model, name)
    path = os.fspath(path)
    backbone = backbone_of(model)
    file = read_adapter(path)
    expected = _base_shapes(backbone, file.settings)
    _check_shapes(path, "kernel", found=file.base_shapes, expected=expected)
    head = {weight.path: weight for weight in head_weights(model)}
    # A network by itself has no use for a head; a task must know all of it.
    stored = file.head if model is not backbone else {}
    expected = {key: tuple(head[key].shape) for key in stored if key in head}
    _check_shapes(path, "weight", found=_shapes(stored), expected=expected)
    names = getattr(model, "label_names", None)
    if stored and None not in (names, file.label_names) and names != file.label_names:
        raise ValueError(
            f"{path}: label_names must be {names}, those of the model, got "
            f"{file.label_names}."
        )
    adapter = add_adapter(model, file.settings, name=name)
    for layer, change in adapter.changes.items():
        for part, variable in zip(FACTORS, change.variables, strict=True):
            variable.assign(file.matrices[f"{layer}/{part}"])
    for key, value in stored.items():
        head[key].assign(value)


def read_adapter(path: str | os.PathLike[str]) -> AdapterFile:
    """Reads a file and checks it by itself.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, or no adapter.
    """
    path = os.fspath(path)
    metadata, tensors = _open(path)
    try:
        settings, base_shapes, head = _parsed(metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} must have {', '.join(METADATA)} of an adapter in its metadata: "
            f"{error!r}."
        ) from error
    expected = _matrix_shapes(base_shapes, settings.rank)
    found = _shapes(tensors)
    _check_shapes(
        path,
        "tensor",
        found=found,
        expected=expected | {key: found.get(key, ()) for key in head},
    )
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: tensor {key!r} must be finite, but is not.")
    return AdapterFile(
        settings,
        base_shapes,
        matrices={key: tensors[key] for key in expected},
        head={key: tensors[key] for key in head},
        label_names=json.loads(metadata.get("label_names", "null")),
    )


def _open(path: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns the metadata and the tensors of a file."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file: {error}."
        ) from error
    if metadata.get("library") != LIBRARY:
        raise ValueError(
            f"{path} must hold an adapter of {LIBRARY}, got the library "
            f"{metadata.get('library')!r} in its metadata."
        )
    return metadata, tensors


def _parsed(metadata: dict[str, str]) -> tuple[LoraSettings, Shapes, list[str]]:
    """Returns the settings, the shapes of the network's kernels, and the head."""
    values = {key: json.loads(metadata[key]) for key in METADATA}
    settings = LoraSettings(
        rank=values["rank"],
        alpha=values["alpha"],
        dropout=values["dropout"],
        target_layer_names=tuple(values["target_layer_names"]),
    )
    base_shapes: Shapes = {
        str(key): (int(inputs), int(units))
        for key, (inputs, units) in values["base_shapes"].items()
    }
    return settings, base_shapes, [str(key) for key in values["head"]]


def _base_shapes(backbone: Any, settings: LoraSettings) -> Shapes:
    return {
        layer.base_kernel.path: (layer.input_spec.axes[-1], layer.units)
        for layer in changed_layers(backbone, settings)
    }


def _matrix_shapes(base_shapes: Shapes, rank: int) -> Shapes:
    shapes: Shapes = {}
    for kernel, (inputs, units) in base_shapes.items():
        layer = kernel.rpartition("/")[0]
        for part, shape in zip(FACTORS, ((inputs, rank), (rank, units)), strict=True):
            shapes[f"{layer}/{part}"] = shape
    return shapes


def _shapes(tensors: dict[str, np.ndarray]) -> Shapes:
    return {key: value.shape for key, value in tensors.items()}


def _check_shapes(path: str, kind: str, *, found: Shapes, expected: Shapes) -> None:
    for key in [*expected, *found]:
        if found.get(key) != expected.get(key):
            raise ValueError(
                f"{path}: {kind} {key!r} must be {expected.get(key, 'absent')}, is "
                f"{found.get(key, 'absent')}."
            )
