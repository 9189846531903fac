"""Tokens per second of greedy decoding, beside peers and beside ourselves."""

from __future__ import annotations

import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags as absl_flags

from keras_gpt import GPTConfig, GPTTokenizer
from keras_gpt.tools.benchmarks import decode_sides, own_process
from keras_gpt.tools.benchmarks.decode_prompts import (
    made_tokenizer,
    plain_prompts,
    repeating_prompts,
    without_end_token,
)

# Arguments of `GPTBackbone.from_size`. The weights are random: greedy decoding takes
# as long with others.
MODEL: dict[str, Any] = {"size": "gpt2_small"}
BATCHES = (1, 8)
PROMPT_TOKENS = 32
NEW_TOKENS = 64
# Places of a text around which NEARBY_TOKENS new ones are timed.
POSITIONS = (100, 1000)
NEARBY_TOKENS = 32
REPEATING_PROMPT_TOKENS = 128

SIDES = {
    "saved_model": "keras_gpt, SavedModel",
    "python": "keras_gpt, Python",
    "transformers": "transformers, torch eager",
    "kerashub_jit": "KerasHub, jit_compile",
    "kerashub_no_jit": "KerasHub, no jit_compile",
    "ctranslate2": "CTranslate2",
}
OURS = ("saved_model", "python")
# Modules that each peer needs; CTranslate2's model is made from transformers'.
NEEDS = {
    "transformers": ("torch", "transformers"),
    "kerashub_jit": ("keras_hub",),
    "kerashub_no_jit": ("keras_hub",),
    "ctranslate2": ("ctranslate2", "torch", "transformers"),
    "ctranslate2_int8": ("ctranslate2", "torch", "transformers"),
    "litert": ("ai_edge_litert", "ai_edge_quantizer"),
    "litert_int8": ("ai_edge_litert", "ai_edge_quantizer"),
    "litert_loop": ("ai_edge_litert", "ai_edge_quantizer"),
}


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Measures the parts that `--part` names, and prints a table of each.

    Returns:
        By part: `peers` and `speculation`, for each batch size a `summary` or a
        `speculation_summary`; `position`, the seconds per token and their ratio.
    """
    measures = {"peers": _peers, "position": _position, "speculation": _speculation}
    parts = measures if flags.part == "all" else [flags.part]
    say_if_busy()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_of(flags)
        tokenizer.save_files(folder)
        return {part: measures[part](tokenizer, folder, flags) for part in parts}


def say_if_busy() -> None:
    """Prints that others use the machine, if they do."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        # Threads that wait in a spin, as torch's and CTranslate2's do, then lose most.
        print(f"decode: the load is {load:.1f} on {cores} cores: not a fair comparison")


def model_config() -> GPTConfig:
    """Returns the configuration of `MODEL`."""
    overrides = {name: value for name, value in MODEL.items() if name != "size"}
    return GPTConfig.named(MODEL["size"], **overrides)


def tokenizer_of(flags: absl_flags.FlagValues) -> GPTTokenizer:
    """Returns the tokenizer that the flags name, or one that is made, without end."""
    if bool(flags.vocabulary) != bool(flags.merges):
        raise ValueError("vocabulary and merges must be given together.")
    if flags.vocabulary:
        return without_end_token(
            GPTTokenizer(vocabulary=flags.vocabulary, merges=flags.merges)
        )
    return made_tokenizer(model_config().vocabulary_size)


def job_of(folder: str, prompts: list[str], **numbers: Any) -> dict[str, Any]:
    """Returns a job for `decode_sides`."""
    job = {"model": MODEL, "config": model_config().to_dict(), "folder": folder}
    return {**job, "prompts": prompts, **numbers}


def in_own_process(work: str, job: dict[str, Any]) -> Any:
    """Returns what a work or side of `decode_sides` returns."""
    # -P: the script's folder has names of modules of the standard library.
    script = ["-P", decode_sides.__file__, work]
    return own_process.measured(script, name=work, job=job)


