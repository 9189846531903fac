"""The flags of the generation settings, which several tools take."""

from __future__ import annotations

from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command

# Not read from the library, whose import would slow every --help down.
INTEGERS: dict[str, tuple[int, str]] = {
    "max_new_tokens": (64, "Longest continuation, in tokens"),
    "min_new_tokens": (0, "The text does not end before so many tokens"),
    "no_repeat_ngram_size": (0, "No so many tokens in a row occur twice; 0 is off"),
    "top_k": (0, "Likeliest tokens to keep; 0 keeps all"),
}
NUMBERS: dict[str, tuple[float, str]] = {
    "repetition_penalty": (
        1.0, "Above 1, tokens that the text holds get less likely; 1 is off",
    ),
    "presence_penalty": (0.0, "Taken from logits of tokens that the new text holds"),
    "frequency_penalty": (0.0, "Taken from them for each time it holds them"),
    "temperature": (1.0, "Divides the logits; 0 is greedy"),
    "top_p": (1.0, "Share of probability to keep; 1 keeps all"),
    "min_p": (0.0, "Least probability, as a share of the likeliest token's; 0 is off"),
    "typical_p": (1.0, "Share to keep of tokens of typical surprise; 1 keeps all"),
    "epsilon_cutoff": (0.0, "Least probability of a token; 0 is off"),
    "eta_cutoff": (0.0, "The same, lower where many tokens are likely; 0 is off"),
}  # fmt: skip

NAMES = (*INTEGERS, *NUMBERS, "seed")

# Flag to the library's option and its meaning.
TEXTS = {
    "stop_string": (
        "stop_strings", "Text before which the result ends; may be repeated",
    ),
    "bad_word": ("bad_words", "Text that never comes; may be repeated"),
}  # fmt: skip


def define(
    flags: absl_flags.FlagValues, *, seed: int | None, seed_meaning: str
) -> None:
    """Defines a flag for each setting.

    Args:
        flags: the tool's flags.
        seed: int or None. Default of `--seed`.
        seed_meaning: string. Its help.
    """
    command.define_numbers(flags, integers=INTEGERS, floats=NUMBERS)
    absl_flags.DEFINE_integer("seed", seed, seed_meaning, flag_values=flags)


def define_texts(flags: absl_flags.FlagValues) -> None:
    """Defines the flags of texts that end the result, or never come."""
    for name, (_, meaning) in TEXTS.items():
        absl_flags.DEFINE_multi_string(name, [], meaning, flag_values=flags)


def texts(flags: absl_flags.FlagValues) -> dict[str, list[str]]:
    """Returns those that were given, by the names of the library's options."""
    given = {option: flags[name].value or [] for name, (option, _) in TEXTS.items()}
    return {option: texts for option, texts in given.items() if texts}


def values(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Returns all settings."""
    return {name: flags[name].value for name in NAMES}


def given(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Returns the settings that are not the flags' defaults, and the length."""
    return {
        name: value
        for name, value in values(flags).items()
        if name == "max_new_tokens" or value != flags[name].default
    }
