"""Writes a language model as a bundle for the LiteRT-LM engine."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from keras_gpt.export.files import clear_remains, temporary_folder
from keras_gpt.export.litert.chat_prompts import answer_end, jinja_template
from keras_gpt.export.litert.extra import package
from keras_gpt.export.litert.tflite import (
    TFLiteReport,
    checked_context,
    default_prefill_lengths,
    export_tflite,
)
from keras_gpt.export.verify import ExportError
from keras_gpt.models import GPTCausalLM
from keras_gpt.tokenizer import GPTTokenizer
from keras_gpt.whole_files import flush, write_whole

# In these sizes the engine takes a prime, from 11 on, for the placeholder of a smaller
# one (its "magic numbers"), and then reads past the tensors' ends.
LEAST_PLACEHOLDER = 11
# Classes of characters, white space, contractions and a special token's name: what a
# tokenizer must agree on with its file.
_TEXT_TO_TRY = (
    "The king's 1850 men\n\n say:  Don't!\t\x00 naïve Ünï ½ 日本語 \U0001f642 "
    "<|endoftext|> \r\n end  "
)


def export_litertlm(
    task: Any,
    path: str | os.PathLike[str],
    quantization: str = "none",
    *,
    context_length: int | None = None,
    prefill_lengths: Sequence[int] | None = None,
    text: str | None = None,
) -> TFLiteReport:
    """Writes one file with all that the LiteRT-LM engine runs, strings to strings.

    It holds the TFLite file of `export_tflite`, the tokenizer, what ends a text, the
    settings of the task's sampler and, where the preprocessor has a `chat_template`,
    how messages become prompts. It is whole or absent.

    In a text a special token's name is text, unless the chat template has it.

    Args:
        task: `GPTCausalLM` with a preprocessor.
        path: string or path, new.
        quantization: as in `export_tflite`.
        context_length: int, no prime above 10, which the engine takes for something
            else. Most tokens of a text, prompt and continuation. Defaults to the
            model's context.
        prefill_lengths: ints, as in `export_tflite`, no primes above 10. A prompt is
            read in chunks of these lengths, and the last one must find room in the
            context, padding included: with 1 among them, none is lost.
        text: string. Of which the perplexity is measured. Optional.

    Returns:
        `TFLiteReport`, with the size of the bundle.

    Raises:
        ValueError: if an argument is out of range, or the tokenizer or the chat
            template cannot be written for the engine.
        FileExistsError: if the file exists.
        ImportError: if LiteRT or LiteRT-LM's builder is not installed.
        ExportError: as in `export_tflite`, or if the bundle is not what was to be
            written.

    Reference: https://ai.google.dev/edge/litert-lm
    """
    # Or an error, before all the work.
    builder = package("litert_lm_builder", "LiteRT-LM's builder")
    path = Path(path)
    _check_task(task)
    if path.exists():
        raise FileExistsError(f"path must be new, but {path} exists.")
    length, lengths = _sizes(task, context_length, prefill_lengths)
    metadata = _metadata(task, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_remains(path.parent)
    with temporary_folder(path.parent, path.name) as folder:
        _write_tokenizer(task, folder)
        model = folder / "model.tflite"
        report = export_tflite(
            *(task, model, quantization),
            context_length=length,
            prefill_lengths=lengths,
            text=text,
        )
        written = folder / path.name
        _write_bundle(builder, written, folder, metadata)
        _check_bundle(written, model, metadata)
        written.replace(path)
        flush(os.fspath(path.parent))
        return report._replace(path=str(path), num_bytes=path.stat().st_size)


def _check_task(task: Any) -> None:
    if not isinstance(task, GPTCausalLM) or task.preprocessor is None:
        raise ValueError(
            "task must be a GPTCausalLM with a preprocessor, got a "
            f"{type(task).__name__}{' without one' * isinstance(task, GPTCausalLM)}."
        )
    tokenizer = task.preprocessor.tokenizer
    if not isinstance(tokenizer, GPTTokenizer):
        raise ValueError(
            "tokenizer of the preprocessor must be a GPTTokenizer, which "
            f"tokenizer.json can hold, got a {type(tokenizer).__name__}."
        )
    if tokenizer.end_token_id is None and task.preprocessor.chat_template is None:
        raise ValueError(
            "tokenizer of the preprocessor must have an end token, or the preprocessor "
            "a chat_template: LiteRT-LM wants something that ends a text."
        )


def _sizes(
    task: Any, context_length: int | None, prefill_lengths: Sequence[int] | None
) -> tuple[int, list[int]]:
    length = checked_context(
        context_length, most=task.backbone.config.max_sequence_length
    )
    if _is_placeholder(length):
        raise ValueError(
            "context_length must be no prime above 10, which LiteRT-LM takes for a "
            f"placeholder, got {length}: give {length - 1}."
        )
    if prefill_lengths is None:
        chosen = default_prefill_lengths(length)
        return length, [n for n in chosen if not _is_placeholder(n)]
    lengths = list(prefill_lengths)
    if any(_is_placeholder(n) for n in lengths):
        raise ValueError(
            "prefill_lengths must hold no prime above 10, which LiteRT-LM takes for a "
            f"placeholder, got {lengths}."
        )
    return length, lengths


def _is_placeholder(size: int) -> bool:
    return size >= LEAST_PLACEHOLDER and all(
        size % divisor for divisor in range(2, int(size**0.5) + 1)
    )


# === Parts ===


def _metadata(task: Any, context: int) -> Any:
    """Returns the message that tells the engine how to run the model."""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    preprocessor = task.preprocessor
    tokenizer, template = preprocessor.tokenizer, preprocessor.chat_template
    message = llm_metadata_pb2.LlmMetadata(
        max_num_tokens=context,
        supports_thinking=False,
        supports_function_calling=False,
    )
    message.llm_model_type.generic_model.SetInParent()
    end = [] if tokenizer.end_token_id is None else [tokenizer.end_token_id]
    if end and preprocessor.add_start_token:
        message.start_token.token_ids.ids.extend(end)
    stops = [end] if end else []
    if template is not None:
        message.jinja_prompt_template = jinja_template(template, tokenizer)
        stops += answer_end(template, tokenizer).sequences
    for stop in stops:
        message.stop_tokens.add().token_ids.ids.extend(stop)
    _set_sampler(message.sampler_params, task)
    return message


def _set_sampler(parameters: Any, task: Any) -> None:
    """Writes the settings of a task's sampler, where the engine has their like."""
    settings, method = task.sampler_options
    if method:  # a search
        return
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}
    if values["temperature"] == 0.0:  # which the engine divides by
        values.update(temperature=1.0, top_k=1, top_p=1.0)
    parameters.type = parameters.TOP_P  # the only one that the engine runs on a CPU
    parameters.k = values["top_k"] or task.backbone.config.vocabulary_size
    parameters.p = values["top_p"]
    parameters.temperature = values["temperature"]


