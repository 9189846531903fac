"""Trains a GPT on text files; run again, it goes on where it was stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags as absl_flags

from keras_gpt.config import ACTIVATIONS, NAMED_SIZES
from keras_gpt.tools import command, inputs

if TYPE_CHECKING:
    from keras_gpt.training import WorkerLostError

DESCRIPTION = "trains a GPT on text files"

# How often a process was started again since which step, in its environment.
RESTARTS = "KERAS_GPT_RESTARTS"

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
    "batch_size": (12, "Windows per step, over all replicas and micro-batches"),
    "accumulate": (1, "Micro-batches per step: less memory, the same result"),
    "warmup_steps": (100, "Steps of linear warm-up"),
    "eval_every": (250, "Steps between evaluations"),
    "eval_batches": (20, "Batches of the held-out part per evaluation; 0 for all"),
    "checkpoint_every": (250, "Steps between checkpoints"),
    "keep_checkpoints": (2, "Newest checkpoints to keep, besides the best"),
    "log_every": (10, "Steps between progress lines"),
    "patience": (0, "Evaluations without a better loss that end the run; 0 for never"),
    "sample_tokens": (100, "Tokens to write at each evaluation; 0 for none"),
    "seed": (0, "Of initialisation, data order and dropout"),
}
NUMBERS: dict[str, tuple[float | None, str]] = {
    "learning_rate": (1e-3, "Peak of the schedule"),
    "min_learning_rate": (None, "End of the cosine; optional, a tenth of the peak"),
    "beta_1": (0.9, "AdamW's first decay"),
    "beta_2": (0.95, "AdamW's second decay"),
    "weight_decay": (0.1, "AdamW's weight decay, on matrices only"),
    "clip_norm": (1.0, "Largest global norm of the gradients; 0 for none"),
    "decay_fraction": (0.2, "Share of the steps in which constant_decay decays"),
    "validation_fraction": (0.1, "Share of the text held out, from its end"),
}


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    _define_run_flags(flags)
    _define_strategy_flags(flags)
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
    command.define_numbers(flags, integers=INTEGERS, floats=NUMBERS)


def _define_run_flags(flags: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_multi_string(
        "input", [], "UTF-8 text file or glob pattern; may be repeated",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "dataset", None, "Folder of prepare_data, in place of --input; optional",
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
    absl_flags.DEFINE_integer(
        "vocabulary_multiple", 1, "Round the model's token table up to a multiple of "
        "this, for a mesh that must divide it", lower_bound=1, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "end_token", True, "Whether a learnt vocabulary has <|endoftext|>",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "context_length", None, "Tokens per window; optional, as in dataset or size",
        flag_values=flags,
    )  # fmt: skip
    command.define_dtype_policy(flags)
    command.define_jit_compile(flags)
    absl_flags.DEFINE_enum(
        "optimizer", "adamw", ["adamw", "adafactor"], "Keras optimizer",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_enum(
        "schedule", "cosine", ["cosine", "linear", "constant_decay"],
        "How the learning rate falls after the warm-up", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_bool(
        "remat", False, "Whether to compute blocks again in the backward pass, for "
        "less memory", flag_values=flags,
    )  # fmt: skip


def _define_strategy_flags(flags: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_enum(
        "strategy", "one_device",
        ["one_device", "mirrored", "multi_worker", "tpu", "mesh"],
        "Where to train: copies of the model on several devices (mirrored), machines "
        "(multi_worker) or TPU cores (tpu), or the model split over devices (mesh)",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "devices", None, "mirrored: how many devices; parts of the CPU where there is "
        "no GPU; optional, all GPUs otherwise", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "mesh", None, "mesh: such as batch:4,model:2; optional otherwise",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_list(
        "workers", None, "multi_worker: host:port of each; optional where TF_CONFIG or "
        "Slurm's variables tell", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "worker_timeout", 600.0, "multi_worker: seconds to wait for the other workers",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "max_restarts", 10, "multi_worker: how often to start again from the last "
        "checkpoint when another worker is lost before there was a step forward",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "tpu", "", "tpu: its name or address; optional", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "output")
    if bool(flags.input) == bool(flags.dataset):
        raise command.UsageError("flag --input or --dataset is required, and not both.")
    if flags.tokenizer and flags.vocabulary_size is not None:
        raise command.UsageError(
            "flag --vocabulary_size is for a vocabulary to learn; --tokenizer has one."
        )
    paths = inputs.text_paths(flags.input) if flags.input else None
    strategy = _strategy(flags)  # before anything else uses the devices

    from keras_gpt.data import PackedDataset
    from keras_gpt.training import WorkerLostError, pretrain

    if flags.dataset and flags.context_length is None:
        flags["context_length"].value = PackedDataset(flags.dataset).context_length
    tokenizer = _tokenizer(flags, paths)
    config = pretrain_config(flags, tokenizer.vocabulary_size())
    try:
        result = pretrain(
            config,
            corpus_paths=paths,
            dataset=flags.dataset,
            tokenizer=tokenizer,
            output_dir=flags.output,
            strategy=strategy,
            progress=lambda line: print(line, flush=True),
        )
    except WorkerLostError as error:
        _start_again(error, flags.max_restarts)
    loss = result.report["validation_loss"]["final"]
    print(f"validation loss {loss:.4f} nats per token; model in {flags.output}/model")


def _strategy(flags: absl_flags.FlagValues) -> Any:
    from keras_gpt.training import find_cluster, make_strategy, parse_mesh

    several = flags.strategy == "multi_worker"
    return make_strategy(
        flags.strategy,
        devices=flags.devices,
        mesh=parse_mesh(flags.mesh) if flags.mesh else None,
        cluster=find_cluster(flags.workers) if several else None,
        worker_timeout=flags.worker_timeout,
        tpu=flags.tpu,
    )


def _start_again(error: WorkerLostError, max_restarts: int) -> NoReturn:
    """Replaces this process with a new one of the same command.

    TensorFlow cannot connect its workers a second time within one process.

    Raises:
        WorkerLostError: `error`, when that was done `max_restarts` times without a
            step forward.
    """
    count, step = map(int, os.environ.get(RESTARTS, "0@0").split("@"))
    if error.step > step:
        count = 0
    if count >= max_restarts:
        raise error
    print(f"{error} Starting again ({count + 1} of {max_restarts}).", flush=True)
    os.environ[RESTARTS] = f"{count + 1}@{max(step, error.step)}"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _tokenizer(flags: absl_flags.FlagValues, paths: list[Path] | None) -> Any:
    from keras_gpt.tokenizer import train_tokenizer

    if flags.tokenizer:
        return inputs.load_tokenizer(flags.tokenizer)
    if flags.dataset:
        from keras_gpt.data import PackedDataset

        return PackedDataset(flags.dataset).tokenizer()
    return train_tokenizer(
        paths,  # type: ignore[arg-type]
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
    # Rows that no token takes, for a mesh that must divide the table.
    multiple = flags.vocabulary_multiple
    rows = -(-vocabulary_size // multiple) * multiple
    model = GPTConfig.named(flags.size, vocabulary_size=rows, **overrides)
    values: dict[str, Any] = {name: flags[name].value for name in (*INTEGERS, *NUMBERS)}
    values["eval_batches"] = values["eval_batches"] or None
    values["clip_norm"] = values["clip_norm"] or None
    values["patience"] = values["patience"] or None
    return PretrainConfig(
        model=model,
        dtype_policy=flags.dtype_policy,
        jit_compile=command.jit_compile(flags),
        optimizer=flags.optimizer,
        schedule=flags.schedule,
        remat=flags.remat,
        **values,
    )


if __name__ == "__main__":
    command.run_main(__name__)
