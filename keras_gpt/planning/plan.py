"""The plan of a training run: what it needs of its machines, before it is started."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from keras_gpt.config import GPTConfig
from keras_gpt.planning.activations import (
    COMPUTE_BYTES,
    FLOAT32_BYTES,
    Activations,
    activation_bytes,
)
from keras_gpt.planning.memory import kv_cache_bytes, state_bytes
from keras_gpt.planning.settings import PlanSettings
from keras_gpt.planning.traffic import Traffic, traffic_bytes
from keras_gpt.training.flops import (
    forward_flops_per_token,
    training_flops_by_parameters,
    training_flops_per_token,
)
from keras_gpt.training.layouts import padded_vocabulary_size

GIGA = 1e9
TERA = 1e12
BITS = 8


class Parameters(NamedTuple):
    """Number of weights.

    Attributes:
        total: int. All, a tied table once.
        embedding: int. Of the token and position tables, and of an own head.
        block: int. Of each block.
        final_norm: int. Of the norm after the blocks.
    """

    total: int
    embedding: int
    block: int
    final_norm: int


class Flops(NamedTuple):
    """FLOPs of one token, and of the run.

    Attributes:
        forward: int. Of a token's forward pass.
        training: int. Of its forward and backward pass.
        training_with_remat: int. The same where blocks are computed again.
        run: float. Of training on all tokens, without remat.
        run_by_parameters: float. The same by Brown et al.'s rule 6 N D.
    """

    forward: int
    training: int
    training_with_remat: int
    run: float
    run_by_parameters: float


class Memory(NamedTuple):
    """Bytes on one device while it trains.

    Attributes:
        weights: int.
        compute_copies: int. Of matrices, in the compute dtype.
        gradients: int.
        optimizer_state: int.
        activations: int. What the forward pass keeps for the backward pass.
        logits: int. The logits while the loss is computed from them: an estimate.
    """

    weights: int
    compute_copies: int
    gradients: int
    optimizer_state: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it. Temporaries of other ops, and the framework, come on top."""
        return sum(self)

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Duration(NamedTuple):
    """How long the run takes.

    Attributes:
        steps: int. To see all tokens.
        compute_seconds: float. Of one step, at the given utilization.
        traffic_seconds: float. Of one step, if nothing is computed meanwhile.
        seconds: float. Of the run, if traffic hides behind computing where it can.
        seconds_in_turn: float. Of the run, if it does not at all.
        tokens_per_second: float. All devices together, in `seconds`.
        model_utilization: float. Share of the peak that the model itself needs, what
            remat computes again left out, in `seconds`: Chowdhery et al. 2022's MFU.
    """

    steps: int
    compute_seconds: float
    traffic_seconds: float
    seconds: float
    seconds_in_turn: float
    tokens_per_second: float
    model_utilization: float


class Fit(NamedTuple):
    """The least split of the weights with which a run fits.

    Attributes:
        model_parts: int. Size of the mesh's `model` dimension.
        remat: bool. Whether blocks are computed again.
        vocabulary_size: int. The model's, or the least larger one that is split.
    """

    model_parts: int
    remat: bool
    vocabulary_size: int