def _write_tokenizer(task: Any, folder: Path) -> None:
    """Writes tokenizer.json, and compares its ids with the tokenizer's."""
    tokenizer, template = task.preprocessor.tokenizer, task.preprocessor.chat_template
    tokenizer.save_huggingface_files(
        folder, max_length=task.backbone.config.max_sequence_length
    )
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    around = "" if template is None else template.beginning
    for pair in [] if template is None else template.roles.values():
        around += "".join(pair)
    # The others' names are text in a text, as they are in `tokenize`.
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] in around
    ]
    write_whole(file, json.dumps(content, ensure_ascii=False))
    tried = _TEXT_TO_TRY
    for token in content["added_tokens"]:
        tried = tried.replace(token["content"], "")
    want = tokenizer.tokenize(tried).numpy().tolist()
    if tokenizers.Tokenizer.from_file(str(file)).encode(tried).ids != want:
        raise ValueError(
            "tokenizer of the preprocessor must be one that tokenizer.json can hold, "
            f"got a {type(tokenizer).__name__}, which gives other ids."
        )


def _write_bundle(builder: Any, path: Path, folder: Path, metadata: Any) -> None:
    write_whole(folder / "metadata.pb", metadata.SerializeToString())
    maker = f"keras_gpt {importlib.metadata.version('keras-gpt')}"
    bundle = builder.LitertLmFileBuilder()
    bundle.add_system_metadata(
        builder.Metadata(key="Authors", value=maker, dtype=builder.DType.STRING)
    )
    bundle.add_llm_metadata(str(folder / "metadata.pb"))
    bundle.add_hf_tokenizer(str(folder / "tokenizer.json"))
    bundle.add_tflite_model(
        str(folder / "model.tflite"), builder.TfLiteModelType.PREFILL_DECODE
    )
    with path.open("wb") as file:
        bundle.build(file, validate_metadata=True)
        file.flush()
        os.fsync(file.fileno())


def _check_bundle(path: Path, model: Path, metadata: Any) -> None:
    """Opens a bundle again, and compares what is in it with what was to be."""
    sections = read_sections(path)
    contents = {
        "LlmMetadataProto": np.frombuffer(metadata.SerializeToString(), np.uint8),
        "TFLiteModel": np.memmap(model, mode="r"),
    }
    kinds, want = sorted(sections), sorted([*contents, "HF_Tokenizer_Zlib"])
    if kinds != want or not all(
        np.array_equal(sections[kind], content) for kind, content in contents.items()
    ):
        raise ExportError(f"the bundle must hold {want} as they were, got {kinds}.")


def read_sections(path: Path) -> dict[str, np.ndarray]:
    """Returns the sections of a bundle by their kinds, uint8 in the file."""
    from litert_lm_builder import litertlm_core, litertlm_peek

    header = litertlm_peek.read_litertlm_header(str(path), io.StringIO())
    table, data = header.SectionMetadata(), np.memmap(path, mode="r")
    found = {}
    for index in range(table.ObjectsLength()):
        section = table.Objects(index)
        kind = litertlm_core.any_section_data_type_to_string(section.DataType())
        found[kind] = data[section.BeginOffset() : section.EndOffset()]
    return found
