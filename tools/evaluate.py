"""Measures a model's loss and perplexity on text files."""

from __future__ import annotations

import math

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs

DESCRIPTION = "measures loss and perplexity on text files"


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(
        "input", [], "UTF-8 text file or glob pattern; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "batch_size", 12, "Windows at a time, each as long as the context",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "model", "input")
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
