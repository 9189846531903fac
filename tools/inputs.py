"""Reading what flags point to."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any


def text_paths(patterns: list[str]) -> list[Path]:
    """Expands file names and glob patterns, in order.

    Raises:
        FileNotFoundError: if a pattern matches no file.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {pattern!r}.")
        paths += [Path(path) for path in found if Path(path).is_file()]
    if not paths:
        raise FileNotFoundError(f"no file matches {', '.join(patterns)!r}.")
    return paths


def load_model(path: str) -> Any:
    """Loads a `GPTCausalLM` with its tokenizer from whatever `from_preset` takes.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, or has no tokenizer.
    """
    from keras_gpt import GPTCausalLM

    lm = GPTCausalLM.from_preset(path)
    if lm.preprocessor is None:
        raise ValueError(f"model {path!r} must have tokenizer files, got none.")
    return lm


def load_task(path: str) -> Any:
    """Loads the task that a preset or checkpoint holds, with its tokenizer.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, holds no task, or has no tokenizer.
    """
    from keras_gpt.training import TASK_KINDS, find_kind

    task = TASK_KINDS[find_kind(path)].task_class.from_preset(path)
    if task.preprocessor is None:
        raise ValueError(f"model {path!r} must have tokenizer files, got none.")
    return task


def load_config(model: str) -> Any:
    """Reads the `GPTConfig` of a named size, or of whatever `from_preset` takes.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken.
    """
    from keras_gpt import GPTBackbone, GPTConfig, presets
    from keras_gpt.config import NAMED_SIZES

    if model in NAMED_SIZES:
        return GPTConfig.named(model)
    try:
        found = presets.find(model)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"model must be one of {', '.join(NAMED_SIZES)}, or a preset: {error}"
        ) from error
    if found.checkpoint is not None:
        return found.checkpoint.config
    return GPTBackbone.from_preset(model, load_weights=False).config


def load_tokenizer(path: str) -> Any:
    """Loads a `GPTTokenizer` from a folder of vocab.json and merges.txt."""
    from keras_gpt import GPTTokenizer

    folder = Path(path)
    return GPTTokenizer(vocabulary=folder / "vocab.json", merges=folder / "merges.txt")
