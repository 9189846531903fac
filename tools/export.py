"""Writes a model for servers, for devices or for browsers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, knobs

if TYPE_CHECKING:  # takes seconds to import
    from keras_gpt.export import TFLiteReport

DESCRIPTION = (
    "writes a model for servers, devices or browsers: a SavedModel that tensorflow "
    "alone runs, a TFLite file, a LiteRT-LM bundle, or a web page"
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
        "it the server's settings and a README.md. Of --format=web the page's new "
        "folder, of the others the new file",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "version", 1, "Version number, new in the folder", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "format", "saved_model", ["saved_model", "tflite", "litertlm", "web"],
        "What to write: a SavedModel for servers; for devices a TFLite file, or a "
        "LiteRT-LM bundle, which has the tokenizer, too; or a web page with a TFLite "
        "file, whose form begins with the settings that are given",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "quantization", "none", ["none", "float16", "dynamic_int8", "int8", "int4"],
        "Of all but a SavedModel, like the next three: how weights are stored; "
        "products are computed by integers with dynamic_int8, of TensorFlow's "
        "converter, and int8 and int4, of ai-edge-quantizer", flag_values=flags,
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
        "node_modules", None,
        "Of --format=web: folder in which npm has installed LiteRT.js. Optional, npm "
        "installs it without", flag_values=flags,
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
        "Template of conversations: of a SavedModel's signature chat, a LiteRT-LM "
        "bundle's prompts, or LiteRTGenerator.chat. Optional, that of the preset "
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
    write, _ = _FORMATS[flags.format]
    _refuse_others(flags)
    write(flags)


def _write_tflite(flags: absl_flags.FlagValues) -> None:
    options = _litert_options(flags)
    from keras_gpt.export import export_tflite

    task = _task_for_chats(flags)
    _print_report(export_tflite(task, flags.output, flags.quantization, **options))


def _write_litertlm(flags: absl_flags.FlagValues) -> None:
    options = _litert_options(flags)
    from keras_gpt.export import export_litertlm

    task = _task_for_chats(flags)
    _print_report(export_litertlm(task, flags.output, flags.quantization, **options))


def _write_web(flags: absl_flags.FlagValues) -> None:
    settings, options = knobs.values(flags), _litert_options(flags)
    from keras_gpt.export import export_web

    report = export_web(
        inputs.load_task(flags.model),
        flags.output,
        flags.quantization,
        node_modules=flags.node_modules,
        settings={name: x for name, x in settings.items() if flags[name].present},
        **options,
    )
    _print_report(report)
    print(f"keras-gpt serve --web={report.path} shows the page")


def _litert_options(flags: absl_flags.FlagValues) -> dict[str, Any]:
    lengths = flags.prefill_lengths and _whole_numbers(flags, "prefill_lengths")
    text = flags.text_file and Path(flags.text_file).read_text(encoding="utf-8")
    return {
        "context_length": flags.context_length,
        "prefill_lengths": lengths,
        "text": text,
    }


def _print_report(report: TFLiteReport) -> None:
    costs = report.costs
    print(f"{report.path}: {report.num_bytes:,} bytes, of weights in float32", end="")
    print(f" {report.weight_bytes:,}")
    print(f"  largest error of an output {costs.largest_error:.3g}", end="")
    print(f", of {costs.largest_output:.3g}")
    if costs.perplexity is not None:
        print(f"  perplexity {costs.perplexity:.4f}", end="")
        print(f", {costs.perplexity_before:.4f} before")


def _write_saved_model(flags: absl_flags.FlagValues) -> None:
    sizes = _whole_numbers(flags, "batch_sizes")
    from keras_gpt import GPTCausalLM
    from keras_gpt.export import export_saved_model

    task = _task_for_chats(flags)
    generates = isinstance(task, GPTCausalLM)
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


def _task_for_chats(flags: absl_flags.FlagValues) -> Any:
    """Loads the task, and gives it the template that `--chat_template` names."""
    from keras_gpt import ChatTemplate, GPTCausalLM

    task = inputs.load_task(flags.model)
    if flags.chat_template is not None:
        if not isinstance(task, GPTCausalLM):
            raise command.UsageError("flag --chat_template is for generators alone.")
        task.preprocessor.chat_template = ChatTemplate.named(flags.chat_template)
    return task


def _whole_numbers(flags: absl_flags.FlagValues, name: str) -> list[int]:
    text = str(flags[name].value)
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise command.UsageError(f"flag --{name} must be whole numbers, got {text!r}.")
    return [int(number) for number in numbers]


def _refuse_others(flags: absl_flags.FlagValues) -> None:
    """Raises `UsageError` if a flag was given that a format has no use for."""
    _, own = _FORMATS[flags.format]
    for name in itertools.chain(*(names for _, names in _FORMATS.values())):
        if flags[name].present and name not in own:
            raise command.UsageError(
                f"flag --{name} must be left out with --format={flags.format}."
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


_OF_LITERT = ("quantization", "context_length", "prefill_lengths", "text_file")
# What writes each format, and the flags that it has a use for.
_FORMATS: dict[str, tuple[Callable[[absl_flags.FlagValues], None], tuple[str, ...]]] = {
    "saved_model": (
        _write_saved_model,
        (
            *("version", "model_name", "storage_dtype", "batch_sizes", "chat_template"),
            *("speculative", "xla"),
            *(*knobs.NAMES, *knobs.TEXTS, *_COUNTS, "length_penalty"),
        ),
    ),
    "tflite": (_write_tflite, (*_OF_LITERT, "chat_template")),
    "litertlm": (_write_litertlm, (*_OF_LITERT, "chat_template")),
    "web": (_write_web, (*_OF_LITERT, "node_modules", *knobs.NAMES)),
}

if __name__ == "__main__":
    command.run_main(__name__)
