"""Checkpoints of OpenAI's GPT-2 release: https://github.com/openai/gpt-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.checkpoints.checkpoint import Checkpoint
from keras_gpt.checkpoints.files import read_json
from keras_gpt.config import GPTConfig
from keras_gpt.tokenizer import GPTTokenizer

HPARAMS_FILE = "hparams.json"
CHECKPOINT = "model.ckpt"
FIELDS = {
    "n_vocab": "vocabulary_size",
    "n_ctx": "max_sequence_length",
    "n_embd": "hidden_dim",
    "n_head": "num_heads",
    "n_layer": "num_layers",
}


def is_openai(folder: Path) -> bool:
    """Whether a folder looks like the release of a model."""
    return (folder / HPARAMS_FILE).exists() or any(folder.glob("*.ckpt.index"))


def open_openai(folder: Path) -> Checkpoint:
    """Opens a folder of the release.

    Args:
        folder: it holds model.ckpt.index and model.ckpt.data-*, hparams.json, and
            the tokenizer's encoder.json and vocab.bpe.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is broken or the tensors are not those of hparams.json.
    """
    return Checkpoint(
        location=str(folder),
        config=_read_config(folder / HPARAMS_FILE),
        naming="openai",
        tensors=_VariableTensors(folder / CHECKPOINT),
        tokenizer=lambda: GPTTokenizer.from_huggingface_files(folder),
    )


def _read_config(path: Path) -> GPTConfig:
    content = read_json(path)
    missing = [key for key in FIELDS if key not in content]
    if missing:
        raise ValueError(f"{path} must have the key {', '.join(missing)}.")
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise ValueError(f"{path} must have no other keys, got {', '.join(unknown)}.")
    try:
        return GPTConfig(**{name: content[key] for key, name in FIELDS.items()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


class _VariableTensors:
    """The variables of a TensorFlow checkpoint."""

    def __init__(self, prefix: Path) -> None:
        index = prefix.with_name(f"{prefix.name}.index")
        if not index.exists():
            raise FileNotFoundError(f"{index} is missing.")
        self._prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
        except (tf.errors.OpError, ValueError) as error:
            raise self._broken(error) from error
        shapes: dict[str, Any] = self._reader.get_variable_to_shape_map()
        self.shapes = {name: tuple(shape) for name, shape in sorted(shapes.items())}
        self._dtypes = self._reader.get_variable_to_dtype_map()

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(self._dtypes[name].as_numpy_dtype)

    def read(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            raise self._broken(error, name) from error

    def _broken(self, error: Exception, name: str = "") -> ValueError:
        tensor = f": tensor {name!r}" if name else ""
        reason = getattr(error, "message", None) or str(error)
        return ValueError(
            f"{self._prefix}{tensor} must be a whole TensorFlow checkpoint: {reason}"
        )
