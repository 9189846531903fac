"""Fine-tunes a model for a task; run again, it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, task_flags

DESCRIPTION = "fine-tunes a model for a task on labelled examples"

# Fields of FinetuneConfig: default and meaning.
INTEGERS: dict[str, tuple[int, str]] = {
    "epochs": (3, "Passes over the examples"),
    "batch_size": (32, "Examples per step, over all devices and micro-batches"),
    "accumulate": (1, "Micro-batches per step: less memory, the same result"),
    "patience": (0, "Epochs without a better validation loss that end the run; 0 for "
                 "never"),
    "seed": (0, "Of the head's first weights, order and dropout"),
}  # fmt: skip
NUMBERS: dict[str, tuple[float, str]] = {
    "learning_rate": (5e-5, "Peak, after the warm-up; falls to 0 at the end"),
    "warmup_share": (0.1, "Share of the steps in which the rate rises"),
    "weight_decay": (0.01, "AdamW's weight decay, on matrices only"),
    "layer_decay": (1.0, "Factor of the learning rate from a block to the one below"),
    "clip_norm": (1.0, "Largest global norm of the gradients; 0 for none"),
    "auxiliary_lm_weight": (0.0, "Factor of the next-token loss of the texts"),
}

# Beside the config, what two runs have in common that are the same.
SAME = (
    *("model", "pretrained", "dropout", "dtype_policy", "validation_fraction"),
    *task_flags.EXAMPLE_FLAGS,
)
# What says which weights learn.
CHOICES = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "freeze_layers")


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    task_flags.define_task_flag(flags)
    task_flags.define_column_flags(flags)
    absl_flags.DEFINE_string(
        "model",
        None,
        "Preset or checkpoint to start from: a directory, or a name such as gpt2",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(
        "train", [], "CSV, TSV, JSONL or Parquet file, or SQuAD's own JSON; may be "
        "repeated", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "validation", [], "Likewise; optional: without it a part is held out",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "validation_fraction", 0.1, "Share of the examples to hold out without "
        "--validation", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "output", None, "Folder of the run: new, or the same run's", flag_values=flags
    )
    absl_flags.DEFINE_bool(
        "pretrained", True, "Whether to start from the model's weights rather than "
        "from new ones", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "sequence_length", None, "Tokens per row; optional, as long as the longest "
        "example, at most the model's context", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "dropout", None, "Of the network; optional, as in the model", flag_values=flags
    )
    command.define_dtype_policy(flags)
    command.define_jit_compile(flags)
    absl_flags.DEFINE_enum(
        "strategy", "one_device", ["one_device", "mirrored"],
        "Where to train; mirrored shares each batch among the devices of this machine",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "devices", None, "Of mirrored: into how many devices to cut a CPU; optional, "
        "all there are", flag_values=flags,
    )  # fmt: skip
    _define_choice_flags(flags)
    command.define_numbers(flags, integers=INTEGERS, floats=NUMBERS)


def _define_choice_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the flags that say which weights learn."""
    absl_flags.DEFINE_integer(
        "lora_rank", 0, "Train adapters of this rank (LoRA) in place of the network's "
        "weights; 0 for none", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "lora_alpha", None, "Adapters count alpha / rank times; optional, the rank",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "lora_dropout", 0.0, "Dropout before adapters", flag_values=flags
    )
    absl_flags.DEFINE_list(
        "lora_targets", ["query_key_value"], "Which projections have adapters, of "
        "query_key_value,output_projection,expand,contract", flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer(
        "freeze_layers", None, "How many of the lowest blocks do not learn, nor the "
        "embeddings; optional: all learns", flag_values=flags,
    )  # fmt: skip


def _choose_what_learns(flags: absl_flags.FlagValues, task: Any) -> None:
    from keras_gpt.models import freeze_layers

    if flags.lora_rank:
        task.backbone.enable_lora(
            flags.lora_rank,
            flags.lora_targets,
            alpha=flags.lora_alpha,
            dropout=flags.lora_dropout,
        )
    if flags.freeze_layers is not None:
        freeze_layers(task, num_layers=flags.freeze_layers)


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    command.require(flags, "task", "model", "train", "output")
    task_flags.check_labels(flags)
    import keras

    from keras_gpt.training import finetune, longest_row, make_strategy, score_task

    config = _config(flags)
    strategy = make_strategy(flags.strategy, devices=flags.devices)
    train, held_out = _read(flags)
    keras.utils.set_random_seed(flags.seed)
    with strategy.scope():
        task = task_flags.new_task(flags, train)
        if flags.sequence_length is not None:
            task.preprocessor.sequence_length = flags.sequence_length
            task.check_rows()
        length = flags.sequence_length or longest_row(task, train, held_out)
        _choose_what_learns(flags, task)
        print(
            f"{flags.task}: {train.num_examples} examples to train on, "
            f"{held_out.num_examples} held out, rows of {length} tokens"
        )
        result = finetune(
            task,
            (train.x, train.y),
            validation=(held_out.x, held_out.y),
            output_dir=flags.output,
            config=config,
            sequence_length=length,
            identity={
                "data": task_flags.fingerprints(flags),
                "flags": {name: flags[name].value for name in (*SAME, *CHOICES)},
            },
        )
        with task.rows_of(length):
            scores = score_task(task, held_out, batch_size=flags.batch_size)
    report = {
        "task": flags.task,
        "examples": train.num_examples,
        "held_out": held_out.num_examples,
        "sequence_length": length,
        "config": dataclasses.asdict(config),
    }
    _write(Path(flags.output), task, report, result=result, scores=scores)


def _config(flags: absl_flags.FlagValues) -> Any:
    from keras_gpt.training import FinetuneConfig

    fields: dict[str, Any] = {name: flags[name].value for name in (*INTEGERS, *NUMBERS)}
    off = {name: fields[name] or None for name in ("patience", "clip_norm")}
    return FinetuneConfig(**{**fields, **off}, jit_compile=command.jit_compile(flags))


def _read(flags: absl_flags.FlagValues) -> tuple[Any, Any]:
    """Returns the examples to train on, and those that are held out."""
    from keras_gpt.training import split_examples

    train = task_flags.read(flags, flags.train, flags.task)
    if flags.validation:
        return train, task_flags.read(flags, flags.validation, flags.task)
    return split_examples(train, fraction=flags.validation_fraction, seed=flags.seed)


def _write(
    path: Path, task: Any, report: dict[str, Any], *, result: Any, scores: Any
) -> None:
    """Writes what the run found into its folder, and tells it."""
    trained = sum(math.prod(weight.shape) for weight in task.trainable_variables)
    report |= {
        "parameters": task.count_params(),
        "trained_parameters": trained,
        "best_epoch": result.best_epoch,
        "history": result.history,
        "held_out_metrics": scores.metrics,
    }
    names = getattr(task, "label_names", None)
    task_flags.write_scores(path, scores, label_names=names)
    task_flags.write_json(path / "report.json", report)
    print(f"best epoch {result.best_epoch}: {task_flags.line(scores)}")
    print(f"the model is in {path / 'model'}")


if __name__ == "__main__":
    command.run_main(__name__)