def _peers(
    tokenizer: GPTTokenizer, folder: str, flags: absl_flags.FlagValues
) -> dict[str, Any]:
    sides = present_sides(SIDES)
    results: dict[str, Any] = {}
    for batch in BATCHES:
        job = job_of(
            folder,
            plain_prompts(tokenizer, batch, num_tokens=PROMPT_TOKENS),
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=NEW_TOKENS,
            seconds=flags.seconds,
        )
        if not results:  # the files serve all batch sizes
            in_own_process("export", job)
            if "ctranslate2" in sides:
                in_own_process("convert", job)
        result = summary(rounds_of(sides, job, count=flags.rounds))
        result["weights_and_cache_megabytes"] = needed_megabytes(
            model_config(), batch=batch
        )
        _print_peers(batch, result)
        results[f"batch_{batch}"] = result
    return results


def present_sides(labels: dict[str, str]) -> list[str]:
    """Returns the sides whose modules are installed, and says which are not.

    Args:
        labels: what to call each side.
    """
    sides = []
    for side, label in labels.items():
        absent = [
            name for name in NEEDS.get(side, ()) if not importlib.util.find_spec(name)
        ]
        if not absent:
            sides.append(side)
            continue
        packages = " ".join(name.replace("_", "-") for name in absent)
        print(f"decode: {label}: not installed (pip install {packages}), left out")
    return sides


def rounds_of(
    sides: Iterable[str], job: dict[str, Any], *, count: int
) -> dict[str, list[Any]]:
    """Returns what each side has measured, in turn, so many times."""
    rounds: dict[str, list[Any]] = {side: [] for side in sides}
    for _, side in itertools.product(range(count), rounds):
        rounds[side].append(in_own_process(side, job))
    return rounds


def needed_megabytes(config: GPTConfig, *, batch: int) -> float:
    """Size in float32 of the weights and of the KV cache of a whole call."""
    slots = batch * (PROMPT_TOKENS + NEW_TOKENS)
    cache = 2 * config.num_layers * slots * config.attention_dim
    return 4 * (config.num_parameters + cache) / 1e6


def summary(
    rounds: dict[str, list[dict[str, float]]], *, ours: Sequence[str] = OURS
) -> dict[str, Any]:
    """Returns medians of each side, and of the rounds' ratios of ours to each peer.

    Args:
        rounds: for each side, what `decode_sides.measure` returned in each round.
        ours: sides that are not peers. Defaults to those of the library's decoding.

    Returns:
        `medians` of each quantity of each side; `ratios` of tokens/s, by our side and
        peer; `kerashub_better_mode`, the faster of KerasHub's sides, if measured; and
        `rounds`.
    """
    medians = {side: _medians(results) for side, results in rounds.items()}

    def ratio(side: str, peer: str) -> float:
        pairs = zip(rounds[side], rounds[peer], strict=True)
        name = "tokens_per_second"
        return statistics.median(mine[name] / other[name] for mine, other in pairs)

    peers = [side for side in rounds if side not in ours]
    result: dict[str, Any] = {
        "medians": medians,
        "ratios": {side: {peer: ratio(side, peer) for peer in peers} for side in ours},
        "rounds": rounds,
    }
    modes = [side for side in peers if side.startswith("kerashub")]
    if modes:
        result["kerashub_better_mode"] = max(
            modes, key=lambda side: medians[side]["tokens_per_second"]
        )
    return result


def _medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: statistics.median(result[name] for result in results)
        for name in results[0]
    }


def _print_peers(batch: int, result: dict[str, Any]) -> None:
    weights = model_config().num_parameters / 1e6
    print(
        f"decode, batch {batch}: {weights:.0f}M weights, float32, greedy, "
        f"{PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens"
    )
    print_sides(
        result, labels=SIDES, ours={"saved_model": "SavedModel", "python": "Python"}
    )
    print(f"  weights and KV cache: {result['weights_and_cache_megabytes']:.0f} MB")
    if "kerashub_better_mode" in result:
        print(f"  better mode: {SIDES[result['kerashub_better_mode']]}")
    sys.stdout.flush()


