"""Settings of a plan: what is to be trained, and on which machines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from keras_gpt.config import GPTConfig
from keras_gpt.planning.activations import COMPUTE_BYTES
from keras_gpt.planning.memory import OPTIMIZERS
from keras_gpt.training.layouts import check_mesh

# NVIDIA A100 80GB SXM, data sheet of 2021: dense TFLOPS of tensor cores in bfloat16,
# and of float32; memory in 1e9 bytes; NVLink, 600 GB/s in both directions together.
A100_TFLOPS = {"mixed_bfloat16": 312.0, "float32": 19.5}
A100_MEMORY_GB = 80.0
A100_BANDWIDTH_GBPS = 2400.0
GPT3_TOKENS = 300e9  # Brown et al. 2020, section 2.2
UTILIZATION = 0.4  # near PaLM's 46 % (Chowdhery et al. 2022, table 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is to be trained on which machines, checked on construction.

    Args:
        model: `GPTConfig`.
        mesh: dimension to size. Devices among which the batch is split (`batch`) and
            the weights are (`model`), as in `training/layouts.py`. Defaults to one.
        batch_size: int. Windows per step, over all devices and accumulated parts.
            Defaults to one window per device and part.
        context_length: int. Tokens per window, at most the model's
            `max_sequence_length`. Defaults to that.
        accumulate: int. Parts of the batch, one after the other, whose gradients are
            summed before the update. Defaults to 1.
        optimizer: string. `"adamw"` or `"adafactor"`. Defaults to `"adamw"`.
        dtype_policy: string. `"float32"` or `"mixed_bfloat16"`. Defaults to
            `"float32"`.
        remat: bool. Whether blocks keep their input alone and are computed again in
            the backward pass. Defaults to False.
        tokens: float. Tokens to train on. Defaults to GPT-3's 300e9.
        device_tflops: float. Peak of one device, in 1e12 FLOPs per second. Defaults to
            an A100's in the compute dtype.
        device_memory_gb: float. Memory of one device, in 1e9 bytes. Defaults to 80.
        bandwidth_gbps: float. What a device can send to its neighbour, in 1e9 bits per
            second. Defaults to 2400, an A100's NVLink in one direction.
        utilization: float in (0, 1]. Share of the peak that computing reaches, what
            remat computes again included. Defaults to 0.4.

    Raises:
        ValueError: if a field is out of its range, or the mesh does not split model
            and batch into equal parts.
    """

    model: GPTConfig
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    batch_size: int = None  # type: ignore[assignment]
    context_length: int = None  # type: ignore[assignment]
    accumulate: int = 1
    optimizer: str = "adamw"
    dtype_policy: str = "float32"
    remat: bool = False
    tokens: float = GPT3_TOKENS
    device_tflops: float = None  # type: ignore[assignment]
    device_memory_gb: float = A100_MEMORY_GB
    bandwidth_gbps: float = A100_BANDWIDTH_GBPS
    utilization: float = UTILIZATION

    def __post_init__(self) -> None:
        check_mesh(self.model, self.mesh)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("dtype_policy", self.dtype_policy, tuple(COMPUTE_BYTES))
        _check_count("accumulate", self.accumulate)
        defaults = {
            "batch_size": self.batch_parts * self.accumulate,
            "context_length": self.model.max_sequence_length,
            "device_tflops": A100_TFLOPS[self.dtype_policy],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _check_count("batch_size", self.batch_size)
        _check_count("context_length", self.context_length)
        self._check_fit()
        for name in ("tokens", "device_tflops", "device_memory_gb", "bandwidth_gbps"):
            _check_positive(name, getattr(self, name))
        if not 0.0 < self.utilization <= 1.0:
            raise ValueError(f"utilization must be in (0, 1], got {self.utilization}.")

    def _check_fit(self) -> None:
        longest = self.model.max_sequence_length
        if self.context_length > longest:
            raise ValueError(
                f"context_length must be at most the model's {longest}, "
                f"got {self.context_length}."
            )
        parts = self.batch_parts * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                "batch_size must be divisible by the mesh's batch dimension times "
                f"accumulate, got {self.batch_size} and {self.batch_parts} x "
                f"{self.accumulate}."
            )

    @property
    def batch_parts(self) -> int:
        """Size of the mesh's `batch` dimension."""
        return self.mesh.get("batch", 1)

    @property
    def model_parts(self) -> int:
        """Size of the mesh's `model` dimension."""
        return self.mesh.get("model", 1)

    @property
    def num_devices(self) -> int:
        """Number of devices of the mesh."""
        return self.batch_parts * self.model_parts

    @property
    def device_batch_size(self) -> int:
        """Windows that a device sees at a time."""
        return self.batch_size // (self.batch_parts * self.accumulate)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step, over all devices."""
        return self.batch_size * self.context_length


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def _check_positive(name: str, value: Any) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}.")
