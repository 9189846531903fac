"""GPT models: the backbone and the tasks upon it."""

from keras_gpt.models.backbone import ForwardOutput, GPTBackbone
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor

__all__ = [
    "ForwardOutput",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTCausalLMPreprocessor",
]
