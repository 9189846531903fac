"""Tells what a model is made of, and what training it takes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs
from keras_gpt.whole_files import write_whole

DESCRIPTION = "tells a model's weights, and what training it takes"
# Not read from the library, whose import would slow --help down.
_COUNTS = {
    "vocabulary_size": "Token ids, in place of the named size's; optional",
    "batch_size": "Windows per step, over all devices; optional, one for each device "
    "and accumulated part",
    "context_length": "Tokens per window; optional, the model's longest",
}
_NUMBERS = {
    "tokens": (300e9, "Tokens to train on; 300e9 is GPT-3's"),
    "device_memory_gb": (80.0, "Memory of a device, in GB of 1e9 bytes"),
    "bandwidth_gbps": (
        2400.0, "What a device sends to its neighbour, in 1e9 bits per second",
    ),
    "utilization": (0.4, "Share of the peak that computing reaches"),
}  # fmt: skip


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model", None, "A size such as gpt3_175b, or a preset or checkpoint: a "
        "directory, or a name such as gpt2",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "plan", False, "Whether to plan its training: memory, traffic and time",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "mesh", "batch:1,model:1", "Devices: the batch is split over batch, the "
        "weights over model",
        flag_values=flags,
    )  # fmt: skip
    for name, meaning in _COUNTS.items():
        absl_flags.DEFINE_integer(name, None, meaning, flag_values=flags)
    absl_flags.DEFINE_integer(
        "accumulate", 1, "Parts of the batch, one after the other", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "optimizer", "adamw", ["adamw", "adafactor"], "Optimizer", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "dtype_policy", "float32", ["float32", "mixed_bfloat16"],
        "Numbers that are computed with; weights and optimizer are float32 in both",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_boolean(
        "remat", False, "Whether blocks keep their input alone and are computed again "
        "in the backward pass: less memory, more time",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "device_tflops", None, "Peak of a device, in 1e12 FLOPs per second; optional, "
        "an A100's: 312 in mixed_bfloat16, 19.5 in float32",
        flag_values=flags,
    )  # fmt: skip
    for name, (number, meaning) in _NUMBERS.items():
        absl_flags.DEFINE_float(name, number, meaning, flag_values=flags)
    absl_flags.DEFINE_string(
        "json", None, "File for the result, as JSON; optional", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model")
    from keras_gpt import planning

    config = _config(flags)
    if not flags.plan:
        print(planning.describe_model(config, name=flags.model))
        _write(flags.json, planning.model_summary(config))
        return
    plan = planning.make_plan(plan_settings(flags, config))
    print(planning.describe_plan(plan, name=flags.model))
    padded = plan.settings.model.vocabulary_size
    if padded != config.vocabulary_size:
        print(
            f"\nThe vocabulary counts {padded:,} tokens in place of "
            f"{config.vocabulary_size:,}, the least that the mesh splits: build the "
            f"model with vocabulary_size={padded}."
        )
    _write(flags.json, plan.to_dict())


def _config(flags: absl_flags.FlagValues) -> Any:
    config = inputs.load_config(flags.model)
    if flags.vocabulary_size is None:
        return config
    if not _is_size(flags):
        raise command.UsageError(
            "--vocabulary_size is for a named size; a checkpoint has its own."
        )
    return dataclasses.replace(config, vocabulary_size=flags.vocabulary_size)


def _is_size(flags: absl_flags.FlagValues) -> bool:
    from keras_gpt.config import NAMED_SIZES

    return flags.model in NAMED_SIZES


def plan_settings(flags: absl_flags.FlagValues, config: Any) -> Any:
    """Returns the `PlanSettings` that the flags ask for."""
    from keras_gpt.planning import PlanSettings, fit_vocabulary
    from keras_gpt.training.layouts import parse_mesh

    mesh = parse_mesh(flags.mesh)
    # What does not exist yet may have a few rows more.
    if _is_size(flags) and flags.vocabulary_size is None:
        config = fit_vocabulary(config, mesh)
    names = {field.name for field in dataclasses.fields(PlanSettings)}
    given: dict[str, Any] = {
        name: flags[name].value for name in names - {"model", "mesh"}
    }
    return PlanSettings(model=config, mesh=mesh, **given)


def _write(path: str | None, content: dict[str, Any]) -> None:
    if path:
        write_whole(path, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    command.run_main(__name__)
