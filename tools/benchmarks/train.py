"""Tokens per second of a training step, beside the same step in torch eager."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools.benchmarks import own_process

# Architecture overrides, context and batch of each measured step.
CONFIGS: dict[str, dict[str, Any]] = {
    "char": {"size": "gpt_char", "context": 64, "batch": 12},
    "124m": {"size": "gpt2_small", "context": 256, "batch": 1},
}
LEARNING_RATE = 1e-3
BETA_2 = 0.99
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Measures each side in processes of their own, in turn, and prints a table.

    Returns:
        For each config, the tokens/s of each round of each side, their medians, and
        beside a peer the median of the rounds' ratios.
    """
    sides = ["keras_gpt"]
    if importlib.util.find_spec("torch"):
        sides.append("torch")
    else:
        print("train: torch is not installed (pip install 'keras-gpt[bench]'): no peer")
    results = {}
    for name in CONFIGS if flags.config == "all" else [flags.config]:
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(flags.rounds):
            for side in sides:
                speeds[side].append(_in_own_process(side, name, flags.seconds))
        results[name] = summary(speeds)
        _print(name, results[name])
    return results


def summary(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Returns rounds and medians per side, and the median of the rounds' ratios."""
    medians = {side: statistics.median(rounds) for side, rounds in speeds.items()}
    result: dict[str, Any] = {"tokens_per_second": medians, "rounds": speeds}
    if "torch" in speeds:
        pairs = zip(speeds["keras_gpt"], speeds["torch"], strict=True)
        result["ratio"] = statistics.median(ours / peer for ours, peer in pairs)
    return result


def _print(name: str, result: dict[str, Any]) -> None:
    config, speeds = CONFIGS[name], result["tokens_per_second"]
    print(
        f"train {name}: context {config['context']}, batch {config['batch']}, float32"
    )
    print(f"  keras_gpt    {speeds['keras_gpt']:10,.0f} tokens/s")
    if "torch" in speeds:
        print(
            f"  torch eager  {speeds['torch']:10,.0f} tokens/s   "
            f"ours {result['ratio']:.2f}x",
            flush=True,
        )


def _in_own_process(side: str, name: str, seconds: float) -> float:
    module = "keras_gpt.tools.benchmarks.train"
    return own_process.measured(["-m", module, side, name, str(seconds)], name=side)


def _tokens_per_second(
    step: Callable[[], Any], *, tokens: int, seconds: float
) -> float:
    """Runs steps for at least `seconds`, after three to warm up."""
    for _ in range(3):
        step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(2):
            result = step()
        float(result)  # waits for the device
        count += 2
    return count * tokens / (time.perf_counter() - started)


def _keras_gpt_step(name: str) -> Callable[[], Any]:
    import numpy as np
    import tensorflow as tf

    from keras_gpt import GPTBackbone
    from keras_gpt.data import ExampleBatch
    from keras_gpt.training import make_train_step, training_optimizer

    config = CONFIGS[name]
    backbone = GPTBackbone.from_size(
        config["size"], max_sequence_length=config["context"], dropout=0.0
    )
    optimizer = training_optimizer(
        backbone.trainable_variables,
        learning_rate=LEARNING_RATE,
        beta_2=BETA_2,
        weight_decay=WEIGHT_DECAY,
    )
    train = make_train_step(backbone, optimizer=optimizer, clip_norm=CLIP_NORM)
    shape = (config["batch"], config["context"] + 1)
    vocabulary_size = backbone.config.vocabulary_size
    ids = np.random.default_rng(0).integers(0, vocabulary_size, shape)
    windows = tf.constant(ids, tf.int32)
    return lambda: train(ExampleBatch(windows)).loss


def _torch_step(name: str) -> Callable[[], Any]:
    from keras_gpt.tools.benchmarks import torch_gpt

    config = CONFIGS[name]
    return torch_gpt.train_step(
        config["size"],
        batch_size=config["batch"],
        context_length=config["context"],
        learning_rate=LEARNING_RATE,
        beta_2=BETA_2,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
    )


def main() -> None:
    """Measures one side: `python -m ... SIDE CONFIG SECONDS`."""
    side, name, seconds = sys.argv[1:]
    step = {"keras_gpt": _keras_gpt_step, "torch": _torch_step}[side](name)
    tokens = CONFIGS[name]["batch"] * CONFIGS[name]["context"]
    speed = _tokens_per_second(step, tokens=tokens, seconds=float(seconds))
    print(json.dumps(speed))


if __name__ == "__main__":
    main()
