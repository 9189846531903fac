"""KerasHub's GPT-2 presets, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_nlp
import numpy as np

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    LiveWeights,
    WeightSource,
    check_language_model,
)
from keras_gpt.checkpoints.files import read_json, whole_folder
from keras_gpt.checkpoints.weight_names import weights_of
from keras_gpt.config import GPTConfig
from keras_gpt.tokenizer import GPTTokenizer
from keras_gpt.tokenizer.gpt_tokenizer import MERGES_ASSET, VOCABULARY_ASSET
from keras_gpt.zero_copy import as_array

# Older presets have the package's older name.
CLASSES = ("keras_hub>GPT2Backbone", "keras_nlp>GPT2Backbone")
FIELDS = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "dropout",
    "max_sequence_length",
)
# What its network is, without a choice.
FIXED: dict[str, Any] = {
    "layer_norm_epsilon": 1e-5,
    "activation": "gelu_approximate",
    "normalize_first": True,
    "use_bias": True,
    "tie_embeddings": True,
    "scale_attention_by_inverse_layer": False,
    "upcast_attention": False,
}


def is_keras_hub(config: dict[str, Any]) -> bool:
    """Whether the content of a config.json is of KerasHub's GPT-2."""
    return config.get("registered_name") in CLASSES


def open_keras_hub(folder: Path) -> Checkpoint:
    """Opens a preset directory of KerasHub's GPT-2.

    Raises:
        ValueError: if the preset is broken or quantized.
        OSError: if a file cannot be read.
    """
    try:
        peer = keras_nlp.models.GPT2Backbone.from_preset(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{folder} must be a KerasHub preset: {error}") from error
    config = GPTConfig(**{name: getattr(peer, name) for name in FIELDS}, **FIXED)
    return Checkpoint(
        location=str(folder),
        config=config,
        naming="keras_hub",
        tensors=_VariableTensors(peer),
        tokenizer=lambda: open_keras_hub_tokenizer(folder),
        preprocessor=_preprocessor_options(folder),
    )


def save_keras_hub(model: Any, path: Any) -> None:
    """Writes a preset directory that KerasHub's own GPT-2 classes load.

    Args:
        model: `GPTCausalLM`; or `GPTBackbone`, then without a tokenizer.
        path: new or empty folder. Written whole or not at all.

    Raises:
        ValueError: if KerasHub has no such network, naming the field, or the model has
            the head of another task.
        FileExistsError: if the folder holds something.
        OSError: if it cannot be written.
    """
    write_keras_hub(LiveWeights(model), Path(path))


def write_keras_hub(source: WeightSource, path: Path) -> None:
    """Writes a network; one copy of it is in memory.

    Args:
        source: `WeightSource`.
        path: as in `save_keras_hub`, like the errors.
    """
    check_language_model(source, library="KerasHub's GPT-2")
    _check_config(source.config)
    model = _peer(source)
    with whole_folder(path) as folder:
        model.save_to_preset(str(folder))


def _peer(source: WeightSource) -> Any:
    config = source.config
    peer = keras_nlp.models.GPT2Backbone(
        **{name: getattr(config, name) for name in FIELDS},
        dtype=str(source.dtype(source.paths[0])),
    )
    variables = {variable.path: variable for variable in peer.weights}
    for weight in weights_of(config, "keras_hub"):
        parts = weight.to_stored(source.read(weight.path))
        for name, part in zip(weight.names, parts, strict=True):
            variables[name].assign(part)
    if source.tokenizer is None:
        return peer
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        keras_nlp.models.GPT2Tokenizer(
            vocabulary=_vocabulary(source.tokenizer), merges=source.tokenizer.merges
        ),
        sequence_length=config.max_sequence_length,
    )
    return keras_nlp.models.GPT2CausalLM(peer, preprocessor)


def _vocabulary(tokenizer: GPTTokenizer) -> dict[str, int]:
    if tokenizer.end_token_id is None or type(tokenizer) is not GPTTokenizer:
        raise ValueError(
            "the tokenizer must be byte-level BPE with <|endoftext|> for KerasHub's "
            f"GPT-2, got {type(tokenizer).__name__} without it."
        )
    return {token: index for index, token in enumerate(tokenizer.get_vocabulary())}


def _check_config(config: GPTConfig) -> None:
    head_dim = config.hidden_dim // config.num_heads
    for name, value in {**FIXED, "head_dim": head_dim}.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} must be {value} for KerasHub's GPT-2, "
                f"got {getattr(config, name)}."
            )


def open_keras_hub_tokenizer(folder: Path) -> GPTTokenizer | None:
    """Opens the tokenizer of a preset directory, or returns None if it has none.

    Raises:
        ValueError: if a file is broken.
        OSError: if one cannot be read.
    """
    assets = folder / "assets" / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        return None
    return GPTTokenizer(
        vocabulary=assets / VOCABULARY_ASSET, merges=assets / MERGES_ASSET
    )


def _preprocessor_options(folder: Path) -> dict[str, Any]:
    """Arguments of the preprocessor that was saved with the task, if any."""
    path = folder / "preprocessor.json"
    if not path.exists():
        return {}
    options = read_json(path).get("config", {})
    names = ("sequence_length", "add_start_token", "add_end_token")
    return {name: options[name] for name in names if name in options}


class _VariableTensors:
    """The variables of a Keras model."""

    def __init__(self, model: keras.Model) -> None:
        self._variables = {variable.path: variable for variable in model.weights}
        self.shapes = {path: tuple(v.shape) for path, v in self._variables.items()}

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(str(self._variables[name].dtype))

    def read(self, name: str) -> np.ndarray:
        return as_array(self._variables[name])
