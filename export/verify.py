"""Checks of a written SavedModel, before it gets its final name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.export import ops
from keras_gpt.export.served_options import ServedOptions
from keras_gpt.export.signatures.knobs import SAMPLING
from keras_gpt.models.causal_lm import GPTCausalLM

RUNNER = Path(__file__).with_name("run_saved_model.py")
PROMPTS = ("", "The", " a\n\nb", "caf\u00e9 \u4e2d")
MESSAGE = ("role", "content")
MAX_TOKENS = 16
STREAM_TOKENS = 5  # at a time
# Of the four prompts: two greedy, two drawn.
DRAWS = {"temperature": [0.0, 0.0, 1.0, 0.7], "seed": [0, 1, 2, 3]}
# Logits of a batch and of a single text differ in their last bits.
SCORE_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """An export that failed its own checks; nothing was left behind."""


def verify(task: GPTCausalLM, served: ServedOptions, folder: Path) -> None:
    """Checks that a folder serves what the task generates, and nothing is foreign.

    Args:
        task: `GPTCausalLM`, with weights as they are stored.
        served: `ServedOptions`.
        folder: the version folder.

    Raises:
        ExportError: if a check fails.
    """
    bad_ops = ops.forbidden(ops.ops_of(folder))
    if bad_ops:
        raise ExportError(f"the graph holds {'; '.join(bad_ops)}.")
    prompts = _prompts(task)
    knobs: dict[str, Any] = {"max_new_tokens": [MAX_TOKENS] * len(prompts)}
    if served.method == SAMPLING:
        knobs |= DRAWS
    inputs = {"text": prompts, **knobs}
    calls: list[dict[str, Any]] = [
        {"signature": "generate", "inputs": inputs},
        {"signature": "score", "inputs": {"text": prompts}},
        {"signature": "tokenize", "inputs": {"text": prompts}},
    ]
    if served.method == SAMPLING:
        steps = {"max_tokens": STREAM_TOKENS}
        calls.append({"signature": "prefill", "inputs": inputs, **steps})
    messages = _messages(task)
    if messages:
        role, content = ([message[key] for message in messages] for key in MESSAGE)
        inputs = {"role": [role], "content": [content], "max_new_tokens": [MAX_TOKENS]}
        calls.insert(0, {"signature": "chat", "inputs": inputs})
    try:
        responses = run_in_fresh_process(folder, calls, warm_up=True)
    except RuntimeError as error:
        raise ExportError(str(error)) from error
    if messages:
        options = served.python_options | {"max_new_tokens": MAX_TOKENS}
        options["num_return_sequences"] = 1
        stops = served.stop_token_ids
        answer = task.chat(messages, stop_token_ids=stops, **options)
        (got,) = responses.pop(0)["generated_text"]
        _check_equal("chat", str(messages), answer, got)
    generated, scored, tokens, *streamed = responses
    expected = _expected(task, served, prompts, knobs)
    for prompt, want, got in zip(
        prompts, expected, generated["generated_text"], strict=True
    ):
        _check_equal("generate", prompt, want, got)
    for stream in streamed:
        for prompt, want, got in zip(prompts, expected, stream["text"], strict=True):
            _check_equal("prefill and decode", prompt, want, got)
    for row, score in enumerate(task.score(prompts)):
        ids = tokens["token_ids"][row][: tokens["num_tokens"][row]]
        _check_equal("tokenize", prompts[row], score.token_ids.tolist(), ids)
        total = scored["total_log_prob"][row]
        if not np.isclose(total, score.total_log_prob, rtol=SCORE_TOLERANCE):
            _check_equal("score", prompts[row], score.total_log_prob, total)


def _messages(task: GPTCausalLM) -> list[dict[str, str]]:
    """Returns a short conversation, where there is a template and room for it."""
    template = task.preprocessor and task.preprocessor.chat_template
    if not template:
        return []
    asks = next((role for role in template.roles if role != template.answer_role), "")
    messages = [dict(zip(MESSAGE, (asks, "Hi"), strict=True))] if asks else []
    role, content = (
        tf.constant([[message[key] for message in messages]], tf.string)
        for key in MESSAGE
    )
    tokens, _ = task.text_generator().chat_tokens(template, role=role, content=content)
    is_short = tokens.row_lengths()[0] < task.backbone.config.max_sequence_length
    return messages if is_short else []


def _prompts(task: GPTCausalLM) -> list[str]:
    """Returns the prompts, as far as the context has room for them."""
    counts = task.text_generator().prompt_tokens(tf.constant(PROMPTS)).row_lengths()
    if max(counts.numpy()) >= task.backbone.config.max_sequence_length:
        return [""] * len(PROMPTS)  # a context too short for anything else
    return list(PROMPTS)


def _expected(
    task: GPTCausalLM, served: ServedOptions, prompts: list[str], knobs: dict[str, Any]
) -> list[str]:
    """Returns what the library itself generates."""
    options = served.python_options | knobs
    texts = task.generate(
        prompts,
        max_length=task.backbone.config.max_sequence_length,
        stop_token_ids=served.stop_token_ids,
        strip_prompt=True,
        **options,
    )
    return [text if isinstance(text, str) else text[0] for text in texts]


def _check_equal(name: str, prompt: str, want: Any, got: Any) -> None:
    if want != got:
        raise ExportError(
            f"{name} of the exported model must answer like the model, but for "
            f"{prompt!r} it gave {got!r} instead of {want!r}."
        )


def run_in_fresh_process(
    folder: str | os.PathLike[str],
    calls: list[dict[str, Any]],
    *,
    warm_up: bool = False,
    python: str = sys.executable,
) -> list[dict[str, list[Any]]]:
    """Runs calls on the SavedModel in a process that imports only tensorflow.

    Args:
        folder: the version folder.
        calls: list of `{"signature": name, "inputs": {name: list}}`, see
            run_saved_model.py.
        warm_up: bool. Whether to run the model's warm-up records too. Defaults to
            False.
        python: path of the interpreter. Defaults to this one.

    Returns:
        One dict of output lists per call; bytes decoded as UTF-8 with U+FFFD.

    Raises:
        RuntimeError: if the process fails or loads anything else of this library.
    """
    # -P keeps the runner's own folder off the path: nothing of ours is in reach.
    process = subprocess.run(  # noqa: S603
        [python, "-P", str(RUNNER), str(folder)],
        input=json.dumps({"calls": calls, "warm_up": warm_up}),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the exported model in {folder} does not run: {last}")
    response = json.loads(process.stdout)
    if response["foreign_modules"]:
        raise RuntimeError(
            f"the exported model in {folder} needed {response['foreign_modules']}."
        )
    return response["responses"]
