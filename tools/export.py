"""Writes a model as a SavedModel that tensorflow alone runs, or for devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

DESCRIPTION = "writes a SavedModel that tensorflow alone runs, or a file for devices"
_OF_TFLITE = ("quantization", "context_length", "prefill_lengths", "text_file")
_OF_SAVED_MODEL = (
    *("version", "model_name", "storage_dtype", "batch_sizes", "chat_template"),
    *("speculative", "xla"),
)
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
        "it the server's settings and a README.md. Of the other formats the new file",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "version", 1, "Version number, new in the folder", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "format", "saved_model", ["saved_model", "tflite", "litertlm"],
        "What to write: a SavedModel for servers, or for devices a TFLite file, or a "
        "LiteRT-LM bundle, which has the tokenizer, too",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "quantization", "none", ["none", "float16", "dynamic_int8", "int8", "int4"],
        "Of files for devices, like the next three: how weights are stored; products "
        "are computed by integers with dynamic_int8, of TensorFlow's converter, and "
        "int8 and int4, of ai-edge-quantizer", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "context_length", None,
        "Most tokens of a text, prompt and continuation; the model's context without "
        "it", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "prefill_lengths", None,
        "Tokens of a prompt to read at once, such as 16,128, rising and each a "
        "multiple of the first; chosen by the context without it", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "text_file", None,
        "Text file of which to tell the perplexity, before and after; its beginning "
        "only. Optional", flag_values=flags,
    )  # fmt: skip
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
        "Adds the signature chat, to a LiteRT-LM bundle its prompts, with this "
        "template; optional, that of the preset without it", flag_values=flags,
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
    if flags.format in ("tflite", "litertlm"):
        _write_for_devices(flags)
    else:
        _write_saved_model(flags)


def _write_for_devices(flags: absl_flags.FlagValues) -> None:
    settings = (*knobs.values(flags), *knobs.TEXTS, *_COUNTS, "length_penalty")
    is_bundle = flags.format == "litertlm"
    others = [n for n in _OF_SAVED_MODEL if not (is_bundle and n == "chat_template")]
    _refuse(flags, *others, *settings, found=flags.format)
    lengths = flags.prefill_lengths and _whole_numbers(flags, "prefill_lengths")
    text = flags.text_file and Path(flags.text_file).read_text(encoding="utf-8")
    from keras_gpt.export import export_litertlm, export_tflite

    task = inputs.load_task(flags.model)
    _set_chat_template(flags, task)
    report = (export_litertlm if is_bundle else export_tflite)(
        task,
        flags.output,
        flags.quantization,
        context_length=flags.context_length,
        prefill_lengths=lengths,
        text=text,
    )
    costs = report.costs
    print(f"{report.path}: {report.num_bytes:,} bytes, of weights in float32", end="")
    print(f" {report.weight_bytes:,}")
    print(f"  largest error of an output {costs.largest_error:.3g}", end="")
    print(f", of {costs.largest_output:.3g}")
    if costs.perplexity is not None:
        print(f"  perplexity {costs.perplexity:.4f}", end="")
        print(f", {costs.perplexity_before:.4f} before")


def _write_saved_model(flags: absl_flags.FlagValues) -> None:
    _refuse(flags, *_OF_TFLITE, found="saved_model")
    sizes = _whole_numbers(flags, "batch_sizes")
    from keras_gpt import GPTCausalLM
    from keras_gpt.export import export_saved_model

    task = inputs.load_task(flags.model)
    generates = isinstance(task, GPTCausalLM)
    _set_chat_template(flags, task)
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


def _set_chat_template(flags: absl_flags.FlagValues, task: Any) -> None:
    from keras_gpt import ChatTemplate, GPTCausalLM

    if flags.chat_template is None:
        return
    if not isinstance(task, GPTCausalLM):
        raise command.UsageError("flag --chat_template is for generators alone.")
    task.preprocessor.chat_template = ChatTemplate.named(flags.chat_template)


def _whole_numbers(flags: absl_flags.FlagValues, name: str) -> list[int]:
    text = str(flags[name].value)
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise command.UsageError(f"flag --{name} must be whole numbers, got {text!r}.")
    return [int(number) for number in numbers]


def _refuse(flags: absl_flags.FlagValues, *names: str, found: str) -> None:
    """Raises `UsageError` if a flag was given that a format has no use for."""
    for name in names:
        if flags[name].present:
            raise command.UsageError(
                f"flag --{name} must be left out with --format={found}."
            )


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
