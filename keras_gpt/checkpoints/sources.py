"""From a preset's name to its files, and from the files to their format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import keras_nlp
from huggingface_hub.errors import HFValidationError

from keras_gpt.checkpoints.checkpoint import Checkpoint
from keras_gpt.checkpoints.files import read_json
from keras_gpt.checkpoints.huggingface import (
    is_huggingface,
    open_huggingface,
    open_huggingface_tokenizer,
)
from keras_gpt.checkpoints.keras_hub import (
    is_keras_hub,
    open_keras_hub,
    open_keras_hub_tokenizer,
)
from keras_gpt.checkpoints.nanogpt import open_nanogpt
from keras_gpt.checkpoints.openai import is_openai, open_openai
from keras_gpt.presets import Found, FoundTokenizer
from keras_gpt.tokenizer import GPTTokenizer

HUGGINGFACE = "hf://"
KAGGLE = "kaggle://"
# Other places that KerasHub reads itself.
_REMOTE = re.compile(r"[a-z0-9]+://")
# Names that transformers' users know by heart.
SHORT_NAMES = {
    "gpt2": "hf://openai-community/gpt2",
    "gpt2-medium": "hf://openai-community/gpt2-medium",
    "gpt2-large": "hf://openai-community/gpt2-large",
    "gpt2-xl": "hf://openai-community/gpt2-xl",
    "openai-gpt": "hf://openai-community/openai-gpt",
    "distilgpt2": "hf://distilbert/distilgpt2",
}
# What is fetched from a hub: weights as safetensors or Keras files, never pickles.
_TOKENIZER_FILES = ["*.json", "*.txt", "*.bpe"]
_ALL_FILES = [*_TOKENIZER_FILES, "*.safetensors", "*.weights.h5"]


def find_preset(preset: str) -> Found:
    """Finds a preset, fetching it if it is not local.

    Args:
        preset: string. A directory or a nanoGPT `.pt` file; `hf://owner/name`, with
            `@revision` if wanted; `kaggle://...`; the name of one of KerasHub's
            GPT-2 presets; or a key of `SHORT_NAMES`. An existing path goes first.

    Raises:
        FileNotFoundError: if there is no such path or name, or a file is missing.
        ConnectionError: if it cannot be fetched.
        ValueError: if it is of no known format, or broken.
    """
    path = _local_path(preset, _ALL_FILES)
    return Found(preset, None) if path is None else _open_path(path)


def find_tokenizer(preset: str) -> FoundTokenizer:
    """Finds the tokenizer of a preset; its weights need not be there.

    Args and errors are those of `find_preset`. A directory of tokenizer files alone
    is enough.
    """
    path = _local_path(preset, _TOKENIZER_FILES)
    if path is None:
        return FoundTokenizer(preset, None)
    folder = path.parent if path.is_file() else path
    config_file = folder / "config.json"
    config = read_json(config_file) if config_file.exists() else {}
    if is_keras_gpt(config):
        return FoundTokenizer(str(folder), None)
    if is_keras_hub(config):
        tokenizer = open_keras_hub_tokenizer(folder)
    elif is_huggingface(config):
        tokenizer = open_huggingface_tokenizer(folder, config)
    else:
        tokenizer = GPTTokenizer.from_huggingface_files(folder)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{folder} must hold tokenizer.json, vocab.json and merges.txt, or "
            "encoder.json and vocab.bpe, but holds none of them."
        )
    return FoundTokenizer(str(folder), tokenizer)


def _local_path(preset: str, patterns: list[str]) -> Path | None:
    """Returns where a preset is, once fetched; None if only KerasHub can fetch it."""
    path = Path(preset)
    if path.exists():
        return path
    preset = SHORT_NAMES.get(preset, preset)
    hub_presets = keras_nlp.models.GPT2Backbone.presets
    if preset in hub_presets:
        preset = hub_presets[preset]["kaggle_handle"]
    if preset.startswith(HUGGINGFACE):
        return _fetch_huggingface(preset, patterns)
    if preset.startswith(KAGGLE):
        return _fetch_kaggle(preset)
    if _REMOTE.match(preset):
        return None
    names = [*SHORT_NAMES, *hub_presets]
    raise FileNotFoundError(
        "preset must be a directory, hf://owner/name, kaggle://..., or one of "
        f"{', '.join(names)}, got {preset!r}."
    )


def _open_path(path: Path) -> Found:
    if path.is_file():
        if path.suffix != ".pt":
            raise ValueError(
                f"preset must be a directory or a nanoGPT file (.pt), got {path}."
            )
        return Found(str(path), open_nanogpt(path))
    checkpoint: Checkpoint | None
    if (path / "config.json").exists():
        config = read_json(path / "config.json")
        if is_huggingface(config):
            checkpoint = open_huggingface(path)
        elif is_keras_hub(config):
            checkpoint = open_keras_hub(path)
        elif is_keras_gpt(config):
            checkpoint = None
        else:
            raise ValueError(
                f"{path / 'config.json'} must be of a keras_gpt or KerasHub GPT-2 "
                "preset, or of a Hugging Face checkpoint (with model_type), got "
                f"registered_name {config.get('registered_name')!r}."
            )
    elif is_openai(path):
        checkpoint = open_openai(path)
    elif len(files := sorted(path.glob("*.pt"))) == 1:
        checkpoint = open_nanogpt(files[0])
    else:
        raise ValueError(
            f"{path} must hold config.json (a preset or a Hugging Face checkpoint), "
            "hparams.json and model.ckpt (OpenAI), or one .pt file (nanoGPT), got "
            f"{', '.join(sorted(file.name for file in path.iterdir())) or 'nothing'}."
        )
    return Found(str(path), checkpoint)


def is_keras_gpt(config: dict[str, Any]) -> bool:
    """Whether the content of a config.json is of a preset of this library."""
    return str(config.get("registered_name")).startswith("keras_gpt>")


def _fetch_huggingface(preset: str, patterns: list[str]) -> Path:
    name, _, revision = preset.removeprefix(HUGGINGFACE).partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=patterns
        )
    except HFValidationError as error:
        raise ValueError(
            f"preset must be hf://owner/name, got {preset!r}: {error}"
        ) from error
    except Exception as error:  # requests, httpx and the hub each have their own
        raise _not_fetched(preset, "huggingface.co", error) from error
    return Path(folder)


def _fetch_kaggle(preset: str) -> Path:
    import kagglehub

    try:
        return Path(kagglehub.model_download(preset.removeprefix(KAGGLE)))
    except Exception as error:  # as above
        raise _not_fetched(preset, "kaggle.com", error) from error


def _not_fetched(preset: str, host: str, error: Exception) -> ConnectionError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConnectionError(
        f"{preset} could not be fetched from {host} (config, weights and tokenizer "
        f"files): {reason} Without a network, copy the files of {preset} into a "
        "directory and give its path in place of the name."
    )
