"""A `GPTCausalLM` as it is exported."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from keras_gpt.export.generator_checks import generator_checks
from keras_gpt.export.generator_module import build_generator
from keras_gpt.export.served_options import served_options
from keras_gpt.export.serving_files import generator_guide
from keras_gpt.export.signatures.knobs import SAMPLING
from keras_gpt.export.task_export import TaskExport
from keras_gpt.export.warmup import generator_requests
from keras_gpt.models import GPTCausalLM


def generator_export(
    task: GPTCausalLM,
    options: dict[str, Any],
    *,
    stop_token_ids: Any,
    storage_dtype: str | None,
    xla: bool,
    batch_sizes: Sequence[int],
) -> TaskExport:
    """Returns the task as it is to be exported; arguments: `export_saved_model`'s.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a value is out of range or cannot be served.
    """
    context = task.backbone.config.max_sequence_length
    if context < 2:  # a prompt has a token, and so has what continues it
        raise ValueError(
            f"max_sequence_length must be at least 2 to export, got {context}."
        )
    served = served_options(task, options, stop_token_ids=stop_token_ids)
    if xla and (served.method != SAMPLING or served.defaults["stop_strings"]):
        raise ValueError(
            "xla must be False for a search, or with stop_strings, got True."
        )
    generator = build_generator(task, served, storage_dtype=storage_dtype, xla=xla)
    return TaskExport(
        module=generator.module,
        signatures=generator.signatures,
        requests=functools.partial(
            generator_requests, generator.signatures, batch_sizes
        ),
        checks=functools.partial(generator_checks, task, served, xla=xla),
        card={"method": served.method, "defaults": served.defaults},
        guide=generator_guide(generator.signatures),
    )
