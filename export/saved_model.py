"""Writes a task as a SavedModel that TensorFlow alone can run."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_gpt.export.files import clear_remains, temporary_folder, write_text
from keras_gpt.export.generator_module import build_generator
from keras_gpt.export.model_card import model_card
from keras_gpt.export.served_options import served_options
from keras_gpt.export.serving_files import (
    BATCH_SIZES,
    MODEL_NAME,
    output_types,
    write_serving_files,
)
from keras_gpt.export.signatures.knobs import SAMPLING
from keras_gpt.export.verify import ExportError, verify
from keras_gpt.export.warmup import WARMUP_FILE, write_warmup
from keras_gpt.export.weights import STORAGE_DTYPES, rounded
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.lora import merged

MODEL_CARD = WARMUP_FILE.with_name("model_card.json")
MOST_RECORDS = 1000  # of warm-up: TF Serving refuses a model with more


def export_saved_model(
    task: GPTCausalLM,
    path: str | os.PathLike[str],
    version: int = 1,
    *,
    stop_token_ids: Any = "auto",
    storage_dtype: str | None = None,
    speculative: bool = False,
    xla: bool = False,
    model_name: str = MODEL_NAME,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    **options: Any,
) -> str:
    """Writes `path/version/`: strings in, strings out, with tensorflow alone.

    The folder holds tokenizer, weights, KV cache and sampling loop. Before it gets its
    name, a fresh process that imports only tensorflow loads it, runs its warm-up
    records, and must answer as `task.generate` does. It is whole or absent, and never
    replaces another version. An active adapter of LoRA is served merged. Beside it,
    `path` gets `models.config`, `batching_params.pbtxt` and a `README.md` that tells
    how to serve and ask it.

    Args:
        task: `GPTCausalLM` with a preprocessor.
        path: folder of the served model; made if absent.
        version: int, at least 1. TF Serving serves the largest.
        stop_token_ids: as in `GPTCausalLM.generate`.
        storage_dtype: `"float32"`, `"bfloat16"` or `"float16"`, in which weights are
            stored. They are cast once, when the model is loaded, to the dtype that
            they have here. Defaults to None: as they are.
        speculative: bool. Whether `generate` drafts tokens by prompt lookup: the same
            text, sooner where it repeats itself. The same as `draft="prompt_lookup"`.
            Defaults to False.
        xla: bool. Whether there is a signature `generate_xla`, too: by sampling,
            without stop strings, and for servers that allow XLA
            (`--xla_cpu_compilation_enabled`). Defaults to False.
        model_name: string. Under which it is served. Defaults to `"gpt"`.
        batch_sizes: ints. Of which a server is to make batches, each with its warm-up
            record. Defaults to 1, 2, 4 and 8.
        **options: of `keras_gpt.GenerationOptions`, each one value for all rows. They
            are the defaults of the knobs that a request may set; `num_beams`,
            `penalty_alpha`, `draft`, `logits_processors` and whatever spans several
            tokens are fixed. Those not given are as in `task.generate`, but for 64 new
            tokens and seed 0.

    Returns:
        The path of the version folder.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a value is out of range or cannot be served, or the task has no
            preprocessor.
        FileExistsError: if the version exists.
        ExportError: if the written model fails a check.
    """
    _check_arguments(version, storage_dtype, model_name, batch_sizes)
    if speculative:
        options = {"draft": "prompt_lookup", **options}
        if options["draft"] is None:
            raise ValueError("draft must not be None with speculative, got None.")
    if task.preprocessor is None:
        raise ValueError("preprocessor must be set to export a model, got None.")
    context = task.backbone.config.max_sequence_length
    if context < 2:  # a prompt has a token, and so has what continues it
        raise ValueError(
            f"max_sequence_length must be at least 2 to export, got {context}."
        )
    served = served_options(task, options, stop_token_ids=stop_token_ids)
    folder, sizes = Path(path), sorted(set(batch_sizes))
    target = folder / str(version)
    if target.exists():
        raise FileExistsError(_must_be_new(target))
    if xla and (served.method != SAMPLING or served.defaults["stop_strings"]):
        raise ValueError(
            "xla must be False for a search, or with stop_strings, got True."
        )
    # Served without the cost of an adapter.
    with merged(task):
        generator = build_generator(task, served, storage_dtype=storage_dtype, xla=xla)
        folder.mkdir(parents=True, exist_ok=True)
        clear_remains(folder)
        with temporary_folder(folder, str(version)) as temporary:
            # What was made private for one user is not what a server is to read.
            written = temporary / str(version)
            written.mkdir()
            tf.saved_model.save(
                generator.module,
                str(written),
                signatures={
                    name: one.function for name, one in generator.signatures.items()
                },
            )
            write_warmup(written, generator, model_name=model_name, batch_sizes=sizes)
            card = model_card(
                task,
                served,
                signatures=generator.signatures,
                export_options={
                    "storage_dtype": storage_dtype,
                    "xla": xla,
                    "model_name": model_name,
                    "batch_sizes": sizes,
                    **{name: repr(value) for name, value in options.items()},
                },
            )
            text = json.dumps(
                card, indent=2, default=lambda data: data.decode(errors="replace")
            )
            write_text(written / MODEL_CARD, text + "\n")
            with rounded(task.backbone, storage_dtype):
                verify(task, served, written, xla=xla)
            write_serving_files(
                folder,
                model_name=model_name,
                batch_sizes=sizes,
                signatures=generator.signatures,
                outputs=output_types(written),
            )
            _rename(written, target)
    return str(target)


def _rename(written: Path, target: Path) -> None:
    """Gives a version its name, unless another export has been faster."""
    try:
        written.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise FileExistsError(_must_be_new(target)) from error


def _must_be_new(target: Path) -> str:
    return f"version must be new, but {target} exists."


def _check_arguments(
    version: int,
    storage_dtype: str | None,
    model_name: str,
    batch_sizes: Sequence[int],
) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be a positive integer, got {version!r}.")
    if storage_dtype not in (None, *STORAGE_DTYPES):
        raise ValueError(
            f"storage_dtype must be of {', '.join(STORAGE_DTYPES)}, "
            f"got {storage_dtype!r}."
        )
    # It becomes part of paths, URLs and shell commands.
    is_name = isinstance(model_name, str)
    if not is_name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", model_name):
        raise ValueError(
            "model_name must be of letters, digits, '_', '-' and '.', "
            f"got {model_name!r}."
        )
    sizes = list(batch_sizes) if isinstance(batch_sizes, Iterable) else []
    is_count = all(type(size) is int and size >= 1 for size in sizes)
    if not sizes or not is_count or len(sizes) > MOST_RECORDS // 2:
        raise ValueError(
            f"batch_sizes must be positive integers, {MOST_RECORDS // 2} at most, "
            f"got {batch_sizes!r}."
        )


__all__ = ["ExportError", "export_saved_model"]
