"""Fine-tuning of a task on examples in memory, in a directory of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_gpt.models import save_adapter
from keras_gpt.models.fit_checks import CutTexts, plain_errors
from keras_gpt.training.checkpointing import (
    CheckpointManager,
    TrainingState,
    named_variables,
)
from keras_gpt.training.layerwise import layerwise_optimizer
from keras_gpt.training.optimizers import EPSILON, is_decayed
from keras_gpt.training.reporting import LossRecord, write_loss_picture
from keras_gpt.training.run_directory import RunDirectory
from keras_gpt.training.schedules import WarmupLinear
from keras_gpt.whole_files import write_whole

# Apart, so that no two epochs of two runs have the same order.
_SEEDS_APART = 1_000_003


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of a fine-tuning run, checked on construction.

    Args:
        epochs: int. Passes over the examples. Defaults to 3.
        batch_size: int. Examples per step, over all replicas and micro-batches.
            Defaults to 32.
        accumulate: int. Micro-batches per step: less memory, the same result.
            Defaults to 1.
        learning_rate: float. Peak, after a linear warm-up; it then falls linearly to
            0 at the end of the last epoch. Defaults to 5e-5.
        warmup_share: float in [0, 1). Of all steps. Defaults to 0.1.
        weight_decay: float, at least 0. On matrices only. Defaults to 0.01.
        layer_decay: float in (0, 1]. As `decay` of `layerwise_optimizer`. Defaults to
            1: all layers learn at one rate.
        clip_norm: float, positive, or None. Largest global norm of the gradients.
            Defaults to 1.
        auxiliary_lm_weight: float, at least 0. As in `GPTTask.compile`. Defaults to 0.
        patience: int or None. Epochs without a better validation loss after which the
            run ends early. Defaults to None, never.
        seed: int in [0, 2**31). Of order and dropout. Defaults to 0.
        jit_compile: bool or `"auto"`. Whether XLA compiles a step; `"auto"` does so
            on one device, a CPU too, for a run is long. Defaults to `"auto"`.

    Raises:
        ValueError: if a field is out of its range.

    Reference: Radford et al. 2018, section 4.1; Devlin et al. 2019, appendix A.3.
    """

    epochs: int = 3
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    clip_norm: float | None = 1.0
    auxiliary_lm_weight: float = 0.0
    patience: int | None = None
    seed: int = 0
    jit_compile: bool | str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("weight_decay", "auxiliary_lm_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(
                    f"{name} must be at least 0, got {getattr(self, name)}."
                )
        if not 0.0 <= self.warmup_share < 1.0:
            raise ValueError(
                f"warmup_share must be in [0, 1), got {self.warmup_share}."
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}.")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ValueError(
                f"clip_norm must be positive or None, got {self.clip_norm}."
            )


class FinetuneResult(NamedTuple):
    """What a run came to.

    Attributes:
        history: one dict an epoch: `epoch`, `seconds`, and losses and metrics as in
            Keras' history.
        best_epoch: int. Number of the epoch, from 1, whose weights the task now has.
    """

    history: list[dict[str, float]]
    best_epoch: int


def finetune(
    task: Any,
    train: tuple[Any, Any],
    *,
    validation: tuple[Any, Any] | None = None,
    output_dir: str,
    config: FinetuneConfig,
    sequence_length: int | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = print,
) -> FinetuneResult:
    """Trains a task; started again with the same arguments, it goes on.

    The directory gets `model/` (a preset), `checkpoints/` (the last epoch and the
    best), `history.jsonl`, `loss.png` and `logs/` (TensorBoard); with an active adapter
    of LoRA also `adapter.safetensors`, and the preset has it merged. The order of the
    examples is a function of the seed and the epoch, so a run that was killed goes on
    after its last whole epoch as if it had not been.

    Args:
        task: `GPTTask`. It is compiled here; a `tf.distribute` strategy in whose scope
            it was made is used. At the end it has the weights of the best epoch: that
            with the lowest validation loss, or the last one without validation.
        train: x and y, as `fit` takes them.
        validation: likewise. Optional.
        output_dir: string. New, or of the same run.
        config: `FinetuneConfig`.
        sequence_length: int. Length of the rows to train on, in tokens. Defaults to
            `preprocessor.sequence_length`, which is what the preset gets.
        identity: what else makes two runs the same, such as their data. Optional.
        progress: function of one line of text. Defaults to `print`.

    Raises:
        ValueError: if the directory holds another run, an example is bad, or the loss
            is not finite (`DivergenceError`).
        OSError: if something cannot be written.
    """
    length = sequence_length or task.preprocessor.sequence_length
    with task.rows_of(length):  # before there is a directory: bad examples leave none
        rows = _rows(task, train)
        held_out = validation and _rows(task, validation)
    named = {
        "task": type(task).__name__,
        "config": dataclasses.asdict(config),
        "length": length,
    }
    directory = RunDirectory(output_dir, identity={**named, **(identity or {})})
    with directory:
        run = _Run(task, rows, held_out, directory, config, progress)
        result = run.train()
        task.save_to_preset(directory.model)
        if task.backbone.adapters.active is not None:
            save_adapter(task, f"{directory.path}/adapter.safetensors")
    return result


