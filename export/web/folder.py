"""Writes a task as a web page that runs it in the browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_gpt.export.files import clear_remains, temporary_folder
from keras_gpt.export.litert.tflite import TFLiteReport, export_tflite
from keras_gpt.export.web import litert_js
from keras_gpt.generation import SETTINGS
from keras_gpt.models import GPTCausalLM
from keras_gpt.tokenizer import GPTTokenizer, tokenizer_json, unicode_classes
from keras_gpt.whole_files import flush_directory

PAGE = Path(__file__).with_name("page")  # what is the same in every folder
MODEL = "model.tflite"
PREFILL_LENGTH = 32  # most tokens of a prompt that are read at once
# Those of a folder, the page itself first.
PAGE_FILES = (
    "index.html",
    *sorted({path.name for path in PAGE.iterdir()} - {"index.html"}),
    *("page.json", MODEL, tokenizer_json.WHOLE_FILE, unicode_classes.RUNS.name),
    *litert_js.FILES,
)


def export_web(
    task: GPTCausalLM,
    path: str | os.PathLike[str],
    quantization: str = "none",
    *,
    context_length: int | None = None,
    prefill_lengths: Sequence[int] | None = None,
    text: str | None = None,
    node_modules: str | os.PathLike[str] | None = None,
    settings: dict[str, float] | None = None,
) -> TFLiteReport:
    """Writes a folder with a web page on which a model continues prompts.

    The model runs in the browser, on the visitor's machine: the folder holds the page,
    `model.tflite` as `export_tflite` writes it without `generate`, the tokenizer and
    LiteRT.js, and any server of files can serve it (`keras-gpt serve --web`). The page
    writes the texts that `GPTCausalLM.generate` writes with the same settings and seed.
    The folder is whole or absent.

    Args:
        task: `GPTCausalLM` with a preprocessor whose tokenizer is a `GPTTokenizer`.
        path: string or path of the folder, new.
        quantization: string, as in `export_tflite`. Defaults to `"none"`.
        context_length: int, as there. Defaults to the model's context.
        prefill_lengths: ints, as there, each of which costs the browser a copy of the
            weights. Defaults to the greatest one up to 32 that divides the context.
        text: string, as there. Optional.
        node_modules: string or path. Folder in which npm has installed the packages of
            LiteRT.js. Optional, npm installs them without it.
        settings: dict of numbers by the names of `keras_gpt.generation.SETTINGS`, with
            which the page's form begins. Optional.

    Returns:
        `TFLiteReport` of the model's file; its path is the folder's.

    Raises:
        ValueError: if an argument is out of range, or the page knows no such
            tokenizer.
        FileExistsError: if the folder exists.
        FileNotFoundError: if `node_modules` lacks a file.
        ExportError: if npm is absent or fails, and as in `export_tflite`.
        ImportError: if LiteRT is not installed.
    """
    path = Path(path)
    settings = dict(settings or {})
    _check_arguments(task, path, settings)
    given = None if node_modules is None else os.fspath(node_modules)
    lengths = prefill_lengths
    if lengths is None:
        lengths = _prefill_lengths(task, context_length)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_remains(path.parent)
    with (
        litert_js.packages(given) as found,  # or an error, before all the work
        temporary_folder(path.parent, path.name) as temporary,
    ):
        folder = temporary / path.name
        shutil.copytree(PAGE, folder, copy_function=shutil.copyfile)
        report = export_tflite(
            task,
            folder / MODEL,
            quantization,
            context_length=context_length,
            prefill_lengths=lengths,
            text=text,
            add_generate=False,
        )
        litert_js.copy(found, folder / "litert")
        write_tokenizer(folder, task.preprocessor.tokenizer)
        _write_json(folder / "page.json", _page(task, settings, report.num_bytes))
        flush_directory(os.fspath(folder))
        folder.rename(path)
    return report._replace(path=str(path))


def _check_arguments(task: Any, path: Path, settings: dict[str, float]) -> None:
    if not isinstance(task, GPTCausalLM):
        raise ValueError(f"task must be a GPTCausalLM, got a {type(task).__name__}.")
    if task.preprocessor is None:
        raise ValueError(
            "task must have a preprocessor, whose tokenizer the page needs, got None."
        )
    tokenizer = task.preprocessor.tokenizer
    if type(tokenizer) is not GPTTokenizer:  # one derived from it may do otherwise
        raise ValueError(
            "task must have a GPTTokenizer, the one kind that the page knows, got a "
            f"{type(tokenizer).__name__}."
        )
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(
                f"settings must be of {', '.join(SETTINGS)}, got {name!r}."
            )
        if not SETTINGS[name].holds(value):
            raise ValueError(f"{name} must be {SETTINGS[name].rule}, got {value}.")
    if path.exists():
        raise FileExistsError(f"path must be new, but {path} exists.")


def _prefill_lengths(task: GPTCausalLM, context_length: int | None) -> list[int] | None:
    """Returns one length: LiteRT.js packs the weights anew for each signature."""
    context = context_length
    if context is None:
        context = task.backbone.config.max_sequence_length
    if not isinstance(context, int):
        return None  # which `export_tflite` refuses
    fitting = [n for n in range(1, PREFILL_LENGTH + 1) if context % n == 0]
    return [max(fitting)]


def _page(
    task: GPTCausalLM, settings: dict[str, float], num_bytes: int
) -> dict[str, Any]:
    """Returns what the page must know of a model beside the model's file."""
    generator = task.text_generator()
    return {
        "model": {"file": MODEL, "num_bytes": num_bytes},
        "num_parameters": task.backbone.count_params(),
        "add_start_token": generator.add_start_token,
        "start_token": generator.start_id,
        "stop_tokens": [token for [token] in task.stop_sequences("auto")],
        # As strings, for JavaScript's numbers do not hold every seed.
        "settings": {name: str(value) for name, value in settings.items()},
    }


def write_tokenizer(folder: Path, tokenizer: GPTTokenizer) -> None:
    """Writes what the page's tokenizer is made of."""
    contents = tokenizer_json.Contents(
        vocabulary={t: index for index, t in enumerate(tokenizer.get_vocabulary())},
        merges=tokenizer.merges,
        special_tokens=tokenizer.special_tokens,
    )
    name = tokenizer_json.WHOLE_FILE
    _write_json(folder / name, tokenizer_json.whole_file(contents, tokenizer_json.GPT2))
    shutil.copyfile(unicode_classes.RUNS, folder / unicode_classes.RUNS.name)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
