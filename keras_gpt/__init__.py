"""GPT for TensorFlow and Keras: from raw text to a served model."""

from __future__ import annotations

import importlib
from typing import Any

from keras_gpt.config import GPTConfig
from keras_gpt.quiet import quiet_start

with quiet_start():  # These import tensorflow.
    from keras_gpt.checkpoints import (
        convert_checkpoint,
        save_huggingface,
        save_keras_hub,
    )
    from keras_gpt.models import (
        GenerationDetails,
        GenerationOptions,
        GPTBackbone,
        GPTCausalLM,
        GPTCausalLMPreprocessor,
        GPTMultipleChoice,
        GPTMultipleChoicePreprocessor,
        GPTQuestionAnswering,
        GPTQuestionAnsweringPreprocessor,
        GPTSimilarity,
        GPTSimilarityPreprocessor,
        GPTTextClassifier,
        GPTTextClassifierPreprocessor,
        GPTTokenClassifier,
        GPTTokenClassifierPreprocessor,
    )
    from keras_gpt.tokenizer import ChatTemplate, GPTTokenizer, train_tokenizer

__version__ = "0.1.0"

__all__ = [
    "ChatTemplate",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTCausalLMPreprocessor",
    "GPTConfig",
    "GPTMultipleChoice",
    "GPTMultipleChoicePreprocessor",
    "GPTQuestionAnswering",
    "GPTQuestionAnsweringPreprocessor",
    "GPTSimilarity",
    "GPTSimilarityPreprocessor",
    "GPTTextClassifier",
    "GPTTextClassifierPreprocessor",
    "GPTTokenClassifier",
    "GPTTokenClassifierPreprocessor",
    "GPTTokenizer",
    "GenerationDetails",
    "GenerationOptions",
    "convert_checkpoint",
    "save_huggingface",
    "save_keras_hub",
    "train_tokenizer",
]

_SUBPACKAGES = (
    "baselines",
    "checkpoints",
    "data",
    "export",
    "generation",
    "metrics",
    "planning",
    "sampling",
    "scoring",
    "tools",
    "training",
    "transformers",
)


def __getattr__(name: str) -> Any:
    """Loads a subpackage when it is first used, so that importing stays quick."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
