"""From one format to another, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_gpt import models, presets
from keras_gpt.checkpoints.checkpoint import Checkpoint, LiveWeights
from keras_gpt.checkpoints.files import read_json, whole_folder
from keras_gpt.checkpoints.huggingface import write_huggingface
from keras_gpt.checkpoints.keras_hub import write_keras_hub
from keras_gpt.checkpoints.sources import find_preset
from keras_gpt.models import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str = "keras_gpt",
) -> None:
    """Writes a checkpoint in another format.

    To `"huggingface"`, one tensor is in memory at a time; to `"keras_gpt"`, the model
    and its largest tensor; to `"keras_hub"`, what KerasHub's classes take, some four
    times the largest tensor beside the model. A Keras preset as the source adds its
    model. Weights keep their dtype. A task's head goes along to `"keras_gpt"`; the
    other formats are for language models.

    Args:
        source: whatever `GPTCausalLM.from_preset` takes.
        target: new or empty folder. Written whole or not at all.
        format: string. `"keras_gpt"` (a preset of this library), `"huggingface"`
            (transformers) or `"keras_hub"` (KerasHub's own GPT-2).

    Raises:
        ValueError: if the source is broken, or the format unknown or without such a
            network.
        OSError: if a file cannot be read, fetched or written, or the folder holds
            something.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    FORMATS[format](open_source(source), Path(target))


def open_source(source: str | os.PathLike[str]) -> Checkpoint | LiveWeights:
    """Opens what `from_preset` would load, to be read weight by weight.

    Args and errors are those of `convert_checkpoint`.
    """
    found = find_preset(os.fspath(source))
    if found.checkpoint is not None:
        return found.checkpoint
    folder = Path(found.location)
    # KerasHub would load it in the default precision.
    dtype = read_json(folder / "config.json")["config"]["dtype"]
    cls = presets.task_class(found.location)
    if cls is None:
        has_tokenizer = (folder / "tokenizer.json").exists()
        cls = GPTCausalLM if has_tokenizer else GPTBackbone
    return LiveWeights(cls.from_preset(found.location, dtype=dtype))


def write_keras_gpt(source: Checkpoint | LiveWeights, path: Path) -> None:
    """Writes a preset of this library; one copy of the network is in memory.

    Args:
        source: `Checkpoint` or `LiveWeights`.
        path: new or empty folder.
    """
    model = source.model if isinstance(source, LiveWeights) else _build(source)
    with whole_folder(path) as folder:
        model.save_to_preset(str(folder))


def _build(checkpoint: Checkpoint) -> Any:
    dtype = str(checkpoint.dtype(checkpoint.paths[0]))
    if checkpoint.head is not None:
        cls = _TASKS[checkpoint.head.kind]
        return cls.from_preset(checkpoint.location, dtype=dtype)
    backbone = checkpoint.build_backbone(dtype=dtype)
    if checkpoint.tokenizer is None:
        return backbone
    preprocessor = GPTCausalLMPreprocessor(
        checkpoint.tokenizer, **checkpoint.preprocessor_arguments
    )
    return GPTCausalLM(backbone, preprocessor)


_TASKS: dict[Any, Any] = {
    cls.head_kind: cls
    for cls in (
        models.GPTTextClassifier,
        models.GPTTokenClassifier,
        models.GPTQuestionAnswering,
        models.GPTMultipleChoice,
    )
}
FORMATS: dict[str, Callable[[Any, Path], None]] = {
    "keras_gpt": write_keras_gpt,
    "huggingface": write_huggingface,
    "keras_hub": write_keras_hub,
}
