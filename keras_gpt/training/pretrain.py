"""Pretraining from text files or prepared shards to a saved model, resumable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.data import (
    CorpusData,
    PackedDataset,
    ShardData,
    TrainingData,
    encode_corpus,
    read_text_files,
)
from keras_gpt.models import GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.tokenizer import tokenizer_identity
from keras_gpt.training.pretrain_config import PretrainConfig
from keras_gpt.training.run_directory import RunDirectory
from keras_gpt.training.strategy import Strategy, barrier, is_chief, make_strategy
from keras_gpt.training.train_loop import TrainLoop, build_backbone
from keras_gpt.whole_files import TEMPORARY, flush_directory, write_whole

Paths = Sequence[str | os.PathLike[str]]


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
    corpus_paths: Paths | None = None,
    dataset: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    output_dir: str | os.PathLike[str],
    strategy: Strategy | None = None,
    progress: Callable[[str], Any] = print,
) -> PretrainResult:
    """Trains a model, or goes on where the same run was stopped.

    `output_dir` gets `run.json` (what the run is), `checkpoints/`, `losses.jsonl`,
    `logs/` (TensorBoard), `loss.png`, `model/` (preset directory) and, last of all,
    `report.json`. Each evaluation sees the same `eval_batches` of the held-out part,
    the last one then all of it. Called again with the same arguments, an unfinished
    run resumes from its newest checkpoint, with the same losses as if never stopped,
    on any strategy; a finished one is loaded and returned.

    Where several workers train together, each calls this with the same arguments and
    a directory that all of them see.

    Args:
        config: `PretrainConfig`.
        corpus_paths: list of UTF-8 text files, a document each.
        dataset: path. A directory of `keras-gpt prepare_data`, in place of
            `corpus_paths`.
        tokenizer: `GPTTokenizer`, of at most the model's vocabulary size. With
            `dataset`, defaults to its own.
        output_dir: path. Missing, empty, or of the same run.
        strategy: from `make_strategy`. Defaults to one device.
        progress: function of one line of text. Defaults to `print`.

    Returns:
        A `PretrainResult`.

    Raises:
        ValueError: if the corpus, the tokenizer or the directory does not fit, the
            run goes on elsewhere, or the loss diverges (`DivergenceError`).
        OSError: if a file cannot be written (`CheckpointError` for a checkpoint; the
            last good one stays), or another worker is lost (`WorkerLostError`).
    """
    strategy = strategy or make_strategy("one_device")
    data, tokenizer = _data(config, corpus_paths, dataset, tokenizer)
    chief = is_chief(strategy)
    with RunDirectory(
        os.fspath(output_dir),
        identity={
            "config": config.to_dict(),
            "corpus": {"sha256": data.checksum()},
            "tokenizer": tokenizer_identity(tokenizer),
        },
        writes=chief,
    ) as directory:
        report = directory.report()
        if report is not None:
            progress(f"{directory.path} holds this run, finished.")
            model = GPTCausalLM.from_preset(directory.model)
            return PretrainResult(model, report, directory.path)
        loop = TrainLoop(
            config,
            data=data,
            strategy=strategy,
            directory=directory,
            progress=progress,
            write_samples=_sampler(config, tokenizer) if config.sample_tokens else None,
        )
        loop.train()
        model = _plain_model(config, tokenizer)
        model.backbone.set_weights(loop.weights())
        files = [os.fspath(path) for path in corpus_paths or [dataset or ""]]
        report = _report(config, data=data, files=files, loop=loop)
        if chief:
            _save_model(model, directory.model)
            write_whole(directory.report_file, json.dumps(report, indent=2) + "\n")
        barrier(strategy)  # nobody leaves while the chief still writes
        return PretrainResult(model, report, directory.path)


def _data(
    config: PretrainConfig,
    paths: Paths | None,
    dataset: str | os.PathLike[str] | None,
    tokenizer: Any,
) -> tuple[TrainingData, Any]:
    if (paths is None) == (dataset is None):
        raise ValueError(
            "corpus_paths or dataset must be given, and not both, got "
            f"{paths!r} and {dataset!r}."
        )
    if dataset is not None:
        return _shards(config, PackedDataset(dataset), tokenizer)
    if tokenizer is None:
        raise ValueError("tokenizer must be given with corpus_paths, got None.")
    size = int(tokenizer.vocabulary_size())
    if size > config.model.vocabulary_size:
        raise ValueError(
            f"tokenizer must have at most the model's vocabulary_size = "
            f"{config.model.vocabulary_size} tokens, got {size}."
        )
    corpus = encode_corpus(
        read_text_files(paths),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        validation_fraction=config.validation_fraction,
    )
    data = CorpusData(
        corpus,
        context_length=config.context_length,  # type: ignore[arg-type]
        vocabulary_size=size,
    )
    return data, tokenizer


def _shards(
    config: PretrainConfig, dataset: PackedDataset, tokenizer: Any
) -> tuple[TrainingData, Any]:
    if tokenizer is None:
        tokenizer = dataset.tokenizer()
    dataset.check_tokenizer(tokenizer)
    if dataset.context_length != config.context_length:
        raise ValueError(
            f"context_length must be that of the dataset = {dataset.context_length}, "
            f"got {config.context_length}."
        )
    if dataset.vocabulary_size > config.model.vocabulary_size:
        raise ValueError(
            f"vocabulary_size of the model must be at least the dataset's = "
            f"{dataset.vocabulary_size}, got {config.model.vocabulary_size}."
        )
    return ShardData(dataset), tokenizer


def _plain_model(config: PretrainConfig, tokenizer: Any) -> Any:
    # Outside the strategy's scope: an optimizer made for it elsewhere would refuse
    # variables of the scope.
    preprocessor = GPTCausalLMPreprocessor(
        tokenizer,
        sequence_length=config.context_length,  # type: ignore[arg-type]
    )
    return GPTCausalLM(backbone=build_backbone(config), preprocessor=preprocessor)


def _sampler(
    config: PretrainConfig, tokenizer: Any
) -> Callable[[list[np.ndarray]], str]:
    """Returns a function of a network's weights to a text that it writes."""
    models: list[Any] = []  # made when first needed, then kept with its trace
    has_end = tokenizer.end_token_id is not None
    prompt = "" if has_end else np.asarray(tokenizer.detokenize([0])).item().decode()

    def write(weights: list[np.ndarray]) -> str:
        if not models:
            models.append(_plain_model(config, tokenizer))
        models[0].backbone.set_weights(weights)
        return models[0].generate(
            prompt, max_new_tokens=config.sample_tokens, temperature=0.8, seed=0
        )

    return write


