"""Sampling the next token, in plain TensorFlow: nothing here knows a model."""

from keras_gpt.sampling.history import History
from keras_gpt.sampling.logits_processors import (
    LogitsProcessor,
    Penalties,
    TokenRules,
    process_logits,
)
from keras_gpt.sampling.rng import threefry2x32, uniform
from keras_gpt.sampling.samplers import KeptTokens, SamplingSettings, keep, sample
from keras_gpt.sampling.stop_strings import find_stop_string

__all__ = [
    "History",
    "KeptTokens",
    "LogitsProcessor",
    "Penalties",
    "SamplingSettings",
    "TokenRules",
    "find_stop_string",
    "keep",
    "process_logits",
    "sample",
    "threefry2x32",
    "uniform",
]
