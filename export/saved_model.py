"""Writes a task as a SavedModel that TensorFlow alone can run."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_gpt.export.files import clear_remains, temporary_folder
from keras_gpt.export.generator_export import generator_export
from keras_gpt.export.head_export import head_export
from keras_gpt.export.model_card import model_card, write_card
from keras_gpt.export.serving_files import (
    BATCH_SIZES,
    MODEL_NAME,
    output_types,
    write_serving_files,
)
from keras_gpt.export.task_export import TaskExport
from keras_gpt.export.verify import ExportError, verify
from keras_gpt.export.warmup import WARMUP_FILE, write_warmup
from keras_gpt.export.weights import STORAGE_DTYPES, rounded
from keras_gpt.models import GPTCausalLM
from keras_gpt.models.lora import merged

MODEL_CARD = WARMUP_FILE.with_name("model_card.json")
MOST_RECORDS = 1000  # of warm-up: TF Serving refuses a model with more


def export_saved_model(
    task: Any,
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
    records, and must answer as the task does. It is whole or absent, and never
    replaces another version. An active adapter of LoRA is served merged. Beside it,
    `path` gets `models.config`, `batching_params.pbtxt` and a `README.md` that tells
    how to serve and ask it.

    Args:
        task: `GPTCausalLM`, or a task with a head (`GPTTextClassifier`,
            `GPTSimilarity`, `GPTMultipleChoice`, `GPTTokenClassifier`,
            `GPTQuestionAnswering`), with a preprocessor.
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
        **options: of a `GPTCausalLM`, those of `keras_gpt.GenerationOptions`, each one
            value for all rows. They are the defaults of the knobs that a request may
            set; `num_beams`, `penalty_alpha`, `draft`, `logits_processors` and
            whatever spans several tokens are fixed. Those not given are as in
            `task.generate`, but for 64 new tokens and seed 0.

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
    if task.preprocessor is None:
        raise ValueError("preprocessor must be set to export a model, got None.")
    folder, sizes = Path(path), sorted(set(batch_sizes))
    target = folder / str(version)
    if target.exists():
        raise FileExistsError(_must_be_new(target))
    if speculative:
        options = {"draft": "prompt_lookup", **options}
        if options["draft"] is None:
            raise ValueError("draft must not be None with speculative, got None.")
    card_options = {
        "storage_dtype": storage_dtype,
        "xla": xla,
        "model_name": model_name,
        "batch_sizes": sizes,
        **{name: repr(value) for name, value in options.items()},
    }
    with merged(task):  # served without the cost of an adapter
        if isinstance(task, GPTCausalLM):
            export = generator_export(
                task,
                options,
                stop_token_ids=stop_token_ids,
                storage_dtype=storage_dtype,
                xla=xla,
                batch_sizes=sizes,
            )
        else:
            export = head_export(
                task,
                {"xla": xla, **options},
                storage_dtype=storage_dtype,
                batch_sizes=sizes,
            )
        folder.mkdir(parents=True, exist_ok=True)
        clear_remains(folder)
        with temporary_folder(folder, str(version)) as temporary:
            # What was made private for one user is not what a server is to read.
            written = temporary / str(version)
            written.mkdir()
            _write(written, task, export, model_name=model_name, options=card_options)
            with rounded(task, storage_dtype):
                verify(written, export.checks())
            write_serving_files(
                folder,
                model_name=model_name,
                batch_sizes=sizes,
                signatures=export.signatures,
                outputs=output_types(written),
                guide=export.guide,
            )
            _rename(written, target)
    return str(target)


def _write(
    written: Path,
    task: Any,
    export: TaskExport,
    *,
    model_name: str,
    options: dict[str, Any],
) -> None:
    """Writes what a version folder holds."""
    functions = {name: one.function for name, one in export.signatures.items()}
    tf.saved_model.save(export.module, str(written), signatures=functions)
    write_warmup(written, export.requests(), model_name=model_name)
    card = model_card(
        task, export.card, signatures=export.signatures, export_options=options
    )
    write_card(written / MODEL_CARD, card)


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
