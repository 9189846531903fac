"""KerasHub's samplers, as options of `generate`."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras_nlp


class SamplerOptions(NamedTuple):
    """What a sampler asks for.

    Attributes:
        settings: settings of `generate` by name, for those that are not given there.
        method: options that make it a search, added to those that are given.
    """

    settings: dict[str, Any]
    method: dict[str, Any]


def options_of_sampler(sampler: Any) -> SamplerOptions:
    """Translates a KerasHub sampler; its seed stays behind, as `generate` has one.

    Raises:
        ValueError: if it is of a kind that has no counterpart.
    """
    samplers = keras_nlp.samplers
    if isinstance(sampler, samplers.BeamSampler):
        return SamplerOptions({}, {"num_beams": sampler.num_beams})
    if isinstance(sampler, samplers.ContrastiveSampler):
        method = {"penalty_alpha": sampler.alpha, "top_k": sampler.k}
        return SamplerOptions({}, method)
    settings = {"temperature": getattr(sampler, "temperature", 1.0)}
    if isinstance(sampler, samplers.GreedySampler):
        return SamplerOptions({"temperature": 0.0}, {})
    if isinstance(sampler, samplers.TopPSampler):
        return SamplerOptions(
            {**settings, "top_k": sampler.k or 0, "top_p": sampler.p}, {}
        )
    if isinstance(sampler, samplers.TopKSampler):
        return SamplerOptions({**settings, "top_k": sampler.k}, {})
    if isinstance(sampler, samplers.RandomSampler):
        return SamplerOptions(settings, {})
    raise ValueError(
        "sampler must be a greedy, random, top-k, top-p, beam or contrastive sampler, "
        f"got {type(sampler).__name__}."
    )
