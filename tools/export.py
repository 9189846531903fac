"""Writes a model as a SavedModel that tensorflow alone runs."""

from __future__ import annotations

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

DESCRIPTION = "writes a SavedModel that tensorflow alone runs"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "output", None, "Folder of the served model; gets OUTPUT/VERSION/",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "version", 1, "Version number, new in the folder", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "format", "saved_model", ["saved_model"], "What to write", flag_values=flags
    )
    # The settings are the exported defaults.
    knobs.define(flags, seed=0, seed_meaning="Seed of the random numbers")


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model", "output")
    from keras_gpt.export import export_saved_model

    path = export_saved_model(
        inputs.load_model(flags.model),
        flags.output,
        version=flags.version,
        **knobs.values(flags),
    )
    print(f"{path} answers like the model, with tensorflow alone")


if __name__ == "__main__":
    command.run_main(__name__)
