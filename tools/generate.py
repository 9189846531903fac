"""Continues prompts with a model from a preset directory, or on a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
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
_SERVER_FLAGS = ("model_name", "timeout")
# What is fixed when a model is exported, or not served at all.
_NOT_SERVED = (
    *("num_beams", "num_beam_groups", "num_return_sequences", "best_of"),
    *("num_draft_tokens", "max_time", "draft", "sliding_window", "tflite"),
)


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2; optional if "
        "--target is given",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "tflite", None,
        "File of --format=tflite that LiteRT runs in place of the weights of --model, "
        "whose tokenizer it has; optional", flag_values=flags,
    )  # fmt: skip
    _define_server_flags(flags)
    absl_flags.DEFINE_multi_string(
        "prompt", [], "Text to continue; may be repeated. Without it, standard input",
        flag_values=flags,
    )  # fmt: skip
    knobs.define(
        flags,
        seed=None,
        seed_meaning="Seed of the random numbers; optional, fresh without it",
    )
    command.define_numbers(flags, integers=_COUNTS, floats=_NUMBERS)
    knobs.define_texts(flags)
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


def _define_server_flags(flags: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string(
        "target", None,
        "Server that has the model, in place of --model: host:port (gRPC) or "
        "http://host:port (REST). Settings not given are as exported; optional",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "model_name", "gpt", "Name of the model on the server", flag_values=flags
    )
    absl_flags.DEFINE_float(
        "timeout", 60.0,
        "Seconds that a call of the server may take; of --stream, each of its calls",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    _check_source(flags)
    if flags.target is not None:
        _run_on_server(flags)
        return
    lm, prompts = _load(flags), _prompts(flags)
    options = {
        "max_length": lm.backbone.config.max_sequence_length,
        # A search refuses what is about drawing.
        **(knobs.values(flags) if _draws(flags) else knobs.given(flags)),
        **_given(flags),
    }
    if flags.stream:
        _print_stream(lm.stream(prompts[0], **options))
        return
    for texts in lm.generate(prompts, strip_prompt=flags.strip_prompt, **options):
        for text in [texts] if isinstance(texts, str) else texts:
            print(text)


def _load(flags: absl_flags.FlagValues) -> Any:
    if flags.tflite is None:
        return inputs.load_model(flags.model)
    from keras_gpt import GPTTokenizer
    from keras_gpt.export import LiteRTGenerator

    return LiteRTGenerator(flags.tflite, GPTTokenizer.from_preset(flags.model))


def _run_on_server(flags: absl_flags.FlagValues) -> None:
    from keras_gpt.export.client import GPTClient, RowError

    def say(prompt: str, text: str) -> None:
        print(text if flags.strip_prompt else prompt + text)

    prompts, options = _prompts(flags), _served_options(flags)
    with GPTClient(
        flags.target, model_name=flags.model_name, timeout=flags.timeout
    ) as client:
        if flags.stream:
            _print_stream(client.stream(prompts[0], **options))
            return
        try:
            texts = client.generate(prompts, **options)
        except RowError as error:  # Those that are good are not lost.
            for prompt, row, reason in zip(
                prompts, error.results, error.reasons, strict=True
            ):
                if not reason:
                    say(prompt, row.text)
            raise
        for prompt, text in zip(prompts, texts, strict=True):
            say(prompt, text)


def _check_source(flags: absl_flags.FlagValues) -> None:
    """Raises `UsageError` unless there is one source, and all flags are of it."""
    if (flags.model is None) == (flags.target is None):
        both = "both" if flags.model is not None else "none"
        raise command.UsageError(
            f"one of flags --model and --target is required, got {both}."
        )
    is_served = flags.target is not None
    for name in _NOT_SERVED if is_served else _SERVER_FLAGS:
        if flags[name].present:
            other = "--model, not --target" if is_served else "--target, not --model"
            raise command.UsageError(f"flag --{name} goes with {other}.")


def _prompts(flags: absl_flags.FlagValues) -> list[str]:
    prompts = flags.prompt or [sys.stdin.read()]
    if flags.stream and len(prompts) != 1:
        raise command.UsageError(
            f"flag --stream takes one --prompt, got {len(prompts)}."
        )
    return prompts


def _print_stream(pieces: Iterable[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _served_options(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Returns the knobs that were given, by the names that served models have."""
    options = {
        name: flags[name].value
        for name in (*knobs.INTEGERS, *knobs.NUMBERS, "seed", *_NUMBERS)
        if flags[name].present
    }
    if flags.truncate is not None:
        options["truncate_prompt"] = True
    return {**options, **knobs.texts(flags)}


def _draws(flags: absl_flags.FlagValues) -> bool:
    return flags.num_beams == 1 and flags.penalty_alpha is None


def _given(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Returns the options that were given, by name."""
    options = {
        name: flags[name].value
        for name in (*_COUNTS, *_NUMBERS, "truncate", "sliding_window")
        if flags[name].value != flags[name].default
    }
    if flags.draft is not None:
        is_lookup = flags.draft == "prompt_lookup"
        options["draft"] = flags.draft if is_lookup else inputs.load_model(flags.draft)
    return {**options, **knobs.texts(flags)}


if __name__ == "__main__":
    command.run_main(__name__)
