"""Continues prompts with a model from a preset directory."""

from __future__ import annotations

import sys

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

DESCRIPTION = "continues prompts"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(
        "prompt", [], "Text to continue; may be repeated. Without it, standard input",
        flag_values=flags,
    )  # fmt: skip
    knobs.define(
        flags,
        seed=None,
        seed_meaning="Seed of the random numbers; optional, fresh without it",
    )
    absl_flags.DEFINE_integer(
        "num_beams", 1, "Above 1, beam search in place of drawing", flag_values=flags
    )
    absl_flags.DEFINE_float(
        "length_penalty", 1.0,
        "Of beams: above 0 favours long texts, below 0 short ones", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "strip_prompt", False, "Whether to leave the prompt out", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model")
    lm = inputs.load_model(flags.model)
    texts = lm.generate(
        flags.prompt or [sys.stdin.read()],
        max_length=lm.backbone.config.max_sequence_length,
        strip_prompt=flags.strip_prompt,
        num_beams=flags.num_beams,
        length_penalty=flags.length_penalty,
        # A search refuses what is about drawing.
        **(knobs.given(flags) if flags.num_beams > 1 else knobs.values(flags)),
    )
    for text in texts:
        print(text)


if __name__ == "__main__":
    command.run_main(__name__)