def _save_model(model: Any, path: str) -> None:
    temporary = os.path.join(os.path.dirname(path), f"{TEMPORARY}model")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_to_preset(temporary)
    flush_directory(temporary)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)


def _report(
    config: PretrainConfig, *, data: TrainingData, files: list[str], loop: TrainLoop
) -> dict[str, Any]:
    train = [record.loss for record in loop.history.of("train")]
    sampled = [record.loss for record in loop.history.of("validation")]
    (whole,) = (record.loss for record in loop.history.of("final"))
    sizes = data.sizes
    predicted = sizes["validation_tokens"]
    validation_bytes = sizes["validation_bytes"]
    return {
        "corpus": {"files": files, **sizes},
        "parameters": int(loop.backbone.count_params()),
        "steps": loop.step,
        "stopped_early": loop.stopped_early,
        "tokens_per_second": _rounded(loop.speed.tokens_per_second, 1),
        "peak_share": _rounded(loop.peak_share, 4),
        "data_wait": _rounded(loop.speed.data_wait, 4),
        "seconds": round(loop.seconds, 1),
        "train_loss": _with_bytes(
            {"first": train[0], "best": min(train), "final": train[-1]},
            tokens=sizes["train_tokens"],
            num_bytes=sizes["train_bytes"],
        ),
        # The first and the best over the sample, the final one over the whole part.
        "validation_loss": _with_bytes(
            {"first": sampled[0], "best": min(sampled), "final": whole},
            tokens=predicted,
            num_bytes=validation_bytes,
        ),
        "validation_perplexity": {
            "per_token": float(np.exp(whole)),
            "per_byte": float(np.exp(whole * predicted / validation_bytes)),
        },
        "seed": config.seed,
        "config": config.to_dict(),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _with_bytes(
    losses: dict[str, float], *, tokens: int, num_bytes: int
) -> dict[str, float]:
    per_byte = {
        f"{name}_per_byte": loss * tokens / num_bytes for name, loss in losses.items()
    }
    return {**losses, **per_byte}
