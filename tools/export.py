"""Writes a model as a SavedModel that tensorflow alone runs."""

from __future__ import annotations

from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

DESCRIPTION = "writes a SavedModel that tensorflow alone runs"
_COUNTS = {
    "num_beams": (1, "Above 1, beam search in place of drawing"),
    "num_beam_groups": (1, "Groups of beams that keep away from each other"),
    "num_return_sequences": (1, "Beams that an answer tells of, the best ones"),
}
_SWITCHES = {
    "speculative": (
        "Whether tokens are drafted by looking the text's end up in the text: the same "
        "text, sooner where it repeats itself"
    ),
    "xla": (
        "Whether to add the signature generate_xla, for servers that allow XLA "
        "(--xla_cpu_compilation_enabled)"
    ),
}


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "output", None, "Folder of the served model; gets OUTPUT/VERSION/, and beside "
        "it the server's settings and a README.md",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "version", 1, "Version number, new in the folder", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "format", "saved_model", ["saved_model"], "What to write", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "model_name", "gpt", "Name under which it is served", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "storage_dtype", None, ["float32", "bfloat16", "float16"],
        "Precision in which weights are stored; they are cast once, when the model is "
        "loaded. Optional, as they are without it", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "batch_sizes", "1,2,4,8",
        "Rows of the batches that a server is to make", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "chat_template", None, ["chatml", "plain"],
        "Adds the signature chat, with this template; optional, that of the preset "
        "without it", flag_values=flags,
    )  # fmt: skip
    for name, meaning in _SWITCHES.items():
        absl_flags.DEFINE_bool(name, False, meaning, flag_values=flags)
    # The settings are the exported defaults.
    knobs.define(flags, seed=0, seed_meaning="Seed of the random numbers")
    knobs.define_texts(flags)
    for name, (number, meaning) in _COUNTS.items():
        absl_flags.DEFINE_integer(name, number, meaning, flag_values=flags)
    absl_flags.DEFINE_float(
        "length_penalty", 1.0,
        "Of beams: above 0 favours long texts, below 0 short ones", flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model", "output")
    sizes = _sizes(flags.batch_sizes)
    from keras_gpt import ChatTemplate, GPTCausalLM
    from keras_gpt.export import export_saved_model

    task = inputs.load_task(flags.model)
    generates = isinstance(task, GPTCausalLM)
    if flags.chat_template is not None:
        if not generates:
            raise command.UsageError("flag --chat_template is for generators alone.")
        task.preprocessor.chat_template = ChatTemplate.named(flags.chat_template)
    path = export_saved_model(
        task,
        flags.output,
        version=flags.version,
        model_name=flags.model_name,
        storage_dtype=flags.storage_dtype,
        batch_sizes=sizes,
        speculative=flags.speculative,
        xla=flags.xla,
        **_options(flags, generates=generates),
    )
    print(f"{path} answers like the model, with tensorflow alone")


def _sizes(text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() for size in sizes):
        raise command.UsageError(
            f"flag --batch_sizes must be whole numbers, got {text!r}."
        )
    return [int(size) for size in sizes]


def _options(flags: absl_flags.FlagValues, *, generates: bool) -> dict[str, Any]:
    """Returns the options of generation that are not as the library has them."""
    names = (*_COUNTS, "length_penalty")
    options = {name: flags[name].value for name in names if flags[name].present}
    chosen = knobs.values(flags)
    if not generates:
        chosen = {name: x for name, x in chosen.items() if flags[name].present}
    elif flags.num_beams > 1:  # a search refuses what is about drawing
        chosen = knobs.given(flags)
    return {**chosen, **knobs.texts(flags), **options}


if __name__ == "__main__":
    command.run_main(__name__)
