"""Writes a task as a TFLite file."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_gpt.export.files import clear_remains, temporary_folder
from keras_gpt.export.litert import tflite_file
from keras_gpt.export.litert.convert import (
    QUANTIZATIONS,
    check_size,
    convert,
    num_bytes,
)
from keras_gpt.export.litert.costs import (
    Costs,
    head_costs,
    lm_costs,
    tokens_to_try,
)
from keras_gpt.export.litert.graphs import LanguageModelGraphs, language_model
from keras_gpt.export.litert.heads import HEAD_CLASSES, head_functions
from keras_gpt.export.litert.quantize import RECIPES, quantizer
from keras_gpt.export.model_card import task_card
from keras_gpt.export.verify import ExportError
from keras_gpt.models import GPTCausalLM
from keras_gpt.models.lora import merged
from keras_gpt.whole_files import write_whole

CHUNK = 16  # tokens of the shortest prefill, where the context is a multiple of it
# Largest error of a logit, as a share of the largest logit, by quantization; those of
# integers are told, not judged.
TOLERANCES = {"none": 1e-4, "float16": 2e-2}


class TFLiteReport(NamedTuple):
    """What an export has cost.

    Attributes:
        path: string. The file.
        num_bytes: int. Its size.
        weight_bytes: int. What the weights take in float32.
        costs: `Costs`: the largest error, and the perplexity before and after.
    """

    path: str
    num_bytes: int
    weight_bytes: int
    costs: Costs


def export_tflite(
    task: Any,
    path: str | os.PathLike[str],
    quantization: str = "none",
    *,
    context_length: int | None = None,
    prefill_lengths: Sequence[int] | None = None,
    text: str | None = None,
    add_generate: bool = True,
) -> TFLiteReport:
    """Writes one file that LiteRT runs by its own ops alone, weights stored once.

    Of a `GPTCausalLM` it has the signatures `prefill_T` for some lengths T, `decode`,
    `sample` and `generate`; of a task with a head `classify`, `compare`, `choose`,
    `tag` or `answer`, on token ids; and `about`, which tells what the file is. The file
    is run before it gets its name, and must answer as the task does; it is whole or
    absent. An active adapter of LoRA is written merged.

    Args:
        task: `GPTCausalLM`, `GPTTextClassifier`, `GPTSimilarity`, `GPTMultipleChoice`,
            `GPTTokenClassifier` or `GPTQuestionAnswering`.
        path: string or path, new.
        quantization: `"none"`; `"float16"`, in which weights are stored; or what
            products are computed by, too: `"dynamic_int8"`, by TensorFlow's
            converter, `"int8"`, by ai-edge-quantizer, or `"int4"`, of which each 32
            weights have a scale. Defaults to `"none"`.
        context_length: int. Most tokens of a text, prompt and continuation; of a
            head, of a row. Defaults to the model's context.
        prefill_lengths: ints, rising, each a multiple of the first, which divides
            `context_length`. Defaults to 16, or the greatest divisor of both 16 and
            the context, eight times as many, and so on, and half of the context.
        text: string. Of which the perplexity is measured, before and after; its first
            `context_length` tokens. Optional.
        add_generate: bool. Whether a `GPTCausalLM` gets `generate`. LiteRT.js keeps a
            copy of the weights for each signature. Defaults to True.

    Returns:
        `TFLiteReport`.

    Raises:
        ValueError: if an argument is out of range, or the weights are too large.
        FileExistsError: if the file exists.
        ImportError: if LiteRT, or ai-edge-quantizer where it is needed, is not
            installed.
        ExportError: if LiteRT lacks an op, or the file answers otherwise.
    """
    path = Path(path)
    _check_arguments(task, path, quantization)
    tflite_file.interpreter_library()  # or an error, before all the work
    if quantization in RECIPES:
        quantizer()
    length = checked_context(
        context_length, most=task.backbone.config.max_sequence_length
    )
    generates = isinstance(task, GPTCausalLM)
    if not generates and (prefill_lengths is not None or text is not None):
        raise ValueError("prefill_lengths and text are for a GPTCausalLM alone.")
    with merged(task):
        about = {
            **task_card(task),
            "label_names": getattr(task, "label_names", None),
            "context_length": length,
            "quantization": quantization,
        }
        if generates:
            token_ids = tokens_to_try(task, text, context=length)
            about |= {
                "prefill_lengths": _prefill_lengths(prefill_lengths, length),
                **_prompting(task, length),
            }
            functions = LanguageModelGraphs(
                language_model(task),
                num_slots=length,
                prefill_lengths=about["prefill_lengths"],
            ).functions(add_generate=add_generate)
        else:
            functions = head_functions(task, length)
        variables = [weight.value for weight in task.weights]
        data = convert(
            {**functions, tflite_file.ABOUT: tflite_file.about_function(about)},
            variables=variables,
            quantization=quantization,
        )
        custom = [op for op in tflite_file.ops_of(data) if op.startswith("custom")]
        if custom:
            raise ExportError(f"all ops must be LiteRT's own, got {custom}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_remains(path.parent)
        with temporary_folder(path.parent, path.name) as folder:
            written = folder / path.name
            write_whole(written, data)
            if generates:
                is_text = text is not None
                costs = lm_costs(task, written, token_ids, have_meaning=is_text)
            else:
                costs = head_costs(task, written, *functions)
            _check(costs, quantization)
            written.replace(path)
    return TFLiteReport(
        path=str(path),
        num_bytes=len(data),
        weight_bytes=num_bytes(variables),
        costs=costs,
    )


def _check_arguments(task: Any, path: Path, quantization: str) -> None:
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"quantization must be of {', '.join(QUANTIZATIONS)}, got {quantization!r}."
        )
    if path.exists():
        raise FileExistsError(f"path must be new, but {path} exists.")
    kinds: tuple[Any, ...] = (GPTCausalLM, *HEAD_CLASSES)
    if not isinstance(task, kinds):
        raise ValueError(
            f"task must be of {', '.join(kind.__name__ for kind in kinds)}, got a "
            f"{type(task).__name__}."
        )
    check_size(task.weights)
    if task.backbone.compute_dtype != "float32":
        raise ValueError(
            "task must compute in float32 to be exported, got "
            f"{task.backbone.compute_dtype}: load it with dtype='float32'."
        )
    layers = task._flatten_layers()
    if any(getattr(layer, "quantization_mode", None) for layer in layers):
        raise ValueError(
            "task must not be quantized by Keras to be exported: load it again, and "
            "give quantization."
        )


def _prompting(task: GPTCausalLM, context: int) -> dict[str, Any]:
    """Returns how prompts are made and texts drawn by default, as plain data."""
    told: dict[str, Any] = {"sampler": task.sampler_options._asdict()}
    if task.preprocessor is not None:
        template = task.preprocessor.chat_template
        told["preprocessor"] = {
            "sequence_length": min(task.preprocessor.sequence_length, context),
            "add_start_token": task.preprocessor.add_start_token,
            "chat_template": template and template.to_dict(),
        }
    return told


def checked_context(given: int | None, *, most: int) -> int:
    """Returns the most tokens of a text: those given, or those of the model.

    Raises:
        ValueError: if they are out of range.
    """
    length = most if given is None else _integer(given)
    if length is None or not 2 <= length <= most:
        raise ValueError(
            f"context_length must be an integer in [2, {most}], got {given!r}."
        )
    return length


def _integer(number: Any) -> int | None:
    """Returns a whole number of Python's or NumPy's, and None for anything else."""
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        return None
    return operator.index(number)


def default_prefill_lengths(context: int) -> list[int]:
    """Returns the lengths of chunks, rising, that suit a context."""
    first = math.gcd(CHUNK, context)
    chosen = {first, context // 2 // first * first}
    while first * 8 <= context // 2:
        first *= 8
        chosen.add(first)
    return sorted(chosen - {0})


def _prefill_lengths(given: Sequence[int] | None, context: int) -> list[int]:
    if given is None:
        return default_prefill_lengths(context)
    lengths = [_integer(n) or 0 for n in given] if isinstance(given, Iterable) else []
    first = lengths[0] if lengths else 0
    rises = all(a < b for a, b in itertools.pairwise(lengths))
    if not (rises and first >= 1 and lengths[-1] <= context) or any(
        length % first for length in [*lengths, context]
    ):
        raise ValueError(
            "prefill_lengths must rise and be integers, multiples of the first, which "
            f"divides the context of {context}, got {given!r}."
        )
    return lengths


def _check(costs: Costs, quantization: str) -> None:
    tolerance = TOLERANCES.get(quantization, math.inf)
    if not costs.largest_error <= tolerance * costs.largest_output:
        raise ExportError(
            f"outputs must be within {tolerance:g} of their scale of "
            f"{costs.largest_output:g}, got an error of {costs.largest_error:g}."
        )
