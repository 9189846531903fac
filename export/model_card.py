"""What an exported model was made of, for those who serve it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export.served_options import ServedOptions
from keras_gpt.export.signatures.inputs import Signature
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.zero_copy import as_array


def model_card(
    task: GPTCausalLM,
    served: ServedOptions,
    *,
    signatures: dict[str, Signature],
    export_options: dict[str, Any],
) -> dict[str, Any]:
    """Returns the model card, as plain data.

    Args:
        task: `GPTCausalLM` that was exported.
        served: `ServedOptions`.
        signatures: those of the model.
        export_options: further arguments of the export by name.
    """
    tokenizer = task.text_generator().tokenizer
    return {
        "library": "keras_gpt",
        "library_version": importlib.metadata.version("keras-gpt"),
        "tensorflow_version": tf.__version__,
        "config": task.backbone.config.to_dict(),
        "num_parameters": sum(
            int(tf.size(weight.value)) for weight in task.backbone.weights
        ),
        "compute_dtype": task.backbone.compute_dtype,
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "vocabulary_size": tokenizer.vocabulary_size(),
            "sha256": tokenizer_fingerprint(tokenizer),
        },
        "weights_sha256": weights_fingerprint(task.backbone),
        "method": served.method,
        "defaults": served.defaults,
        "export_options": export_options,
        "signatures": {name: one.meaning for name, one in signatures.items()},
    }


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Returns the SHA-256 of vocabulary, merges and special tokens."""
    parts = [
        tokenizer.get_vocabulary(),
        tokenizer.merges,
        tokenizer.special_tokens,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_fingerprint(backbone: Any) -> str:
    """Returns the SHA-256 of all weights: path, dtype, shape and values of each."""
    digest = hashlib.sha256()
    for weight in backbone.weights:
        head = f"{weight.path} {weight.dtype} {tuple(weight.shape)}"
        digest.update(head.encode())
        digest.update(as_array(weight).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
