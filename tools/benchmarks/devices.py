"""LiteRT beside CTranslate2 and torch: decoding in int8, and reading long prompts."""

from __future__ import annotations

import tempfile
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools.benchmarks import decode
from keras_gpt.tools.benchmarks.decode_prompts import plain_prompts

LONG_PROMPT_TOKENS = 512

SHORT = {
    "litert_int8": "keras_gpt, LiteRT int8",
    "litert_loop": "the same, generate",
    "litert": "keras_gpt, LiteRT float32",
    "saved_model": "keras_gpt, SavedModel",
    "ctranslate2_int8": "CTranslate2 int8",
    "ctranslate2": "CTranslate2 float32",
}
LONG = {
    "litert_int8": "keras_gpt, LiteRT int8",
    "litert": "keras_gpt, LiteRT float32",
    "saved_model": "keras_gpt, SavedModel",
    "ctranslate2_int8": "CTranslate2 int8",
    "transformers": "transformers, torch eager",
}
# Our sides, by the names over their columns.
SHORT_OURS = {
    "litert_int8": "LiteRT int8",
    "litert_loop": "generate",
    "litert": "float32",
    "saved_model": "SavedModel",
}
LONG_OURS = {
    "litert_int8": "LiteRT int8",
    "litert": "float32",
    "saved_model": "SavedModel",
}
TABLES = {"short": (SHORT, SHORT_OURS), "long": (LONG, LONG_OURS)}


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Measures a short and a long prompt, and prints a table of each.

    Returns:
        `short` and `long`, by their prompts, the `summary` of each.
    """
    decode.say_if_busy()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = decode.tokenizer_of(flags)
        tokenizer.save_files(folder)

        def job(prompt_tokens: int) -> dict[str, Any]:
            prompts = plain_prompts(tokenizer, 1, num_tokens=prompt_tokens)
            return decode.job_of(
                folder,
                prompts,
                prompt_tokens=prompt_tokens,
                new_tokens=decode.NEW_TOKENS,
                seconds=flags.seconds,
            )

        short = job(decode.PROMPT_TOKENS)
        sides = decode.present_sides({**SHORT, **LONG})
        decode.in_own_process("export", short)
        if "litert" in sides:
            decode.in_own_process("export_tflite", short)
        if "ctranslate2" in sides:
            decode.in_own_process("convert", short)
        jobs = {"short": short, "long": job(LONG_PROMPT_TOKENS)}
        return {
            name: _compared(one, sides, *TABLES[name], rounds=flags.rounds)
            for name, one in jobs.items()
        }


def _compared(
    job: dict[str, Any],
    sides: list[str],
    labels: dict[str, str],
    ours: dict[str, str],
    *,
    rounds: int,
) -> dict[str, Any]:
    """Measures sides, and prints their table.

    Args:
        job: for `decode_sides.measure`.
        sides: those that are present.
        labels: what to call each side.
        ours: short names of our sides.
        rounds: int. Measurements of each.
    """
    present = {side: name for side, name in ours.items() if side in sides}
    compared = [side for side in labels if side in sides]
    measured = decode.rounds_of(compared, job, count=rounds)
    result = decode.summary(measured, ours=list(present))
    weights = decode.model_config().num_parameters / 1e6
    print(
        f"devices: {weights:.0f}M weights, batch 1, greedy, {job['prompt_tokens']} "
        f"prompt + {job['new_tokens']} new tokens; ratios of tokens/s"
    )
    decode.print_sides(result, labels=labels, ours=present)
    return result
