"""Sampling the next token, in plain TensorFlow: nothing here knows a model."""

from keras_gpt.sampling.logits_processors import History, Penalties, penalize
from keras_gpt.sampling.rng import threefry2x32, uniform
from keras_gpt.sampling.samplers import KeptTokens, SamplingSettings, keep, sample

__all__ = [
    "History",
    "KeptTokens",
    "Penalties",
    "SamplingSettings",
    "keep",
    "penalize",
    "sample",
    "threefry2x32",
    "uniform",
]
