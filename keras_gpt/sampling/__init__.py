"""Sampling the next token, in plain TensorFlow: nothing here knows a model."""

from keras_gpt.sampling.rng import threefry2x32, uniform
from keras_gpt.sampling.samplers import SampledToken, SamplingSettings, sample

__all__ = [
    "SampledToken",
    "SamplingSettings",
    "sample",
    "threefry2x32",
    "uniform",
]
