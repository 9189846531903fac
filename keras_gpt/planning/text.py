"""A model and a plan as text, for somebody who has never seen either."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from keras_gpt.config import GPTConfig
from keras_gpt.planning.memory import model_weights
from keras_gpt.planning.plan import TrainingPlan, least_split

Row = Sequence[str]
UNITS = "Units of 1000: 1 GB is 1e9 bytes. A product and a sum are 2 FLOPs."
ON_TOP = "On top come temporaries of other operations, and the framework."
MEMORY_NAMES = {
    "weights": "weights, float32",
    "compute_copies": "copies of matrices, bfloat16",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations": "activations",
    "logits": "logits, while the loss is computed",
}
_PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"))
_PREFIXES += ((1e9, "G"), (1e6, "M"), (1e3, "k"))  # type: ignore[assignment]
_TIMES = ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes"))


def amount(value: float, unit: str) -> str:
    """Writes a number with a prefix of its unit, such as `"1.40 TB"`."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{_digits(value)} {unit}"


def duration(seconds: float) -> str:
    """Writes a time in the largest unit of which it has two, such as `"34.1 days"`."""
    for size, name in _TIMES:
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {name}"
    return f"{_digits(seconds)} seconds"


def table(rows: Iterable[Row], *, left: int = 1) -> str:
    """Aligns columns: the first `left` to the left, numbers to the right.

    Args:
        rows: lists of cells; a shorter one leaves its last columns empty.
        left: int. Columns of words. Defaults to 1.
    """
    rows = [list(row) for row in rows]
    columns = max(map(len, rows))
    rows = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    lines = (
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(f"  {line}".rstrip() for line in lines)


def describe_model(config: GPTConfig, *, name: str) -> str:
    """Tells a model's settings and weights, each block's once.

    Args:
        config: `GPTConfig`.
        name: string. What the model is called.
    """
    fields = [[field, str(value)] for field, value in config.to_dict().items()]
    return "\n".join(
        [
            f"Model {name}: {config.num_parameters:,} parameters",
            "",
            "Settings",
            table(fields, left=2),
            "",
            "Weights",
            table(_weight_rows(config), left=2),
        ]
    )


def describe_plan(plan: TrainingPlan, *, name: str) -> str:
    """Tells a plan: parameters, FLOPs, memory, traffic and time.

    Args:
        plan: `TrainingPlan`.
        name: string. What the model is called.
    """
    settings = plan.settings
    mesh = f"batch:{settings.batch_parts},model:{settings.model_parts}"
    devices = _count(settings.num_devices, "device")
    sections = [
        f"Training plan of {name} on {devices}, mesh {mesh}\n{UNITS}",
        "Run\n" + table(_run_rows(plan), left=2),
        "Parameters\n" + table(_parameter_rows(plan)),
        f"Computing, for each token of a context of {settings.context_length:,}\n"
        + table(_flops_rows(plan)),
        "Memory of each device\n" + table(_memory_rows(plan)) + "\n" + _verdict(plan),
        "Traffic: what each device sends for one step, and receives\n"
        + table(_traffic_rows(plan)),
        "Time, estimated\n" + table(_time_rows(plan)),
    ]
    return "\n\n".join(sections)


def _weight_rows(config: GPTConfig) -> list[Row]:
    rows: list[Row] = [["path", "shape", "parameters"]]
    for weight in model_weights(config):
        size = math.prod(weight.shape)
        path = weight.path
        if match := re.fullmatch(r"transformer_layer_(\d+)/(.*)", path):
            if match[1] != "0":
                continue
            size *= config.num_layers
            path = f"transformer_layer_{_numbers(config.num_layers)}/{match[2]}"
        rows.append([path, " x ".join(map(str, weight.shape)), f"{size:,}"])
    rows.append(["total", "", f"{config.num_parameters:,}"])
    return rows


def _numbers(num_layers: int) -> str:
    return "0" if num_layers == 1 else f"{{0..{num_layers - 1}}}"


def _run_rows(plan: TrainingPlan) -> list[Row]:
    settings = plan.settings
    parts = f", in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    return [
        ["batch", f"{_count(settings.batch_size, 'window')} a step{parts}; "
         f"{settings.device_batch_size:,} on a device at a time"],
        ["step", f"{settings.tokens_per_step:,} tokens"],
        ["numbers", settings.dtype_policy],
        ["optimizer", settings.optimizer],
        ["remat", "yes: blocks are computed again in the backward pass"
         if settings.remat else "no"],
        ["device", f"{settings.device_tflops:g} TFLOPS, "
         f"{settings.device_memory_gb:g} GB, links of {settings.bandwidth_gbps:g} "
         f"Gbit/s; {settings.utilization:.0%} of the TFLOPS are reached"],
    ]  # fmt: skip


