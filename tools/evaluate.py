"""Measures a model: perplexity on text files, or a task's scores on examples."""

from __future__ import annotations

import math
from pathlib import Path

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs, task_flags

DESCRIPTION = "measures perplexity on texts, or a task's scores on examples"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(
        "input", [], "UTF-8 text file or glob pattern, for perplexity over windows as "
        "long as the context; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "examples", [], "In place of --input: CSV, TSV, JSONL or Parquet file of "
        "labelled examples, or SQuAD's own JSON; may be repeated", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "output", None, "Of --examples: folder for metrics.json, predictions.jsonl and "
        "confusion.png; optional", flag_values=flags,
    )  # fmt: skip
    task_flags.define_column_flags(flags)
    absl_flags.DEFINE_integer(
        "batch_size", 12, "Windows or examples at a time", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model")
    if bool(flags.input) == bool(flags.examples):
        raise command.UsageError("one of the flags --input and --examples is required.")
    if flags.examples:
        _score_examples(flags)
    else:
        _measure_perplexity(flags)


def _score_examples(flags: absl_flags.FlagValues) -> None:
    from keras_gpt.training import find_kind, longest_row, score_task

    kind = find_kind(flags.model)
    task = inputs.load_task(flags.model)
    problem = getattr(task, "problem", None)  # it knows what its labels are
    found = task_flags.read(flags, flags.examples, kind, problem=problem)
    with task.rows_of(longest_row(task, found)):
        scores = score_task(task, found, batch_size=flags.batch_size)
    print(f"{kind}: {found.num_examples} examples")
    print(task_flags.line(scores))
    if flags.output:
        names = getattr(task, "label_names", None)
        task_flags.write_scores(Path(flags.output), scores, label_names=names)


def _measure_perplexity(flags: absl_flags.FlagValues) -> None:
    from keras_gpt.data import encode_text, evaluation_batches, read_text_files
    from keras_gpt.training import make_eval_step

    lm = inputs.load_model(flags.model)
    texts = read_text_files(inputs.text_paths(flags.input))
    step = make_eval_step(lm.backbone)
    total = tokens = 0.0
    for text in texts:
        batches = evaluation_batches(
            encode_text(text, tokenizer=lm.preprocessor.tokenizer),
            batch_size=flags.batch_size,
            context_length=lm.backbone.config.max_sequence_length,
        )
        for batch in batches:
            sums = step(batch)
            total += float(sums.total)
            tokens += float(sums.count)
    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    loss = total / tokens
    print(f"loss {loss:.4f} nats per token over {tokens:.0f} tokens")
    print(f"perplexity {math.exp(loss):.3f} per token")
    print(f"perplexity {math.exp(total / num_bytes):.4f} per byte")


if __name__ == "__main__":
    command.run_main(__name__)
