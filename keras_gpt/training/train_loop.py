"""The loop of a pretraining run, between its first and its last step."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_gpt.data import ExampleBatch, TrainingData
from keras_gpt.losses import DivergenceError
from keras_gpt.models import GPTBackbone
from keras_gpt.training.checkpointing import (
    CheckpointManager,
    TrainingState,
    named_variables,
)
from keras_gpt.training.flops import training_flops_per_token
from keras_gpt.training.optimizers import training_optimizer
from keras_gpt.training.pretrain_config import PretrainConfig
from keras_gpt.training.progress import evaluation_line, training_line
from keras_gpt.training.reporting import (
    LossHistory,
    LossRecord,
    RunLog,
    write_loss_picture,
)
from keras_gpt.training.run_directory import RunDirectory
from keras_gpt.training.speed import Speed, measure_peak_flops
from keras_gpt.training.step import StepMetrics, make_eval_step, make_train_step
from keras_gpt.training.strategy import (
    Strategy,
    agree,
    is_chief,
    local_rows,
    num_devices,
    num_workers,
    read_variable,
)
from keras_gpt.whole_files import write_whole

MAX_NAMES = 4  # of a batch's examples in an error message

# What TensorFlow raises where another worker is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkerLostError(ConnectionError):
    """Another worker ended; the run goes on from its last checkpoint.

    Args:
        message: string.
        step: int. Steps done until then.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class TrainLoop:
    """Trains until the last step, from wherever the run stands.

    Args:
        config: `PretrainConfig`.
        data: `TrainingData`.
        strategy: `tf.distribute.Strategy` or `MeshStrategy`.
        directory: `RunDirectory`. Only the chief writes there.
        progress: function of one line of text.
        write_samples: function of the backbone's weights to a text, for the log.
            Optional.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        data: TrainingData,
        strategy: Strategy,
        directory: RunDirectory,
        progress: Callable[[str], Any],
        write_samples: Callable[[list[Any]], str] | None = None,
    ) -> None:
        self._config = config
        self._data = data
        self._strategy = strategy
        self._directory = directory
        self._chief = is_chief(strategy)
        self._progress = progress if self._chief else lambda line: None
        self._write_samples = write_samples if self._chief else None
        # Before anything is built: an error here costs nothing.
        self._rows = local_rows(strategy, config.batch_size)
        self._check_rows()
        self._schedule = config.learning_rate_schedule()
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.backbone = build_backbone(config)
            self._optimizer = training_optimizer(
                self.backbone.trainable_variables,
                kind=config.optimizer,
                learning_rate=self._schedule,
                beta_1=config.beta_1,
                beta_2=config.beta_2,
                weight_decay=config.weight_decay,
            )
        self._checkpoints = CheckpointManager(
            directory.checkpoints,
            # Dropout's seed states are among the model's variables.
            variables=named_variables(
                model=self.backbone.variables, optimizer=self._optimizer.variables
            ),
            keep=config.keep_checkpoints,
            read=lambda variable: read_variable(strategy, variable),
            writes=self._chief,
        )
        state = self._checkpoints.restore()
        self.step = state.step if state else 0
        self._seconds_before = state.seconds if state else 0.0
        self._started = time.monotonic()
        self.history = LossHistory(
            directory.losses, last_step=self.step if state else -1, writes=self._chief
        )
        if state:
            self._progress(f"Resuming {directory.path} at step {self.step}.")
        self.speed = Speed(config.tokens_per_step)
        self._peak_flops: float | None = None
        self._pending: list[StepMetrics] = []
        self._eval_sample: list[ExampleBatch] | None = None

    @property
    def seconds(self) -> float:
        """Time spent in this run, the part before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def peak_share(self) -> float | None:
        """Share of the devices' measured matrix-product speed that training uses."""
        speed = self.speed.tokens_per_second
        if speed is None or self._peak_flops is None:
            return None
        flops = training_flops_per_token(
            self._config.model, context_length=self._data.context_length
        )
        return speed * flops / (self._peak_flops * num_devices(self._strategy))

    @property
    def stopped_early(self) -> bool:
        """Whether the validation loss has not improved for `patience` evaluations."""
        losses = [record.loss for record in self.history.of("validation")]
        patience = self._config.patience
        if patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def weights(self) -> list[Any]:
        """Returns the values of the backbone's weights now, in its own order."""
        return [
            np.asarray(read_variable(self._strategy, variable))
            for variable in self.backbone.weights
        ]

    def train(self) -> None:
        """Runs the steps that are left.

        Raises:
            DivergenceError: if the loss or a gradient is not finite.
            WorkerLostError: if another worker ended.
            CheckpointError: if a checkpoint cannot be written.
        """
        try:
            self._train()
        except _LOST as error:
            if num_workers(self._strategy) == 1:
                raise
            raise WorkerLostError(
                f"A worker was lost near step {self.step}: "
                f"{_first_line(error)} {self._checkpoints.last_good()}",
                step=self.step,
            ) from error

    def _train(self) -> None:
        config = self._config
        if not agree(self._strategy, self.step):
            raise ValueError(
                "output_dir must be one that all workers see, but they do not all "
                f"resume at step {self.step} in {self._directory.path!r}."
            )
        self._log = RunLog(self._directory.logs) if self._chief else None
        if self._chief:
            self._peak_flops = measure_peak_flops(
                "bfloat16" if "bfloat16" in config.dtype_policy else "float32"
            )
        train_step = make_train_step(
            self.backbone,
            optimizer=self._optimizer,
            strategy=self._strategy,
            clip_norm=config.clip_norm,
            accumulate=config.accumulate,
            remat=config.remat,
            seed=config.seed,
            jit_compile=config.jit_compile,
        )
        self._eval_step = make_eval_step(
            self.backbone, strategy=self._strategy, jit_compile=config.jit_compile
        )
        try:
            if self.step == 0:
                self._evaluate()
            self.speed.pause()
            for batch in self.speed.timed(self._batches()):
                self._pending.append(train_step(batch))
                self.step += 1
                self.speed.count(self._pending[-1].loss)
                self._after_step()
                if self._ended():
                    break
            self._checkpoints.wait()
        finally:
            if self._log:
                self._log.close()
        self._draw()

    def _batches(self) -> Iterator[ExampleBatch]:
        if self._ended():
            return iter(())
        return itertools.islice(
            self._data.training_batches(
                seed=self._config.seed,
                batch_size=self._config.batch_size,
                start_step=self.step,
                rows=self._rows,
            ),
            self._config.steps - self.step,
        )

    def _ended(self) -> bool:
        return self.step == self._config.steps or self.stopped_early

    def _after_step(self) -> None:
        config, step = self._config, self.step
        evaluates = step == config.steps or step % config.eval_every == 0
        saves = step == config.steps or step % config.checkpoint_every == 0
        # Logging before a checkpoint makes each record a function of the steps
        # since the last one, resumed or not; and no diverged state is saved.
        if step % config.log_every == 0 or evaluates or saves:
            self._report_steps()
        loss = self._evaluate() if evaluates else None
        if saves or self._ended():
            self.history.flush()
            self._checkpoints.save(TrainingState(step, loss, self.seconds))
        if evaluates:
            self._draw()
        if evaluates or saves:
            self.speed.pause()

    def _report_steps(self) -> None:
        losses = np.array([float(metrics.loss) for metrics in self._pending])
        norms = np.array([float(metrics.gradient_norm) for metrics in self._pending])
        self._pending.clear()
        self.speed.mark()
        self._check_finite(losses, norms)
        rate = float(self._schedule(self.step - 1))
        record = LossRecord(
            "train", self.step, float(losses.mean()), rate, float(norms[-1])
        )
        speed = self.speed.tokens_per_second
        self._record(record, tokens_per_second=speed, peak_share=self.peak_share)
        self._progress(
            training_line(
                step=self.step,
                steps=self._config.steps,
                loss=record.loss,
                learning_rate=rate,
                gradient_norm=float(norms[-1]),
                tokens_per_second=speed or 0.0,
                peak_share=self.peak_share,
                seconds_left=self.speed.seconds_for(self._config.steps - self.step),
            )
        )

    def _check_finite(self, losses: np.ndarray, norms: np.ndarray) -> None:
        bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        if not len(bad):
            return
        step = self.step - len(losses) + 1 + int(bad[0])
        names = self._data.example_names(
            step - 1, seed=self._config.seed, batch_size=self._config.batch_size
        )
        shown = "; ".join(names[:MAX_NAMES])
        if len(names) > MAX_NAMES:
            shown += f"; and {len(names) - MAX_NAMES} more"
        if self._chief:
            found = {
                "step": step,
                "loss": repr(float(losses[bad[0]])),
                "gradient_norm": repr(float(norms[bad[0]])),
                "examples": names,
            }
            write_whole(self._directory.divergence, json.dumps(found, indent=2) + "\n")
        self._checkpoints.wait()
        file = os.path.basename(self._directory.divergence)
        raise DivergenceError(
            "Training diverged: the loss or the gradient is not finite at step "
            f"{step}, on {shown} (all in {file}). "
            f"Lower learning_rate (now {self._config.learning_rate}) or clip_norm. "
            f"{self._checkpoints.last_good()}"
        )

    def _evaluate(self) -> float:
        """Evaluates on the sample, the same at each call; at the end on all too."""
        loss = self._mean_loss(self._sampled_batches())
        self._record(LossRecord("validation", self.step, loss))
        best = min(record.loss for record in self.history.of("validation"))
        config = self._config
        self._progress(
            evaluation_line(step=self.step, steps=config.steps, loss=loss, best=best)
        )
        if self.stopped_early:
            self._progress(
                f"No better validation loss in {config.patience} evaluations: stopping."
            )
        if self._ended():
            whole = self._mean_loss(self._evaluation_batches(None))
            self._record(LossRecord("final", self.step, whole))
            self._progress(f"validation loss over the whole held-out part {whole:.4f}")
        if self._write_samples and self._log:
            self._log.add_text(self._write_samples(self.weights()), step=self.step)
        return loss

    def _mean_loss(self, batches: Iterable[ExampleBatch]) -> float:
        total = count = 0.0
        first, number = self._rows
        for batch in batches:
            mine = batch.map(lambda field: field[first : first + number])
            sums = self._eval_step(mine)
            total += float(sums.total)
            count += float(sums.count)
        return total / count

    def _sampled_batches(self) -> list[ExampleBatch]:
        if self._eval_sample is None:
            self._eval_sample = list(
                self._evaluation_batches(self._config.eval_batches)
            )
        return self._eval_sample

    def _evaluation_batches(self, max_batches: int | None) -> Iterable[ExampleBatch]:
        return self._data.evaluation_batches(
            batch_size=self._config.batch_size, max_batches=max_batches
        )

    def _record(self, record: LossRecord, **scalars: float | None) -> None:
        self.history.add(record)
        if self._log:
            self._log.add(record, **scalars)

    def _draw(self) -> None:
        if self._chief:
            write_loss_picture(self._directory.picture, records=self.history.records)

    def _check_rows(self) -> None:
        replicas = self._strategy.num_replicas_in_sync
        share = self._config.batch_size // replicas
        if share % self._config.accumulate:
            raise ValueError(
                "batch_size must be a multiple of accumulate times the number of "
                f"replicas, got {self._config.batch_size}, "
                f"{self._config.accumulate} and {replicas}."
            )


def build_backbone(config: PretrainConfig) -> Any:
    """Builds the network of a run, with new weights."""
    return GPTBackbone(**config.model.to_dict(), dtype=config.dtype_policy)


def _first_line(error: tf.errors.OpError) -> str:
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    told = [line for line in lines if "aborted" in line or "unhealthy" in line]
    return ((told or lines or [type(error).__name__])[0])[:300].rstrip(".") + "."
