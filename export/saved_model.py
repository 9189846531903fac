"""Writes a task as a SavedModel that TensorFlow alone can run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export import signatures, verify
from keras_gpt.generation import SETTINGS
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.option_values import check_setting

VERIFY_TOKENS = 16
VERIFY_SEEDS = (0, 1, 2, 3)
VERIFY_TEMPERATURES = (0.0, 0.0, 1.0, 0.7)


class ExportError(RuntimeError):
    """An export that failed its own checks; nothing was left behind."""


def export_saved_model(
    task: GPTCausalLM,
    path: str | os.PathLike[str],
    version: int = 1,
    **settings: Any,
) -> str:
    """Writes `path/version/`: strings in, strings out, with tensorflow alone.

    The folder holds tokenizer, weights, KV cache and sampling loop. Before it gets
    its name, a fresh process that imports only tensorflow loads it and must
    generate what `task.generate` generates. It is whole or absent, and never
    replaces another version.

    Args:
        task: `GPTCausalLM` with a preprocessor.
        path: folder of the served model; made if absent.
        version: int, at least 1. TF Serving serves the largest.
        **settings: defaults of the generation settings, such as
            `max_new_tokens=100` or `temperature=0.8`. Those not given are 64 new
            tokens, temperature 1, no filters, and seed 0.

    Returns:
        The path of the version folder.

    Raises:
        ValueError: if a setting is unknown or out of range, the version is no
            positive integer, or the task has no preprocessor.
        FileExistsError: if the version exists.
        ExportError: if the written model fails a check.
    """
    defaults = _checked_defaults(settings)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be a positive integer, got {version!r}.")
    target = Path(path) / str(version)
    if target.exists():
        raise FileExistsError(f"version must be new, but {target} exists.")
    module, served = _servable_module(task, defaults)
    # TF Serving ignores folders whose names are no numbers.
    temporary = Path(path) / f".writing-{version}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        tf.saved_model.save(module, str(temporary), signatures=served)
        _check(task, temporary, defaults)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(target)


def _checked_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise ValueError(
            f"settings must be of {', '.join(SETTINGS)}, got {', '.join(unknown)}."
        )
    for name, value in settings.items():
        check_setting(name, value, rows=1)
    return {name: setting.default for name, setting in SETTINGS.items()} | settings


def _servable_module(
    task: GPTCausalLM, defaults: dict[str, Any]
) -> tuple[tf.Module, dict[str, Any]]:
    """Returns a module of just the state that is served, and the signatures."""
    generator = task.text_generator()
    end_id = generator.tokenizer.end_token_id
    module = tf.Module()
    module.weights = [variable.value for variable in task.backbone.weights]
    module.tables = list(generator.tokenizer.trackables)
    return module, signatures.make_signatures(
        generator,
        defaults=defaults,
        stop_token_ids=[] if end_id is None else [end_id],
    )


def _check(task: GPTCausalLM, folder: Path, defaults: dict[str, Any]) -> None:
    """Raises `ExportError` unless the folder serves what the task generates."""
    bad_ops = verify.forbidden_ops(folder)
    if bad_ops:
        raise ExportError(f"the graph holds {'; '.join(bad_ops)}.")
    prompts = ["", "The", " a\n\nb", "caf\u00e9 \u4e2d"]
    knobs: dict[str, Any] = {
        **defaults,
        "max_new_tokens": VERIFY_TOKENS,
        "temperature": list(VERIFY_TEMPERATURES),
        "seed": list(VERIFY_SEEDS),
    }
    context = task.backbone.config.max_sequence_length
    counts = task.text_generator().prompt_tokens(tf.constant(prompts)).row_lengths()
    if max(counts.numpy()) >= context:
        prompts = [""] * len(prompts)  # a context too short for anything else
    expected = task.generate(prompts, max_length=context, strip_prompt=True, **knobs)
    rows = {name: np.atleast_1d(value).tolist() for name, value in knobs.items()}
    inputs = {"text": prompts, **rows}
    calls = [
        {"signature": "generate", "inputs": inputs},
        {"signature": "serving_default", "inputs": {"text": prompts}},
    ]
    try:
        generated, served = verify.run_in_fresh_process(folder, calls)
    except RuntimeError as error:
        raise ExportError(str(error)) from error
    for prompt, want, got in zip(
        prompts, expected, generated["generated_text"], strict=True
    ):
        if want != got:
            raise ExportError(
                f"the exported model must answer like generate, but for {prompt!r} "
                f"it gave {got!r} instead of {want!r}."
            )
    if len(served["generated_text"]) != len(prompts):
        raise ExportError("serving_default must answer every row.")
