"""A GPT beside an LSTM of as many weights, trained for the same time on a text."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import inputs
from keras_gpt.tools.benchmarks import own_process

MODELS = ("gpt", "lstm")
VOCABULARY_SIZE = 8192
CONTEXT_LENGTH = 128
BATCH_SIZE = 16
GPT = {"num_layers": 6, "num_heads": 4, "hidden_dim": 256, "dropout": 0.1}
LEARNING_RATES = {"gpt": 1e-3, "lstm": 3e-3}
MEASURED_STEPS = 20
WARMUP_SHARE = 0.05


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Trains both models, one after the other, and prints their perplexities."""
    if not (flags.input and flags.validation):
        print("language_models: needs --input and --validation, text files: left out")
        return {}
    job = {
        "train": str(inputs.text_paths([flags.input])[0]),
        "validation": str(inputs.text_paths([flags.validation])[0]),
        "minutes": flags.minutes,
    }
    print(
        f"language_models: {flags.minutes:g} minutes of training each; perplexity over "
        "the whole validation text"
    )
    results = {}
    for model in MODELS:
        arguments = ["-m", "keras_gpt.tools.benchmarks.language_models"]
        results[model] = own_process.measured(
            arguments, name=model, job={**job, "model": model}
        )
        print(_line(model, results[model]), flush=True)
    return results


def _line(model: str, found: dict[str, Any]) -> str:
    return (
        f"  {model:4}  {found['parameters']:,} weights, {found['tokens']:,} tokens "
        f"seen in {found['minutes']:.1f} minutes: {found['per_word']:.1f} per word, "
        f"{found['per_token']:.2f} per token, {found['per_byte']:.3f} per byte"
    )


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains one model for its time; returns its sizes and perplexities.

    The number of steps is set beforehand (`steps_within`), so that the learning rate
    comes down when the time is over. Words are what white space separates, and
    ends of lines, as WikiText counts them (Merity et al. 2016).
    """
    import keras

    from keras_gpt.data import CorpusData, TokenCorpus, encode_text, read_text_files
    from keras_gpt.tokenizer import train_tokenizer
    from keras_gpt.training import (
        WarmupCosine,
        make_eval_step,
        make_train_step,
        training_optimizer,
    )

    tokenizer = train_tokenizer([Path(job["train"])], vocabulary_size=VOCABULARY_SIZE)
    texts = read_text_files([job["train"], job["validation"]])
    train_ids, ids = (encode_text(text, tokenizer=tokenizer) for text in texts)
    train_bytes, num_bytes = (len(text.encode("utf-8")) for text in texts)
    data = CorpusData(
        TokenCorpus(train_ids, ids, train_bytes, num_bytes),
        context_length=CONTEXT_LENGTH,
        vocabulary_size=tokenizer.vocabulary_size(),
    )

    def trainer(steps: int) -> tuple[Any, Callable[[Any], Any]]:
        keras.utils.set_random_seed(0)
        model = _model(job["model"], tokenizer.vocabulary_size())
        schedule = WarmupCosine(
            LEARNING_RATES[job["model"]],
            total_steps=steps,
            warmup_steps=int(WARMUP_SHARE * steps),
        )
        optimizer = training_optimizer(
            model.trainable_variables, learning_rate=schedule
        )
        return model, make_train_step(model, optimizer=optimizer)

    def batches() -> Any:
        return data.training_batches(
            seed=0, batch_size=BATCH_SIZE, start_step=0, rows=(0, BATCH_SIZE)
        )

    _, step = trainer(2 * MEASURED_STEPS)
    steps = steps_within(job["minutes"] * 60, step=step, batches=batches())
    model, step = trainer(steps)
    started = time.monotonic()
    for _, batch in zip(range(steps), batches(), strict=False):
        loss = step(batch).loss
    float(loss)
    trained = time.monotonic() - started
    score = make_eval_step(model)
    total = 0.0
    for batch in data.evaluation_batches(batch_size=BATCH_SIZE):
        total += float(score(batch).total)
    words = len(texts[1].split()) + texts[1].count("\n")
    return {
        "parameters": int(model.count_params()),
        "steps": steps,
        "tokens": steps * BATCH_SIZE * CONTEXT_LENGTH,
        "minutes": trained / 60,
        "per_word": math.exp(total / words),
        "per_token": math.exp(total / (len(ids) - 1)),
        "per_byte": math.exp(total / num_bytes),
    }


def steps_within(
    seconds: float,
    *,
    step: Callable[[Any], Any],
    batches: Iterator[Any],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Returns how many steps fit into `seconds`, at least one.

    Args:
        seconds: The time of a training run, with its compilation.
        step: One step of training, not compiled yet: it is called
            1 + `MEASURED_STEPS` times.
        batches: What it is called with.
        clock: Seconds since any moment.
    """
    started = clock()
    float(step(next(batches)).loss)
    compilation = clock() - started  # the run itself compiles its step again
    started = clock()
    for _ in range(MEASURED_STEPS):
        float(step(next(batches)).loss)
    per_step = (clock() - started) / MEASURED_STEPS
    return max(int((seconds - compilation) / per_step), 1)


def _model(name: str, vocabulary_size: int) -> Any:
    from keras_gpt import GPTBackbone
    from keras_gpt.baselines import LSTMLanguageModel
    from keras_gpt.config import GPTConfig

    config = GPTConfig.named(
        "gpt2_small",
        vocabulary_size=vocabulary_size,
        max_sequence_length=CONTEXT_LENGTH,
        **GPT,
    )
    if name == "gpt":
        return GPTBackbone(**config.to_dict())
    return LSTMLanguageModel.from_num_parameters(
        config.num_parameters, vocabulary_size=vocabulary_size, dropout=config.dropout
    )


if __name__ == "__main__":
    import sys

    print(json.dumps(train(json.load(sys.stdin))))
