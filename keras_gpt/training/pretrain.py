"""Pretraining from text files to a saved model, resumable at any moment."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_gpt.data import (
    EvaluationBatch,
    TokenCorpus,
    encode_corpus,
    evaluation_batches,
    read_text_files,
    training_dataset,
)
from keras_gpt.data.windows import num_training_windows
from keras_gpt.models import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.training.checkpointing import (
    CheckpointManager,
    TrainingState,
    flush_directory,
    named_variables,
    write_whole,
)
from keras_gpt.training.optimizers import training_optimizer
from keras_gpt.training.pretrain_config import PretrainConfig
from keras_gpt.training.progress import evaluation_line, training_line
from keras_gpt.training.reporting import (
    LossHistory,
    LossRecord,
    ScalarLog,
    write_loss_picture,
)
from keras_gpt.training.run_directory import RunDirectory, tokenizer_identity
from keras_gpt.training.schedules import WarmupCosine
from keras_gpt.training.step import StepMetrics, make_eval_step, make_train_step
from keras_gpt.training.strategy import make_strategy


class DivergenceError(ValueError):
    """The loss became infinite or no number."""


class PretrainResult(NamedTuple):
    """What a finished run leaves.

    Attributes:
        model: `GPTCausalLM`, trained, outside any strategy.
        report: dict. The content of `report.json`.
        output_dir: string.
    """

    model: Any
    report: dict[str, Any]
    output_dir: str


def pretrain(
    config: PretrainConfig,
    *,
    corpus_paths: Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    output_dir: str | os.PathLike[str],
    progress: Callable[[str], Any] = print,
) -> PretrainResult:
    """Trains a model on text files, or goes on where the same run was stopped.

    `output_dir` gets `run.json` (what the run is), `checkpoints/`, `losses.jsonl`,
    `logs/` (TensorBoard), `loss.png`, `model/` (preset directory) and, last of all,
    `report.json`. Each evaluation sees the same `eval_batches` of the held-out part,
    the last one then all of it. Called again with the same arguments, an unfinished
    run resumes from its newest checkpoint, with the same losses as if never stopped;
    a finished one is loaded and returned.

    Args:
        config: `PretrainConfig`.
        corpus_paths: list of UTF-8 text files, a document each.
        tokenizer: `GPTTokenizer`, of at most the model's vocabulary size.
        output_dir: path. Missing, empty, or of the same run.
        progress: function of one line of text. Defaults to `print`.

    Returns:
        A `PretrainResult`.

    Raises:
        ValueError: if the corpus, the tokenizer or the directory does not fit, the
            run goes on elsewhere, or the loss diverges (`DivergenceError`).
        OSError: if a file cannot be written (`CheckpointError` for a checkpoint;
            the last good one stays).
    """
    corpus = _load_corpus(config, corpus_paths, tokenizer)
    with RunDirectory(
        os.fspath(output_dir),
        identity={
            "config": config.to_dict(),
            "corpus": {"sha256": corpus.checksum()},
            "tokenizer": tokenizer_identity(tokenizer),
        },
    ) as directory:
        report = directory.report()
        if report is not None:
            progress(f"{directory.path} holds this run, finished.")
            model = GPTCausalLM.from_preset(directory.model)
            return PretrainResult(model, report, directory.path)
        run = _Run(config, corpus=corpus, directory=directory, progress=progress)
        run.train()
        model = _plain_model(config, run.backbone, tokenizer)
        _save_model(model, directory.model)
        report = _report(config, corpus=corpus, corpus_paths=corpus_paths, run=run)
        write_whole(directory.report_file, json.dumps(report, indent=2) + "\n")
        return PretrainResult(model, report, directory.path)


class _Run:
    """The state of a run between its first and last step."""

    def __init__(
        self,
        config: PretrainConfig,
        *,
        corpus: TokenCorpus,
        directory: RunDirectory,
        progress: Callable[[str], Any],
    ) -> None:
        self._config = config
        self._corpus = corpus
        self._directory = directory
        self._progress = progress
        self._strategy = make_strategy(config.strategy)
        self._schedule = WarmupCosine(
            config.learning_rate,
            minimum=config.min_learning_rate or 0.0,
            warmup_steps=config.warmup_steps,
            total_steps=config.steps,
        )
        keras.utils.set_random_seed(config.seed)
        with self._strategy.scope():
            self.backbone = _backbone(config)
            self._optimizer = training_optimizer(
                self.backbone.trainable_variables,
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
        )
        state = self._checkpoints.restore()
        self.step = state.step if state else 0
        self._seconds_before = state.seconds if state else 0.0
        self._started = time.monotonic()
        self.history = LossHistory(
            directory.losses, last_step=self.step if state else -1
        )
        if state:
            progress(f"Resuming {directory.path} at step {self.step}.")
        self._speed = _Speed(config.tokens_per_step)
        self._pending: list[StepMetrics] = []
        self._eval_sample: list[EvaluationBatch] | None = None

    @property
    def seconds(self) -> float:
        """Time spent in this run, the part before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def tokens_per_second(self) -> float | None:
        """Training speed, without compilation, evaluation and writing."""
        return self._speed.tokens_per_second

    def train(self) -> None:
        """Runs the steps that are left."""
        config = self._config
        self._scalars = ScalarLog(self._directory.logs)
        self._eval_step = make_eval_step(
            self.backbone, strategy=self._strategy, jit_compile=config.jit_compile
        )
        train_step = make_train_step(
            self.backbone,
            optimizer=self._optimizer,
            strategy=self._strategy,
            clip_norm=config.clip_norm,
            jit_compile=config.jit_compile,
        )
        try:
            if self.step == 0:
                self._evaluate()
            self._speed.pause()
            for windows in self._batches():
                self._pending.append(train_step(windows))
                self.step += 1
                self._speed.count(self._pending[-1].loss)
                self._after_step()
        finally:
            self._scalars.close()
        self._draw()

    def _batches(self) -> Iterable[tf.Tensor]:
        if self.step == self._config.steps:
            return []
        dataset = training_dataset(
            self._corpus.train,
            seed=self._config.seed,
            batch_size=self._config.batch_size,
            context_length=self._config.context_length,  # type: ignore[arg-type]
            start_step=self.step,
        ).take(self._config.steps - self.step)
        return self._strategy.experimental_distribute_dataset(dataset)

    def _after_step(self) -> None:
        config, step = self._config, self.step
        last = step == config.steps
        evaluates = last or step % config.eval_every == 0
        saves = last or step % config.checkpoint_every == 0
        # Logging before a checkpoint makes each record a function of the steps
        # since the last one, resumed or not; and no diverged state is saved.
        if step % config.log_every == 0 or evaluates or saves:
            self._log()
        loss = self._evaluate() if evaluates else None
        if saves:
            self.history.flush()
            self._checkpoints.save(TrainingState(step, loss, self.seconds))
        if evaluates:
            self._draw()
        if evaluates or saves:
            self._speed.pause()

    def _log(self) -> None:
        losses = np.array([float(metrics.loss) for metrics in self._pending])
        norm = float(self._pending[-1].gradient_norm)
        self._pending.clear()
        self._speed.mark()
        if not (np.isfinite(losses).all() and math.isfinite(norm)):
            bad = np.flatnonzero(~np.isfinite(losses))
            first = self.step - len(losses) + 1 + (bad[0] if len(bad) else 0)
            raise DivergenceError(
                f"Training diverged: the loss or the gradient is not finite at step "
                f"{first}. Lower learning_rate (now {self._config.learning_rate}) or "
                "clip_norm; the checkpoints before it are whole."
            )
        rate = float(self._schedule(self.step - 1))
        record = LossRecord("train", self.step, float(losses.mean()), rate, norm)
        self._record(record)
        self._progress(
            training_line(
                step=self.step,
                steps=self._config.steps,
                loss=record.loss,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=self._speed.tokens_per_second or 0.0,
                seconds_left=self._speed.seconds_for(self._config.steps - self.step),
            )
        )

    def _evaluate(self) -> float:
        """Evaluates on the sample, the same at each call; at the end on all too."""
        loss = self._mean_loss(self._sampled_batches())
        self._record(LossRecord("validation", self.step, loss))
        best = min(record.loss for record in self.history.of("validation"))
        self._progress(
            evaluation_line(
                step=self.step, steps=self._config.steps, loss=loss, best=best
            )
        )
        if self.step == self._config.steps:
            whole = self._mean_loss(self._evaluation_batches(None))
            self._record(LossRecord("final", self.step, whole))
            self._progress(f"validation loss over the whole held-out part {whole:.4f}")
        return loss

    def _mean_loss(self, batches: Iterable[EvaluationBatch]) -> float:
        total = count = 0.0
        for batch in batches:
            sums = self._eval_step(tf.constant(batch.windows), tf.constant(batch.mask))
            total += float(sums.total)
            count += float(sums.count)
        return total / count

    def _sampled_batches(self) -> list[EvaluationBatch]:
        if self._eval_sample is None:
            self._eval_sample = list(
                self._evaluation_batches(self._config.eval_batches)
            )
        return self._eval_sample

    def _evaluation_batches(self, max_batches: int | None) -> Iterable[EvaluationBatch]:
        return evaluation_batches(
            self._corpus.validation,
            batch_size=self._config.batch_size,
            context_length=self._config.context_length,  # type: ignore[arg-type]
            max_batches=max_batches,
        )

    def _record(self, record: LossRecord) -> None:
        self.history.add(record)
        self._scalars.add(record)

    def _draw(self) -> None:
        write_loss_picture(self._directory.picture, records=self.history.records)


