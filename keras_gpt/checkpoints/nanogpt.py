"""Checkpoints of nanoGPT: https://github.com/karpathy/nanoGPT."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Checkpoint
from keras_gpt.checkpoints.tensors import RenamedTensors, without_tied_head
from keras_gpt.config import GPTConfig
from keras_gpt.tokenizer import GPTTokenizer

FIELDS = {
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_dim",
    "block_size": "max_sequence_length",
    "bias": "use_bias",
    "vocab_size": "vocabulary_size",
    "dropout": "dropout",
}
# What torch.compile puts before every name.
_COMPILED = "_orig_mod."
_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def open_nanogpt(path: Path) -> Checkpoint:
    """Opens a checkpoint file that nanoGPT's train.py wrote.

    The tokenizer's files (vocab.json and merges.txt, or encoder.json and vocab.bpe,
    or tokenizer.json) are read from the same folder; without them there is none.
    nanoGPT's `meta.pkl` is a pickle and never read.

    Args:
        path: of the `.pt` file. It is read with torch's weights-only loading.

    Raises:
        ImportError: if torch is not installed.
        ValueError: if the file is broken, holds objects other than weights and
            numbers, or its tensors are not those of its `model_args`.
    """
    content = _load(path)
    arguments, weights = (_entry(content, key, path) for key in ("model_args", "model"))
    tensors = _TorchTensors(weights)
    names = {
        name.removeprefix(_COMPILED): name
        for name in tensors.shapes
        if not _BUFFER.fullmatch(name.removeprefix(_COMPILED))
    }
    return Checkpoint(
        location=str(path),
        config=_read_config(arguments, path),
        naming="nanogpt",
        tensors=without_tied_head(
            RenamedTensors(tensors, names),
            table="transformer.wte.weight",
            location=str(path),
        ),
        tokenizer=lambda: GPTTokenizer.from_huggingface_files(path.parent),
    )


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: reading a .pt file needs torch, which is not installed: "
            "pip install torch."
        ) from error
    try:
        # Files of old versions of torch are no zip archives and cannot be mapped.
        is_mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} must hold weights and numbers alone, since pickled objects can "
            f"run code: {reason}"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must be a whole file of torch.save: {error}"
        ) from error


def _entry(content: Any, key: str, path: Path) -> dict[str, Any]:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a nanoGPT checkpoint with a dict {key!r}.")
    return value


def _read_config(arguments: dict[str, Any], path: Path) -> GPTConfig:
    # nanoGPT added `bias` and `dropout` in the course of time.
    arguments = {"bias": True, "dropout": 0.0, **arguments}
    missing = [key for key in FIELDS if key not in arguments]
    unknown = sorted(set(arguments) - set(FIELDS))
    if missing or unknown:
        raise ValueError(
            f"{path}: model_args must have the keys {', '.join(FIELDS)} alone, "
            f"missing: {missing}, unknown: {unknown}."
        )
    try:
        return GPTConfig(
            **{name: arguments[key] for key, name in FIELDS.items()}, activation="gelu"
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


class _TorchTensors:
    """Tensors of torch, one at a time as arrays."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self._weights = weights
        self.shapes = {name: tuple(value.shape) for name, value in weights.items()}

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(str(self._weights[name].dtype).removeprefix("torch."))

    def read(self, name: str) -> np.ndarray:
        import torch

        value = self._weights[name].detach()
        if value.dtype == torch.bfloat16:  # which torch does not give to NumPy
            return value.view(torch.uint16).numpy().view("bfloat16")
        return value.numpy()
