"""Tokens per second of a training step, beside the same step in torch.

Also its share of the machine's matrix-product speed, and with `--variants` what each
choice of the step is worth.
"""

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
STEPS_PER_CALL = 8


PEERS = {"torch": "torch eager", "torch_compile": "torch.compile"}
# What is changed, and in which direction the step itself decided.
VARIANTS = {
    "no_xla": "without XLA",
    "one_hot": "embedding by a one-hot product in place of a gather",
    "unfused": "queries, keys and values by three products in place of one",
    "steps_8": "8 steps a call in place of 1",
    "bfloat16": "mixed_bfloat16",
    "remat": "blocks computed again in the backward pass",
}


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Measures each side in processes of their own, in turn, and prints a table.

    Returns:
        For each config, the tokens/s of each round of each side, their medians,
        beside a peer the median of the rounds' ratios, and the share of the peak.
    """
    sides = ["keras_gpt"]
    if flags.variants:
        sides += VARIANTS
    elif importlib.util.find_spec("torch"):
        sides += PEERS
    else:
        print("train: torch is not installed (pip install 'keras-gpt[bench]'): no peer")
    results = {}
    for name in CONFIGS if flags.config == "all" else [flags.config]:
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        peaks = []
        for _ in range(flags.rounds):
            for side in sides:
                speeds[side].append(_in_own_process(side, name, flags.seconds))
            peaks.append(_in_own_process("peak", name, flags.seconds))
        results[name] = summary(speeds)
        results[name]["peak_flops"] = statistics.median(peaks)
        results[name]["peak_share"] = (
            results[name]["tokens_per_second"]["keras_gpt"]
            * _flops_per_token(name)
            / results[name]["peak_flops"]
        )
        _print(name, results[name])
    return results


def summary(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Returns rounds and medians per side, and the medians of the rounds' ratios."""
    ours = speeds["keras_gpt"]
    return {
        "tokens_per_second": {
            side: statistics.median(rounds) for side, rounds in speeds.items()
        },
        "rounds": speeds,
        "ratios": {
            side: statistics.median(a / b for a, b in zip(ours, rounds, strict=True))
            for side, rounds in speeds.items()
            if side != "keras_gpt"
        },
    }


def _print(name: str, result: dict[str, Any]) -> None:
    config, speeds = CONFIGS[name], result["tokens_per_second"]
    print(
        f"train {name}: context {config['context']}, batch {config['batch']}, float32"
    )
    print(
        f"  keras_gpt      {speeds['keras_gpt']:10,.0f} tokens/s   "
        f"{result['peak_share']:.0%} of {result['peak_flops'] / 1e9:.0f} GFLOP/s, the "
        "speed of matrix products"
    )
    for side, ratio in result["ratios"].items():
        if side in PEERS:
            print(
                f"  {PEERS[side]:13}  {speeds[side]:10,.0f} tokens/s   "
                f"ours {ratio:.2f}x"
            )
        else:
            print(f"  {1 / ratio:.2f}x  {VARIANTS[side]}", flush=True)


def _flops_per_token(name: str) -> int:
    from keras_gpt.config import GPTConfig
    from keras_gpt.training.flops import training_flops_per_token

    config = GPTConfig.named(CONFIGS[name]["size"])
    return training_flops_per_token(config, CONFIGS[name]["context"])


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


def _keras_gpt_step(name: str, variant: str = "") -> Callable[[], Any]:
    import numpy as np
    import tensorflow as tf

    from keras_gpt import GPTBackbone
    from keras_gpt.data import ExampleBatch
    from keras_gpt.training import make_train_step, training_optimizer

    config = CONFIGS[name]
    backbone = GPTBackbone.from_size(
        config["size"],
        max_sequence_length=config["context"],
        dropout=0.0,
        dtype="mixed_bfloat16" if variant == "bfloat16" else "float32",
    )
    if variant == "one_hot":
        backbone.token_embedding = _OneHotEmbedding(backbone.token_embedding)
    if variant == "unfused":
        for block in backbone.transformer_layers:
            block.attention.query_key_value = _ThreeProducts(
                block.attention.query_key_value
            )
    optimizer = training_optimizer(
        backbone.trainable_variables,
        learning_rate=LEARNING_RATE,
        beta_2=BETA_2,
        weight_decay=WEIGHT_DECAY,
    )
    train = make_train_step(
        backbone,
        optimizer=optimizer,
        clip_norm=CLIP_NORM,
        jit_compile=variant != "no_xla",
        remat=variant == "remat",
    )
    shape = (config["batch"], config["context"] + 1)
    vocabulary_size = backbone.config.vocabulary_size
    ids = np.random.default_rng(0).integers(0, vocabulary_size, shape)
    batch = ExampleBatch(tf.constant(ids, tf.int32))
    if variant != "steps_8":
        return lambda: train(batch).loss

    @tf.function(jit_compile=True)
    def several() -> Any:
        return [train(batch).loss for _ in range(STEPS_PER_CALL)][-1]

    return several


class _OneHotEmbedding:
    """A token embedding that multiplies one-hot rows with the table."""

    def __init__(self, embedding: Any) -> None:
        self._embedding = embedding

    def __call__(self, inputs: Any, reverse: bool = False) -> Any:
        import tensorflow as tf

        if reverse:
            return self._embedding(inputs, reverse=True)
        table = tf.convert_to_tensor(self._embedding.embeddings)
        return tf.matmul(tf.one_hot(inputs, table.shape[0]), table)


class _ThreeProducts:
    """A projection to queries, keys and values, each multiplied by itself."""

    def __init__(self, dense: Any) -> None:
        self._dense = dense

    def __call__(self, rows: Any, **_: Any) -> Any:
        import tensorflow as tf

        kernels = tf.split(tf.convert_to_tensor(self._dense.kernel), 3, axis=1)
        outputs = tf.concat([tf.matmul(rows, kernel) for kernel in kernels], axis=1)
        bias = self._dense.bias
        return outputs if bias is None else outputs + tf.convert_to_tensor(bias)


def _torch_step(name: str, *, compiled: bool) -> Callable[[], Any]:
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
        compiled=compiled,
    )


def main() -> None:
    """Measures one side: `python -m ... SIDE CONFIG SECONDS`."""
    side, name, seconds = sys.argv[1:]
    if side == "peak":
        from keras_gpt.training.speed import measure_peak_flops

        print(json.dumps(measure_peak_flops()))
        return
    if side in PEERS:
        step = _torch_step(name, compiled=side == "torch_compile")
    else:
        step = _keras_gpt_step(name, "" if side == "keras_gpt" else side)
    tokens = CONFIGS[name]["batch"] * CONFIGS[name]["context"]
    if side == "steps_8":
        tokens *= STEPS_PER_CALL
    speed = _tokens_per_second(step, tokens=tokens, seconds=float(seconds))
    print(json.dumps(speed))


if __name__ == "__main__":
    main()
