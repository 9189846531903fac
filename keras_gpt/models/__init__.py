"""GPT models: the backbone and the tasks upon it."""

from keras_gpt.models.backbone import ForwardOutput, GPTBackbone
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.freezing import freeze_layers, unfreeze_layers
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import GenerationDetails
from keras_gpt.models.lora import (
    activate_adapter,
    enable_lora,
    merge_lora,
    remove_adapter,
)
from keras_gpt.models.lora_files import load_adapter, save_adapter

__all__ = [
    "ForwardOutput",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTCausalLMPreprocessor",
    "GenerationDetails",
    "GenerationOptions",
    "activate_adapter",
    "enable_lora",
    "freeze_layers",
    "load_adapter",
    "merge_lora",
    "remove_adapter",
    "save_adapter",
    "unfreeze_layers",
]
