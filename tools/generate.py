"""Continues prompts with a model from a preset directory."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

DESCRIPTION = "continues prompts"


_COUNTS: dict[str, tuple[int | None, str]] = {
    "num_beams": (1, "Above 1, beam search in place of drawing"),
    "num_beam_groups": (1, "Groups of beams that keep away from each other"),
    "num_return_sequences": (1, "Texts for each prompt: draws, or the best beams"),
    "best_of": (None, "Draws of which the likeliest are returned; optional"),
    "num_draft_tokens": (None, "Tokens of one draft; optional, 10 or a model's 4"),
}
_NUMBERS: dict[str, tuple[float | None, str]] = {
    "length_penalty": (
        1.0, "Of beams: above 0 favours long texts, below 0 short ones",
    ),
    "diversity_penalty": (0.0, "Of groups of beams: how strongly they keep away"),
    "penalty_alpha": (
        None, "Contrastive search: weight in [0, 1] against repeating; optional",
    ),
    "max_time": (None, "Seconds after which texts end as they are; optional"),
}  # fmt: skip
_TEXTS = {
    "stop_string": "Text before which the result ends; may be repeated",
    "bad_word": "Text that never comes; may be repeated",
}


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
    for name, (number, meaning) in _COUNTS.items():
        absl_flags.DEFINE_integer(name, number, meaning, flag_values=flags)
    for name, (default, meaning) in _NUMBERS.items():
        absl_flags.DEFINE_float(name, default, meaning, flag_values=flags)
    for name, meaning in _TEXTS.items():
        absl_flags.DEFINE_multi_string(name, [], meaning, flag_values=flags)
    absl_flags.DEFINE_string(
        "draft", None,
        "prompt_lookup, or a model's preset: drafts tokens that are checked several at "
        "a time. The text is the same, and sooner there; optional", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "truncate", None, ["left"],
        "left keeps the last tokens of prompts that are too long; optional",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "sliding_window", False,
        "Whether texts go on beyond the model's context, with the last half of it",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "strip_prompt", False, "Whether to leave the prompt out", flag_values=flags
    )
    absl_flags.DEFINE_bool(
        "stream", False,
        "Whether to print the text of a single prompt as it comes, prompt left out",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model")
    lm = inputs.load_model(flags.model)
    prompts = flags.prompt or [sys.stdin.read()]
    options = {
        "max_length": lm.backbone.config.max_sequence_length,
        # A search refuses what is about drawing.
        **(knobs.values(flags) if _draws(flags) else knobs.given(flags)),
        **_given(flags),
    }
    if flags.stream:
        if len(prompts) != 1:
            raise command.UsageError(
                f"flag --stream takes one --prompt, got {len(prompts)}."
            )
        for piece in lm.stream(prompts[0], **options):
            print(piece, end="", flush=True)
        print()
        return
    for texts in lm.generate(prompts, strip_prompt=flags.strip_prompt, **options):
        for text in [texts] if isinstance(texts, str) else texts:
            print(text)


def _draws(flags: absl_flags.FlagValues) -> bool:
    return flags.num_beams == 1 and flags.penalty_alpha is None


def _given(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Returns the options that were given, by name."""
    options = {
        name: flags[name].value
        for name in (*_COUNTS, *_NUMBERS, "truncate", "sliding_window")
        if flags[name].value != flags[name].default
    }
    if flags.stop_string:
        options["stop_strings"] = flags.stop_string
    if flags.bad_word:
        options["bad_words"] = flags.bad_word
    if flags.draft is not None:
        is_lookup = flags.draft == "prompt_lookup"
        options["draft"] = flags.draft if is_lookup else inputs.load_model(flags.draft)
    return options


if __name__ == "__main__":
    command.run_main(__name__)
