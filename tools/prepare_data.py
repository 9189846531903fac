"""Packs text into shards of token ids, which training reads at random."""

from __future__ import annotations

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs

DESCRIPTION = "packs text into shards of token ids to train on"

# The name of the one source that --input makes.
INPUT_SOURCE = "corpus"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    _define_input_flags(flags)
    absl_flags.DEFINE_string(
        "tokenizer", None, "Folder of vocab.json and merges.txt", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "output", None,
        "Folder of the dataset, new or empty; a local path, or one of tf.io.gfile's",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "context_length", None, "Tokens per window; a record holds one more",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "segments", False,
        "Whether to store which document each token is of, so that no target is "
        "predicted from another document",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "validation_fraction", 0.01,
        "Share of the documents held out, by their hash; 0 for none",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "num_shards", None,
        "Training shards of each source; optional: one for about 64 MB of text",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "runner", "local", ["local", "beam"],
        "local: processes of this machine; beam: an Apache Beam pipeline. The shards "
        "are the same",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "workers", None,
        "Processes of --runner=local; optional: one a core, or fewer for little text",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "beam_options", [],
        "A flag of Beam's own, such as --runner=FlinkRunner; may be repeated",
        flag_values=flags,
    )  # fmt: skip


def _define_input_flags(flags: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_multi_string(
        "input", [],
        "File or glob pattern, local or of tf.io.gfile, plain or .gz, .bz2, .xz, "
        ".zst; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "source", [],
        "NAME=WEIGHT:PATTERN, in place of --input: several sources, mixed in training "
        "by their weights; may be repeated, also with one name",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "format", "auto", ["auto", "text", "jsonl", "parquet"],
        "Of the files; auto goes by their names: .jsonl, .ndjson, .json, .parquet, .pq "
        "and else text",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "field", "text", "Field of JSON lines or column of Parquet that holds the text",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "document", "file", ["file", "line", "blank_line"],
        "What one document of a text file is: all of it, a line, or lines up to a "
        "blank one",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "tokenizer", "context_length", "output")
    if bool(flags.input) == bool(flags.source):
        raise command.UsageError("one of the flags --input and --source is required.")
    weights_and_patterns = _parsed(flags.source)
    from keras_gpt.data import DataSource, PrepareConfig, prepare_data

    if flags.input:
        sources = [DataSource(INPUT_SOURCE, tuple(flags.input))]
    else:
        sources = [
            DataSource(name, tuple(patterns), weight)
            for name, (weight, patterns) in weights_and_patterns.items()
        ]
    config = PrepareConfig(
        context_length=flags.context_length,
        segments=flags.segments,
        validation_fraction=flags.validation_fraction,
        num_shards=flags.num_shards,
        format=flags.format,
        field=flags.field,
        document=flags.document,
    )
    content = prepare_data(
        config,
        sources=sources,
        tokenizer=inputs.load_tokenizer(flags.tokenizer),
        output_dir=flags.output,
        runner=flags.runner,
        workers=flags.workers,
        beam_options=flags.beam_options,
        progress=lambda line: print(line, flush=True),
    )
    for split, total in content["totals"].items():
        print(
            f"{split}: {total['examples']:,} examples, {total['tokens']:,} tokens, "
            f"{total['documents']:,} documents, {total['shards']:,} shards"
        )
    print(f"{sum(content['duplicates'].values()):,} duplicates dropped")


def _parsed(values: list[str]) -> dict[str, tuple[float, list[str]]]:
    """Weight and patterns of each named source, in the order they were given."""
    sources: dict[str, tuple[float, list[str]]] = {}
    for value in values:
        name, has_name, rest = value.partition("=")
        weight, has_weight, pattern = rest.partition(":")
        try:
            number = float(weight)
        except ValueError:
            has_weight = ""
        if not (name and has_name and has_weight and pattern):
            raise command.UsageError(
                f"flag --source must be NAME=WEIGHT:PATTERN, got {value!r}."
            )
        first, patterns = sources.setdefault(name, (number, []))
        if number != first:
            raise command.UsageError(
                f"flag --source must give {name!r} one weight, got {first:g} and "
                f"{number:g}."
            )
        patterns.append(pattern)
    return sources


if __name__ == "__main__":
    command.run_main(__name__)
