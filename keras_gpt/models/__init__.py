"""GPT models: the backbone and the tasks upon it."""

from keras_gpt.models.backbone import ForwardOutput, GPTBackbone
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import GenerationDetails

__all__ = [
    "ForwardOutput",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTCausalLMPreprocessor",
    "GenerationDetails",
    "GenerationOptions",
]
