"""Converts a checkpoint from one format to another."""

from __future__ import annotations

from absl import flags as absl_flags

from keras_gpt.tools import command

DESCRIPTION = "converts a checkpoint to another format"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "source", None,
        "Folder of a preset (keras_gpt, KerasHub's GPT-2) or of a checkpoint (Hugging "
        "Face GPT-2 or GPT-1, OpenAI's GPT-2); nanoGPT's .pt file; hf://owner/name; "
        "kaggle://...; or a name such as gpt2",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "target", None, "Folder to write: new or empty", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "format", "keras_gpt", ["keras_gpt", "huggingface", "keras_hub"],
        "What to write: a preset of keras_gpt, a checkpoint for transformers, or a "
        "preset of KerasHub's GPT-2",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "source", "target")
    from keras_gpt.checkpoints import convert_checkpoint

    convert_checkpoint(flags.source, flags.target, format=flags.format)
    print(f"wrote {flags.target}")


if __name__ == "__main__":
    command.run_main(__name__)