def _parameter_rows(plan: TrainingPlan) -> list[Row]:
    counts, layers = plan.parameters, plan.settings.model.num_layers
    return [
        ["embeddings", f"{counts.embedding:,}"],
        [_count(layers, "block"), f"{layers * counts.block:,}"],
        ["  each", f"{counts.block:,}"],
        ["final norm", f"{counts.final_norm:,}"],
        ["total", f"{counts.total:,}"],
    ]


def _flops_rows(plan: TrainingPlan) -> list[Row]:
    flops, tokens = plan.flops, plan.settings.tokens
    return [
        ["forward", amount(flops.forward, "FLOPs")],
        ["training: forward and backward", amount(flops.training, "FLOPs")],
        ["training with remat", amount(flops.training_with_remat, "FLOPs")],
        [f"training on {tokens:,.0f} tokens", f"{flops.run:.3g} FLOPs"],
        [
            "  by 6 x parameters x tokens (Brown et al. 2020)",
            f"{flops.run_by_parameters:.3g} FLOPs",
        ],
    ]


def _memory_rows(plan: TrainingPlan) -> list[Row]:
    both = (plan.memory, plan.memory_with_remat)
    rows: list[Row] = [["", "without remat", "with remat"]]
    for part, name in MEMORY_NAMES.items():
        sizes = [getattr(memory, part) for memory in both]
        if any(sizes):
            rows.append([name, *(amount(size, "B") for size in sizes)])
    rows.append(["total", *(amount(memory.total, "B") for memory in both)])
    text = f"to generate: keys and values of a text of {plan.settings.context_length:,}"
    return [*rows, [text, amount(plan.cache_per_text, "B")]]


def _verdict(plan: TrainingPlan) -> str:
    needed, settings = plan.needed, plan.settings
    way = "with" if settings.remat else "without"
    size = getattr(needed, needed.largest)
    answer = "It fits" if plan.fits else "IT DOES NOT FIT"
    lines = [
        f"{answer}: {way} remat it needs {amount(needed.total, 'B')} of a device's "
        f"{amount(settings.device_memory_gb * 1e9, 'B')}.",
        f"Largest part: {MEMORY_NAMES[needed.largest]}, {amount(size, 'B')}.",
    ]
    lines.append(ON_TOP if plan.fits else _way_out(plan))
    return "\n".join(f"  {line}" for line in lines)


def _way_out(plan: TrainingPlan) -> str:
    found = least_split(plan)
    if found is None:
        return (
            "No split of the weights alone makes it fit: take fewer windows on a "
            "device at a time, a shorter context, or larger devices."
        )
    mesh = f"batch:{plan.settings.batch_parts},model:{found.model_parts}"
    padded = found.vocabulary_size
    size = f", {padded:,} tokens in the vocabulary"
    return (
        f"Least split that fits: --mesh={mesh}{' --remat' if found.remat else ''}"
        f"{size if padded != plan.settings.model.vocabulary_size else ''}."
    )


def _traffic_rows(plan: TrainingPlan) -> list[Row]:
    traffic = plan.traffic
    return [
        ["gradients, over batch", amount(traffic.gradients, "B")],
        ["blocks, over model", amount(traffic.blocks, "B")],
        ["token table, over model", amount(traffic.embedding, "B")],
        ["softmax, over model", amount(traffic.softmax, "B")],
        ["total", amount(traffic.total, "B")],
    ]


def _time_rows(plan: TrainingPlan) -> list[Row]:
    time = plan.duration
    return [
        ["computing, each step", duration(time.compute_seconds)],
        ["traffic, each step", duration(time.traffic_seconds)],
        ["steps", f"{time.steps:,}"],
        ["run, where traffic hides behind computing", duration(time.seconds)],
        ["run, where it does not", duration(time.seconds_in_turn)],
        ["tokens per second", f"{time.tokens_per_second:,.0f}"],
        ["model-FLOPs utilization", f"{time.model_utilization:.1%}"],
    ]


def _digits(value: float) -> str:
    """Three digits, and all of those before the point."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