def print_sides(
    result: dict[str, Any], *, labels: dict[str, str], ours: dict[str, str]
) -> None:
    """Prints a table of what `summary` returned, a line for each side.

    Args:
        result: of `summary`.
        labels: what to call each side.
        ours: short names of our sides, over the columns of their ratios to the peers.
    """
    columns = "".join(f"{name:>12}" for name in ours.values())
    print(f"{'':28}tokens/s  1st token    peak  beyond import{columns}")
    for side, median in result["medians"].items():
        line = (
            f"  {labels[side]:26}{median['tokens_per_second']:8.1f}"
            f"{median['first_token_seconds'] * 1e3:8.0f} ms"
            f"{median['peak_megabytes']:5.0f} MB"
            f"{median['beyond_import_megabytes']:12.0f} MB"
        )
        for one in ours:
            if side in result["ratios"][one]:
                line += f"{result['ratios'][one][side]:11.2f}x"
        print(line)


def _position(
    tokenizer: GPTTokenizer, folder: str, flags: absl_flags.FlagValues
) -> dict[str, Any]:
    prompts: list[str] = []
    for position in POSITIONS:
        length = position - NEARBY_TOKENS // 2
        prompts += plain_prompts(tokenizer, 1, num_tokens=length)
    job = job_of(folder, prompts, new_tokens=NEARBY_TOKENS)
    result = position_summary(
        [in_own_process("token_times", job) for _ in range(flags.rounds)]
    )
    near, far = result["seconds_per_token"].values()
    print("decode, batch 1: time of one token, by its place in the text")
    print(f"  at {POSITIONS[0]:<5}{near * 1e3:8.1f} ms")
    print(
        f"  at {POSITIONS[1]:<5}{far * 1e3:8.1f} ms   {result['ratio']:.2f}x "
        "(target 1.5x at most, aim 1.2x)",
        flush=True,
    )
    return result


def position_summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Returns medians of seconds per token at `POSITIONS`, and of their ratios."""
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return {
        "seconds_per_token": dict(zip(map(str, POSITIONS), medians, strict=True)),
        "ratio": statistics.median(far / near for near, far in rounds),
        "rounds": rounds,
    }


def _speculation(
    tokenizer: GPTTokenizer, folder: str, flags: absl_flags.FlagValues
) -> dict[str, Any]:
    results = {}
    for batch in BATCHES:
        prompts = repeating_prompts(
            tokenizer, batch, num_tokens=REPEATING_PROMPT_TOKENS
        )
        job = job_of(folder, prompts, new_tokens=NEW_TOKENS)
        result = speculation_summary(
            [in_own_process("speculation", job) for _ in range(flags.rounds)]
        )
        _print_speculation(batch, result)
        results[f"batch_{batch}"] = result
    return results


def speculation_summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns medians of what `decode_sides.speculation` returned."""
    rates = [r["acceptance_rate"] for r in rounds if r["acceptance_rate"] is not None]
    return {
        "tokens_per_second": _medians([r["tokens_per_second"] for r in rounds]),
        "ratio": statistics.median(r["ratio"] for r in rounds),
        "acceptance_rate": statistics.median(rates) if rates else None,
        "same_text": all(r["same_text"] for r in rounds),
        "rounds": rounds,
    }


def _print_speculation(batch: int, result: dict[str, Any]) -> None:
    speeds, rate = result["tokens_per_second"], result["acceptance_rate"]
    accepted = "nothing drafted" if rate is None else f"{rate:.0%} of drafts accepted"
    print(
        f"decode, batch {batch}, text that repeats itself: {REPEATING_PROMPT_TOKENS} "
        f"prompt + {NEW_TOKENS} new tokens, greedy"
    )
    print(f"  plain          {speeds['plain']:8.1f} tokens/s")
    print(
        f"  prompt lookup  {speeds['prompt_lookup']:8.1f} tokens/s   "
        f"{result['ratio']:.2f}x   {accepted}, "
        f"same text: {'yes' if result['same_text'] else 'NO'}",
        flush=True,
    )