class _Speed:
    """Tokens per second over the intervals in which nothing but training ran."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._steps = 0  # in the open interval
        self._since: float | None = None
        self._total_steps = 0
        self._total_seconds = 0.0
        self._compiled = False

    def pause(self) -> None:
        """Starts a new interval: what came before does not count."""
        self._steps = 0
        self._since = time.monotonic() if self._compiled else None

    def count(self, loss: tf.Tensor) -> None:
        """Counts a step; the first one, which compiles, only starts the clock."""
        if not self._compiled:
            float(loss)
            self._compiled = True
            self.pause()
        else:
            self._steps += 1

    def mark(self) -> None:
        """Adds the open interval to the total. Call when its steps are done."""
        if self._since is not None and self._steps:
            self._total_seconds += time.monotonic() - self._since
            self._total_steps += self._steps
        self.pause()

    @property
    def tokens_per_second(self) -> float | None:
        """Mean speed, or None before anything was measured."""
        if not self._total_steps:
            return None
        return self._total_steps * self._tokens_per_step / self._total_seconds

    def seconds_for(self, steps: int) -> float:
        """Returns how long so many steps will take."""
        speed = self.tokens_per_second
        return steps * self._tokens_per_step / speed if speed else 0.0


def _load_corpus(
    config: PretrainConfig, paths: Sequence[str | os.PathLike[str]], tokenizer: Any
) -> TokenCorpus:
    size = int(tokenizer.vocabulary_size())
    if size > config.model.vocabulary_size:
        raise ValueError(
            f"tokenizer must have at most the model's vocabulary_size = "
            f"{config.model.vocabulary_size} tokens, got {size}."
        )
    corpus = encode_corpus(
        read_text_files(paths),
        tokenizer=tokenizer,
        validation_fraction=config.validation_fraction,
    )
    num_training_windows(
        len(corpus.train),
        config.context_length,  # type: ignore[arg-type]
    )
    if len(corpus.validation) < 2:
        raise ValueError(
            "The validation part of the corpus must hold at least 2 tokens, "
            f"got {len(corpus.validation)}; raise validation_fraction (now "
            f"{config.validation_fraction}) or give more text."
        )
    return corpus


def _backbone(config: PretrainConfig) -> Any:
    return GPTBackbone(**config.model.to_dict(), dtype=config.dtype_policy)


def _plain_model(config: PretrainConfig, backbone: Any, tokenizer: Any) -> Any:
    # A copy outside the strategy's scope: an optimizer made for it elsewhere would
    # refuse variables of the scope.
    copy = _backbone(config)
    copy.set_weights(backbone.get_weights())
    preprocessor = GPTCausalLMPreprocessor(
        tokenizer,
        sequence_length=config.context_length,  # type: ignore[arg-type]
    )
    return GPTCausalLM(backbone=copy, preprocessor=preprocessor)


def _save_model(model: Any, path: str) -> None:
    temporary = os.path.join(os.path.dirname(path), ".tmp-model")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_to_preset(temporary)
    flush_directory(temporary)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)


def _report(
    config: PretrainConfig,
    *,
    corpus: TokenCorpus,
    corpus_paths: Sequence[str | os.PathLike[str]],
    run: _Run,
) -> dict[str, Any]:
    train = [record.loss for record in run.history.of("train")]
    sampled = [record.loss for record in run.history.of("validation")]
    (whole,) = (record.loss for record in run.history.of("final"))
    # Of N tokens all but the first are predicted.
    predicted = len(corpus.validation) - 1
    speed = run.tokens_per_second
    return {
        "corpus": {
            "files": [os.fspath(path) for path in corpus_paths],
            "sha256": corpus.checksum(),
            "train_tokens": len(corpus.train),
            "train_bytes": corpus.train_bytes,
            "validation_tokens": len(corpus.validation),
            "validation_bytes": corpus.validation_bytes,
        },
        "parameters": int(run.backbone.count_params()),
        "steps": run.step,
        "tokens_per_second": round(speed, 1) if speed else None,
        "seconds": round(run.seconds, 1),
        "train_loss": _with_bytes(
            {"first": train[0], "best": min(train), "final": train[-1]},
            tokens=len(corpus.train),
            num_bytes=corpus.train_bytes,
        ),
        # The first and the best over the sample, the final one over the whole part.
        "validation_loss": _with_bytes(
            {"first": sampled[0], "best": min(sampled), "final": whole},
            tokens=predicted,
            num_bytes=corpus.validation_bytes,
        ),
        "seed": config.seed,
        "config": config.to_dict(),
    }


def _with_bytes(
    losses: dict[str, float], *, tokens: int, num_bytes: int
) -> dict[str, float]:
    per_byte = {
        f"{name}_per_byte": loss * tokens / num_bytes for name, loss in losses.items()
    }
    return {**losses, **per_byte}
