"""KerasHub's samplers, as generation settings."""

from __future__ import annotations

from typing import Any

import keras_nlp


def settings_of_sampler(sampler: Any) -> dict[str, Any]:
    """Translates a KerasHub sampler into generation settings."""
    samplers = keras_nlp.samplers
    settings = {"temperature": getattr(sampler, "temperature", 1.0)}
    if isinstance(sampler, samplers.GreedySampler):
        return {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    if isinstance(sampler, samplers.TopPSampler):
        return {**settings, "top_k": sampler.k or 0, "top_p": sampler.p}
    if isinstance(sampler, samplers.TopKSampler):
        return {**settings, "top_k": sampler.k, "top_p": 1.0}
    if isinstance(sampler, samplers.RandomSampler):
        return {**settings, "top_k": 0, "top_p": 1.0}
    raise ValueError(
        "sampler must be a greedy, random, top-k or top-p sampler, "
        f"got {type(sampler).__name__}."
    )
