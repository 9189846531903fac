"""Learns a vocabulary from text files: vocab.json and merges.txt."""

from __future__ import annotations

from pathlib import Path

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs

DESCRIPTION = "learns a vocabulary from text files"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_multi_string(
        "input", [], "UTF-8 text file or glob pattern; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string("output", None, "Folder to write", flag_values=flags)
    absl_flags.DEFINE_integer(
        "vocabulary_size", None,
        "Number of token ids, for --kind=bpe; optional for --kind=char",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "kind", "bpe", ["bpe", "char"],
        "bpe: byte-pair merges; char: each character is a token", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "end_token", True, "Whether the vocabulary ends with <|endoftext|>",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "input", "output")
    from keras_gpt.tokenizer import train_tokenizer

    output = Path(flags.output)
    for name in ("vocab.json", "merges.txt"):
        if (output / name).exists():
            raise FileExistsError(f"output must be new, but {output / name} exists.")
    tokenizer = train_tokenizer(
        inputs.text_paths(flags.input),
        vocabulary_size=flags.vocabulary_size,
        kind=flags.kind,
        end_token=flags.end_token,
    )
    tokenizer.save_files(output)
    print(f"{tokenizer.vocabulary_size()} tokens in {output}")


if __name__ == "__main__":
    command.run_main(__name__)
