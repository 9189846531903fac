"""Compares speeds with those of peers, side by side in one run."""

from __future__ import annotations

import importlib
import json
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command
from keras_gpt.whole_files import write_whole

DESCRIPTION = "compares speeds with those of peers"
WORDS = {
    "train": "tokens/s of a training step, beside the same step in torch",
    "tokenize": "MB/s of GPTTokenizer in tf.data, beside KerasHub and tokenizers",
    "decode": "tokens/s of greedy decoding, beside transformers, KerasHub, CTranslate2",
    "devices": "the same by LiteRT in int8, beside CTranslate2 in int8",
    "language_models": "perplexity of a GPT and an LSTM after the same training time",
    "fine_tuning": "accuracy of a fine-tuned GPT, beside LoRA and other classifiers",
    "export": "size of an exported model, time to load it, and its first requests",
}


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_enum(
        "config", "all", ["char", "124m", "all"],
        "train: char (4 layers, 128 wide, context 64, batch 12) or 124m (GPT-2 "
        "small, context 256, batch 1)",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "variants", False, "train: what each choice of the step is worth, in place of "
        "the peers", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "rounds", 3, "Measurements of each side, in turn", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "part", "all", ["peers", "position", "speculation", "all"],
        "decode: peers (GPT-2 small, batch 1 and 8, 32 prompt + 64 new tokens), "
        "position (time of a token at 1000 against 100), or speculation (prompt "
        "lookup against plain decoding)",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "seconds", 5.0, "train, decode, devices: least seconds of one measurement",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "input", None, "tokenize, language_models: UTF-8 text file; optional",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "validation", None, "language_models: text to measure perplexity on; optional",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "minutes", 10.0, "language_models: training time of each; fine_tuning: most "
        "of each run", lower_bound=0.0, flag_values=flags,
    )  # fmt: skip
    _define_fine_tuning_flags(flags)
    absl_flags.DEFINE_string(
        "vocabulary", None,
        "tokenize, decode, devices, export: GPT-2 vocabulary (JSON); optional",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "merges",
        None,
        "tokenize, decode, devices, export: GPT-2 merges; optional",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "storage_dtype", None, ["float32", "bfloat16", "float16"],
        "export: precision in which weights are stored; optional", flag_values=flags,
    )  # fmt: skip
    for name in ("hidden_dim", "num_layers", "num_heads"):
        absl_flags.DEFINE_integer(
            name, None, "export: in place of GPT-2 small's; optional",
            flag_values=flags,
        )  # fmt: skip
    absl_flags.DEFINE_string(
        "json", None, "File for the results, as JSON; optional", flag_values=flags
    )


def _define_fine_tuning_flags(flags: absl_flags.FlagValues) -> None:
    for name, default, meaning in (
        ("model", None, "preset or checkpoint of a GPT; optional"),
        ("examples", None, "labelled texts (CSV, TSV, JSONL or Parquet); optional"),
        ("test", None, "likewise, to measure accuracy on; optional"),
        ("text_column", "text", "column of the text"),
        ("label_column", "label", "column of the label"),
    ):
        absl_flags.DEFINE_string(
            name, default, f"fine_tuning: {meaning}", flag_values=flags
        )
    absl_flags.DEFINE_integer(
        "seeds", 3, "fine_tuning: runs of each, with seeds from 0", lower_bound=1,
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "size", "both", ["few", "all", "both"], "fine_tuning: runs on a few examples "
        "of each label, on all, or both", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "per_class", 10, "fine_tuning: examples of each label that runs on a few "
        "get, drawn by the seed", lower_bound=1, flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues, words: list[str]) -> None:
    """Runs the named benchmarks, or all of them."""
    if flags.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {flags.rounds}.")
    if not flags.seconds > 0.0:
        raise ValueError(f"seconds must be positive, got {flags.seconds}.")
    results: dict[str, Any] = {}
    for name in words or WORDS:
        module = importlib.import_module(f"keras_gpt.tools.benchmarks.{name}")
        results[name] = module.run(flags)
    if flags.json:
        write_whole(flags.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    command.run_main(__name__)