class _Run:
    """One run: its data, its state and its files."""

    def __init__(
        self,
        task: Any,
        rows: tf.data.Dataset,
        held_out: tf.data.Dataset | None,
        directory: RunDirectory,
        config: FinetuneConfig,
        progress: Callable[[str], None],
    ) -> None:
        self._task, self._config, self._progress = task, config, progress
        self._directory = directory
        self._rows, self._held_out = rows, held_out
        _compile(task, len(self._rows), config)
        self._checkpoints = CheckpointManager(
            directory.checkpoints,
            variables=named_variables(
                model=task.variables, optimizer=task.optimizer.variables
            ),
            keep=1,
        )
        self._history_file = f"{directory.path}/history.jsonl"

    def train(self) -> FinetuneResult:
        """Trains the epochs that are still to be trained."""
        preprocessor = self._task.preprocessor
        self._task.preprocessor = None  # the rows are tokenized
        try:
            return self._train()
        finally:
            self._task.preprocessor = preprocessor

    def _train(self) -> FinetuneResult:
        state = self._checkpoints.restore()
        done = 0 if state is None else state.step
        history = _read_history(self._history_file)[:done]
        if done:
            self._progress(f"goes on after epoch {done}")
        logs = tf.summary.create_file_writer(self._directory.logs)
        with contextlib.closing(logs) as writer:
            while done < self._config.epochs and not self._is_over(history):
                record = self._epoch(done)
                done += 1
                history.append(record)
                self._keep(done, history)
                self._show(record, writer)
        self._checkpoints.wait()
        best = self._checkpoints.restore_best()
        return FinetuneResult(history, best.step)

    def _epoch(self, done: int) -> dict[str, float]:
        """Trains an epoch; returns what it measured."""
        config = self._config
        started = time.monotonic()
        order = self._rows.shuffle(
            len(self._rows), seed=config.seed * _SEEDS_APART + done
        )
        held_out = self._held_out and self._held_out.padded_batch(config.batch_size)
        fitted = self._task.fit(
            order.padded_batch(config.batch_size),
            validation_data=held_out,
            epochs=done + 1,
            initial_epoch=done,
            verbose=0,
        )
        found = {name: float(values[-1]) for name, values in fitted.history.items()}
        return {
            "epoch": done + 1,
            **found,
            "seconds": round(time.monotonic() - started, 3),
        }

    def _keep(self, done: int, history: list[dict[str, float]]) -> None:
        loss = history[-1].get("val_loss")
        if loss is not None and not math.isfinite(loss):
            loss = None
        # Before the checkpoint: what it holds of epochs is then always there.
        lines = "".join(json.dumps(record) + "\n" for record in history)
        write_whole(self._history_file, lines)
        seconds = sum(record["seconds"] for record in history)
        self._checkpoints.save(TrainingState(done, loss, seconds))
        kinds = {"loss": "train", "val_loss": "validation"}
        records = [
            LossRecord(kind, int(record["epoch"]), record[name])
            for record in history
            for name, kind in kinds.items()
            if name in record
        ]
        write_loss_picture(
            self._directory.picture, records=records, x_label="epoch", y_label="loss"
        )

    def _is_over(self, history: list[dict[str, float]]) -> bool:
        """Returns whether so many epochs brought nothing better that it is enough."""
        losses = [r["val_loss"] for r in history if "val_loss" in r]
        if self._config.patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= self._config.patience

    def _show(self, record: dict[str, float], writer: Any) -> None:
        names = [name for name in record if name not in ("epoch", "seconds")]
        shown = "  ".join(f"{name} {record[name]:.4f}" for name in names)
        self._progress(
            f"epoch {record['epoch']}/{self._config.epochs}  {shown}  "
            f"{record['seconds']:.1f} s"
        )
        with writer.as_default(step=int(record["epoch"])):
            for name in names:
                tf.summary.scalar(name, record[name])


def _rows(task: Any, examples: tuple[Any, Any]) -> tf.data.Dataset:
    """Returns the rows of examples, tokenized once and then held in memory."""
    cut_texts = CutTexts(task.preprocessor)
    rows = task.tokenized(*examples).cache()
    with plain_errors():
        count = rows.reduce(np.int64(0), lambda count, *_: count + 1)
    cut_texts.warn()
    return rows.apply(tf.data.experimental.assert_cardinality(count))


def _compile(task: Any, count: int, config: FinetuneConfig) -> None:
    steps = config.epochs * math.ceil(count / config.batch_size)
    optimizer = keras.optimizers.AdamW(
        WarmupLinear(
            config.learning_rate,
            total_steps=steps,
            warmup_steps=min(int(config.warmup_share * steps), steps - 1),
        ),
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
        epsilon=EPSILON,
        name="adamw",  # checkpoints name its variables by it
    )
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in task.trainable_variables if not is_decayed(v)]
    )
    if config.layer_decay < 1.0:
        optimizer = layerwise_optimizer(optimizer, model=task, decay=config.layer_decay)
    optimizer.build(task.trainable_variables)
    jit_compile = config.jit_compile
    if jit_compile == "auto":
        jit_compile = task.distribute_strategy.num_replicas_in_sync == 1
    task.compile(
        optimizer,
        accumulate=config.accumulate,
        auxiliary_lm_weight=config.auxiliary_lm_weight,
        seed=config.seed,
        jit_compile=jit_compile,
    )


def _read_history(path: str) -> list[dict[str, float]]:
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []
