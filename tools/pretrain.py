"""Trains a GPT on text files; run again, it goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.config import ACTIVATIONS, NAMED_SIZES
from keras_gpt.tools import command, inputs

DESCRIPTION = "trains a GPT on text files"

# Fields of GPTConfig that flags of the same name change; None keeps the size's own.
MODEL_INTEGERS = {
    "num_layers": "Transformer blocks",
    "num_heads": "Attention heads per block",
    "hidden_dim": "Width of the residual stream",
    "intermediate_dim": "Width of the MLP",
    "head_dim": "Width of one attention head",
}
MODEL_NUMBERS = {
    "dropout": "Dropout rate",
    "embedding_dropout": "Another rate for the embeddings",
    "attention_dropout": "Another rate for the attention weights",
    "layer_norm_epsilon": "Added to the variance in layer norms",
    "initializer_stddev": "Standard deviation of the initial weights",
}
MODEL_SWITCHES = {
    "use_bias": "Whether layers have biases",
    "normalize_first": "Whether layer norms stand before (GPT-2) or after (GPT-1)",
    "tie_embeddings": "Whether the output projection is the token embedding",
    "scale_attention_by_inverse_layer": "Whether block i divides its logits by i",
    "upcast_attention": "Whether queries and keys are multiplied in float32",
}
MODEL_FIELDS = (*MODEL_INTEGERS, *MODEL_NUMBERS, *MODEL_SWITCHES, "activation")
# Fields of PretrainConfig: default and meaning.
INTEGERS: dict[str, tuple[int | None, str]] = {
    "steps": (1000, "Optimizer steps"),
    "batch_size": (12, "Windows per step, over all replicas"),
    "warmup_steps": (100, "Steps of linear warm-up"),
    "eval_every": (250, "Steps between evaluations"),
    "eval_batches": (20, "Batches of the held-out part per evaluation; 0 for all"),
    "checkpoint_every": (250, "Steps between checkpoints"),
    "keep_checkpoints": (2, "Newest checkpoints to keep, besides the best"),
    "log_every": (10, "Steps between progress lines"),
    "seed": (0, "Of initialisation, data order and dropout"),
}
NUMBERS: dict[str, tuple[float | None, str]] = {
    "learning_rate": (1e-3, "Peak of the schedule"),
    "min_learning_rate": (None, "End of the cosine; optional, a tenth of the peak"),
    "beta_1": (0.9, "AdamW's first decay"),
    "beta_2": (0.95, "AdamW's second decay"),
    "weight_decay": (0.1, "AdamW's weight decay, on matrices only"),
    "clip_norm": (1.0, "Largest global norm of the gradients; 0 for none"),
    "validation_fraction": (0.1, "Share of the text held out, from its end"),
}


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    _define_run_flags(flags)
    for define, fields in (
        (absl_flags.DEFINE_integer, MODEL_INTEGERS),
        (absl_flags.DEFINE_float, MODEL_NUMBERS),
        (absl_flags.DEFINE_bool, MODEL_SWITCHES),
    ):
        for name, meaning in fields.items():
            define(name, None, f"{meaning}; optional, as in --size", flag_values=flags)
    absl_flags.DEFINE_enum(
        "activation", None, list(ACTIVATIONS),
        "Of the MLP; optional, as in --size", flag_values=flags,
    )  # fmt: skip
    for name, (default, meaning) in INTEGERS.items():
        absl_flags.DEFINE_integer(name, default, meaning, flag_values=flags)
    for name, (number, meaning) in NUMBERS.items():
        absl_flags.DEFINE_float(name, number, meaning, flag_values=flags)


def _define_run_flags(flags: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_multi_string(
        "input", [], "UTF-8 text file or glob pattern; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "output", None, "Folder of the run: new, or the same run's", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "size", "gpt_char", list(NAMED_SIZES), "Architecture", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "tokenizer", None,
        "Folder of vocab.json and merges.txt; optional: without it one is learnt",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "tokenizer_kind", "bpe", ["bpe", "char"],
        "What to learn without --tokenizer; char makes each character a token",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "vocabulary_size", None,
        "Token ids to learn for --tokenizer_kind=bpe; optional otherwise",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "end_token", True, "Whether a learnt vocabulary has <|endoftext|>",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "context_length", None, "Tokens per window; optional, as in --size",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "dtype_policy", "float32", ["float32", "mixed_bfloat16"], "Precision",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "jit_compile", "auto", ["auto", "true", "false"], "Whether XLA compiles",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "strategy", "one_device", ["one_device"], "tf.distribute strategy",
        flag_values=flags,
    )  # fmt: skip


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "input", "output")
    if flags.tokenizer and flags.vocabulary_size is not None:
        raise command.UsageError(
            "flag --vocabulary_size is for a vocabulary to learn; --tokenizer has one."
        )
    paths = inputs.text_paths(flags.input)
    tokenizer = _tokenizer(flags, paths)

    from keras_gpt.training import pretrain

    config = pretrain_config(flags, tokenizer.vocabulary_size())
    result = pretrain(
        config,
        corpus_paths=paths,
        tokenizer=tokenizer,
        output_dir=flags.output,
        progress=lambda line: print(line, flush=True),
    )
    loss = result.report["validation_loss"]["final"]
    print(f"validation loss {loss:.4f} nats per token; model in {flags.output}/model")


def _tokenizer(flags: absl_flags.FlagValues, paths: list[Path]) -> Any:
    from keras_gpt.tokenizer import train_tokenizer

    if flags.tokenizer:
        return inputs.load_tokenizer(flags.tokenizer)
    return train_tokenizer(
        paths,
        vocabulary_size=flags.vocabulary_size,
        kind=flags.tokenizer_kind,
        end_token=flags.end_token,
    )


def pretrain_config(flags: absl_flags.FlagValues, vocabulary_size: int) -> Any:
    """Returns the `PretrainConfig` that the flags describe."""
    from keras_gpt.config import GPTConfig
    from keras_gpt.training import PretrainConfig

    overrides = {
        name: flags[name].value
        for name in MODEL_FIELDS
        if flags[name].value is not None
    }
    if flags.context_length is not None:
        overrides["max_sequence_length"] = flags.context_length
    if "hidden_dim" in overrides or "num_heads" in overrides:
        overrides.setdefault("head_dim", None)
    model = GPTConfig.named(flags.size, vocabulary_size=vocabulary_size, **overrides)
    values: dict[str, Any] = {name: flags[name].value for name in (*INTEGERS, *NUMBERS)}
    values["eval_batches"] = values["eval_batches"] or None
    values["clip_norm"] = values["clip_norm"] or None
    choices: dict[str, Any] = {"auto": "auto", "true": True, "false": False}
    return PretrainConfig(
        model=model,
        dtype_policy=flags.dtype_policy,
        jit_compile=choices[flags.jit_compile],
        strategy=flags.strategy,
        **values,
    )


if __name__ == "__main__":
    command.run_main(__name__)