class TrainingPlan(NamedTuple):
    """What a run needs.

    Attributes:
        settings: `PlanSettings`.
        parameters: `Parameters`.
        flops: `Flops`.
        memory: `Memory` without remat.
        memory_with_remat: `Memory` with it.
        activations: `Activations`, both ways.
        cache_per_text: int. Bytes on one device of the keys and values that generation
            keeps of a text as long as the context.
        traffic: `Traffic` of one step, with remat if the settings say so.
        duration: `Duration`.
    """

    settings: PlanSettings
    parameters: Parameters
    flops: Flops
    memory: Memory
    memory_with_remat: Memory
    activations: Activations
    cache_per_text: int
    traffic: Traffic
    duration: Duration

    @property
    def needed(self) -> Memory:
        """The `Memory` that the settings ask for."""
        return self.memory_with_remat if self.settings.remat else self.memory

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.needed.total <= self.settings.device_memory_gb * GIGA

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain Python data."""
        settings = {
            **dataclasses.asdict(self.settings),
            "mesh": dict(self.settings.mesh),
            "num_devices": self.settings.num_devices,
        }
        parts = {
            name: part._asdict()
            for name, part in self._asdict().items()
            if hasattr(part, "_asdict")
        }
        for name in ("memory", "memory_with_remat", "traffic"):
            parts[name]["total"] = getattr(self, name).total
        return {
            "settings": settings,
            **parts,
            "cache_per_text": self.cache_per_text,
            "fits": self.fits,
            "largest": self.needed.largest,
        }


def fit_vocabulary(config: GPTConfig, mesh: Mapping[str, int]) -> GPTConfig:
    """Returns the config with the least larger vocabulary that the mesh splits.

    Args:
        config: `GPTConfig`.
        mesh: dimension to size.
    """
    size = padded_vocabulary_size(config.vocabulary_size, mesh)
    return dataclasses.replace(config, vocabulary_size=size)


def make_plan(settings: PlanSettings) -> TrainingPlan:
    """Plans a training run.

    Args:
        settings: `PlanSettings`.

    Returns:
        A `TrainingPlan`.
    """
    config, context = settings.model, settings.context_length
    activations = activation_bytes(
        config,
        batch_size=settings.device_batch_size,
        context_length=context,
        dtype_policy=settings.dtype_policy,
        model_parts=settings.model_parts,
    )
    flops = _flops(settings)
    memory = _memory(settings, activations, remat=False)
    traffic = traffic_bytes(
        config,
        batch_size=settings.device_batch_size,
        context_length=context,
        gradient_bytes=memory.weights,
        dtype_policy=settings.dtype_policy,
        accumulate=settings.accumulate,
        remat=settings.remat,
        batch_parts=settings.batch_parts,
        model_parts=settings.model_parts,
    )
    return TrainingPlan(
        settings=settings,
        parameters=_parameters(config),
        flops=flops,
        memory=memory,
        memory_with_remat=_memory(settings, activations, remat=True),
        activations=activations,
        cache_per_text=kv_cache_bytes(
            config,
            batch_size=1,
            num_slots=context,
            dtype_policy=settings.dtype_policy,
            model_parts=settings.model_parts,
        ),
        traffic=traffic,
        duration=_duration(settings, flops, traffic),
    )


def least_split(plan: TrainingPlan) -> Fit | None:
    """Finds the least split of the weights with which a run fits, or None.

    Remat, which costs a third more time, is tried only where nothing else fits.

    Args:
        plan: `TrainingPlan`.
    """
    for remat in sorted({plan.settings.remat, True}):
        for settings in _splits(plan.settings, remat):
            if make_plan(settings).fits:
                size = settings.model.vocabulary_size
                return Fit(settings.model_parts, remat, size)
    return None


def _splits(settings: PlanSettings, remat: bool) -> Iterator[PlanSettings]:
    config = settings.model
    for parts in range(1, config.num_heads + 1):
        mesh = {"batch": settings.batch_parts, "model": parts}
        if config.num_heads % parts or config.intermediate_dim % parts:  # type: ignore
            continue
        padded = fit_vocabulary(config, mesh)
        yield dataclasses.replace(settings, model=padded, mesh=mesh, remat=remat)


def _parameters(config: GPTConfig) -> Parameters:
    total = config.num_parameters
    one_more = dataclasses.replace(config, num_layers=config.num_layers + 1)
    block = one_more.num_parameters - total
    norm = config.hidden_dim * (1 + int(config.use_bias))
    norm *= int(config.normalize_first)
    return Parameters(
        total=total,
        embedding=total - config.num_layers * block - norm,
        block=block,
        final_norm=norm,
    )


def _flops(settings: PlanSettings) -> Flops:
    config, context = settings.model, settings.context_length
    training = training_flops_per_token(config, context)
    return Flops(
        forward=forward_flops_per_token(config, context),
        training=training,
        training_with_remat=training_flops_per_token(
            config,
            context,
            remat=True,
        ),
        run=training * settings.tokens,
        run_by_parameters=training_flops_by_parameters(config, settings.tokens),
    )


def _memory(settings: PlanSettings, activations: Activations, remat: bool) -> Memory:
    state = state_bytes(
        settings.model,
        optimizer=settings.optimizer,
        dtype_policy=settings.dtype_policy,
        accumulate=settings.accumulate,
        remat=remat,
        model_parts=settings.model_parts,
    )
    rows = settings.device_batch_size * settings.context_length
    logits = rows * settings.model.vocabulary_size // settings.model_parts
    # In float32 for the loss; the product itself has the compute dtype.
    size = COMPUTE_BYTES[settings.dtype_policy]
    each = FLOAT32_BYTES + (size if size != FLOAT32_BYTES else 0)
    return Memory(
        **state._asdict(),
        activations=activations.total_with_remat if remat else activations.total,
        logits=logits * each,
    )


def _duration(settings: PlanSettings, flops: Flops, traffic: Traffic) -> Duration:
    each = flops.training_with_remat if settings.remat else flops.training
    peak = settings.num_devices * settings.device_tflops * TERA
    tokens = settings.tokens_per_step
    computing = tokens * each / (peak * settings.utilization)
    sending = traffic.total * BITS / (settings.bandwidth_gbps * GIGA)
    steps = math.ceil(settings.tokens / tokens)
    speed = tokens / max(computing, sending)
    return Duration(
        steps=steps,
        compute_seconds=computing,
        traffic_seconds=sending,
        seconds=steps * max(computing, sending),
        seconds_in_turn=steps * (computing + sending),
        tokens_per_second=speed,
        model_utilization=speed * flops.training / peak,
    )
