"""What an exported model was made of, for those who serve it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export.files import write_text
from keras_gpt.export.signatures.inputs import Signature
from keras_gpt.zero_copy import as_array


def model_card(
    task: Any,
    own: dict[str, Any],
    *,
    signatures: dict[str, Signature],
    export_options: dict[str, Any],
) -> dict[str, Any]:
    """Returns the model card, as plain data.

    Args:
        task: that was exported.
        own: what is to be said of this kind of task.
        signatures: those of the model.
        export_options: further arguments of the export by name.
    """
    return {
        **task_card(task),
        "num_parameters": sum(int(tf.size(weight.value)) for weight in task.weights),
        "weights_sha256": weights_fingerprint(task),
        **own,
        "export_options": export_options,
        "signatures": {name: one.meaning for name, one in signatures.items()},
    }


def task_card(task: Any) -> dict[str, Any]:
    """Returns what is said of a task whatever it is exported as, as plain data."""
    card = {
        "library": "keras_gpt",
        "library_version": importlib.metadata.version("keras-gpt"),
        "tensorflow_version": tf.__version__,
        "task": type(task).__name__,
        "config": task.backbone.config.to_dict(),
        "compute_dtype": task.backbone.compute_dtype,
    }
    if task.preprocessor is not None:
        tokenizer = task.preprocessor.tokenizer
        card["tokenizer"] = {
            "class": type(tokenizer).__name__,
            "vocabulary_size": tokenizer.vocabulary_size(),
            "sha256": tokenizer_fingerprint(tokenizer),
        }
    return card


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Writes a model card as JSON."""
    text = json.dumps(
        card, indent=2, default=lambda data: data.decode(errors="replace")
    )
    write_text(path, text + "\n")


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Returns the SHA-256 of vocabulary, merges and special tokens."""
    parts = [
        tokenizer.get_vocabulary(),
        tokenizer.merges,
        tokenizer.special_tokens,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_fingerprint(model: Any) -> str:
    """Returns the SHA-256 of all weights: path, dtype, shape and values of each."""
    digest = hashlib.sha256()
    for weight in model.weights:
        head = f"{weight.path} {weight.dtype} {tuple(weight.shape)}"
        digest.update(head.encode())
        digest.update(as_array(weight).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
