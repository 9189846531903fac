"""Checks of a written SavedModel, before it gets its final name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.export import ops
from keras_gpt.export.served_options import ServedOptions
from keras_gpt.export.signatures.knobs import SAMPLING
from keras_gpt.models.causal_lm import GPTCausalLM

RUNNER = Path(__file__).with_name("run_saved_model.py")
PROMPTS = ("", "The", " a\n\nb", "caf\u00e9 \u4e2d")
MAX_TOKENS = 16
STREAM_TOKENS = 5  # at a time
TIMEOUT = 3600.0  # seconds; a model of billions of weights takes minutes
# Of the four prompts: two greedy, two drawn.
NUM_GREEDY = 2
DRAWS = {"temperature": [0.0, 0.0, 1.0, 0.7], "seed": [0, 1, 2, 3]}
# Logits of a batch and of a single text differ in their last bits.
SCORE_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """An export that failed its own checks; nothing was left behind."""


class _Check(NamedTuple):
    """A call of the exported model, and what compares its outputs with the library's.

    Attributes:
        call: as in run_saved_model.py.
        compare: takes the outputs; raises `ExportError`.
    """

    call: dict[str, Any]
    compare: Callable[[dict[str, Any]], None]


def verify(
    task: GPTCausalLM, served: ServedOptions, folder: Path, *, xla: bool = False
) -> None:
    """Checks that a folder serves what the task generates, and nothing is foreign.

    Args:
        task: `GPTCausalLM`, with weights as they are stored.
        served: `ServedOptions`.
        folder: the version folder.
        xla: bool. Whether there is a signature `generate_xla`. Defaults to False.

    Raises:
        ExportError: if a check fails.
    """
    bad_ops = ops.forbidden(ops.ops_of(folder))
    if bad_ops:
        raise ExportError(f"the graph holds {'; '.join(bad_ops)}.")
    prompts = _prompts(task)
    checks = [
        *_generation_checks(task, served, prompts, xla=xla),
        _score_check(task, prompts),
        _tokenize_check(task, prompts),
        *_chat_checks(task, served),
    ]
    try:
        responses = run_in_fresh_process(
            folder, [check.call for check in checks], warm_up=True
        )
    except RuntimeError as error:
        raise ExportError(str(error)) from error
    for check, response in zip(checks, responses, strict=True):
        check.compare(response)


def _generation_checks(
    task: GPTCausalLM, served: ServedOptions, prompts: list[str], *, xla: bool
) -> list[_Check]:
    """Returns the checks of `generate`, in one go, in steps and in XLA."""
    knobs: dict[str, Any] = {"max_new_tokens": [MAX_TOKENS] * len(prompts)}
    if served.method == SAMPLING:
        knobs |= DRAWS
    texts = task.generate(
        prompts,
        max_length=task.backbone.config.max_sequence_length,
        stop_token_ids=served.stop_token_ids,
        strip_prompt=True,
        **served.python_options | knobs,
    )
    texts = [text if isinstance(text, str) else text[0] for text in texts]
    inputs = {"text": prompts, **knobs}

    def compare(name: str, field: str, rows: int = len(prompts)) -> Any:
        def check(outputs: dict[str, Any]) -> None:
            found = zip(prompts[:rows], texts, outputs[field], strict=False)
            for prompt, want, got in found:
                _check_equal(name, prompt, want, got)

        return check

    generated = compare("generate", "generated_text")
    checks = [_Check({"signature": "generate", "inputs": inputs}, generated)]
    if served.method == SAMPLING:
        call = {"signature": "prefill", "inputs": inputs, "max_tokens": STREAM_TOKENS}
        checks.append(_Check(call, compare("prefill and decode", "text")))
    if xla:
        # Its sums run in another order, so that draws may differ: only greedy ones.
        call = {"signature": "generate_xla", "inputs": inputs}
        checks.append(
            _Check(call, compare("generate_xla", "generated_text", NUM_GREEDY))
        )
    return checks


def _score_check(task: GPTCausalLM, prompts: list[str]) -> _Check:
    def compare(outputs: dict[str, Any]) -> None:
        totals = [score.total_log_prob for score in task.score(prompts)]
        found = zip(prompts, totals, outputs["total_log_prob"], strict=True)
        for prompt, want, got in found:
            if not np.isclose(got, want, rtol=SCORE_TOLERANCE):
                _check_equal("score", prompt, want, got)

    return _Check({"signature": "score", "inputs": {"text": prompts}}, compare)


def _tokenize_check(task: GPTCausalLM, prompts: list[str]) -> _Check:
    def compare(outputs: dict[str, Any]) -> None:
        tokens = task.text_generator().tokenizer.tokenize(prompts).to_list()
        counts = outputs["num_tokens"]
        found = zip(prompts, tokens, outputs["token_ids"], counts, strict=True)
        for prompt, want, got, count in found:
            _check_equal("tokenize", prompt, want, got[:count])

    return _Check({"signature": "tokenize", "inputs": {"text": prompts}}, compare)


def _chat_checks(task: GPTCausalLM, served: ServedOptions) -> list[_Check]:
    """Returns a check of `chat`, where there is a template and room for it."""
    template = task.preprocessor and task.preprocessor.chat_template
    if not template:
        return []
    messages = [{"role": role, "content": "Hi"} for role in template.roles]
    columns: dict[str, Any] = {
        key: [[one[key] for one in messages]] for key in ("role", "content")
    }
    tokens, _ = task.text_generator().chat_tokens(
        template, **{key: tf.constant(value) for key, value in columns.items()}
    )
    if tokens.row_lengths()[0] >= task.backbone.config.max_sequence_length:
        return []

    def compare(outputs: dict[str, Any]) -> None:
        options = served.python_options | {"max_new_tokens": MAX_TOKENS}
        options["num_return_sequences"] = 1
        answer = task.chat(messages, stop_token_ids=served.stop_token_ids, **options)
        _check_equal("chat", str(messages), answer, outputs["generated_text"][0])

    inputs = {**columns, "num_messages": [len(messages)]}
    inputs["max_new_tokens"] = [MAX_TOKENS]
    return [_Check({"signature": "chat", "inputs": inputs}, compare)]


def _prompts(task: GPTCausalLM) -> list[str]:
    """Returns the prompts, as far as the context has room for them."""
    counts = task.text_generator().prompt_tokens(tf.constant(PROMPTS)).row_lengths()
    if max(counts.numpy()) >= task.backbone.config.max_sequence_length:
        return [""] * len(PROMPTS)  # a context too short for anything else
    return list(PROMPTS)


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
    timeout: float = TIMEOUT,
) -> list[dict[str, list[Any]]]:
    """Runs calls on the SavedModel in a process that imports only tensorflow.

    Args:
        folder: the version folder.
        calls: list of `{"signature": name, "inputs": {name: list}}`, see
            run_saved_model.py.
        warm_up: bool. Whether to run the model's warm-up records too. Defaults to
            False.
        python: path of the interpreter. Defaults to this one.
        timeout: seconds that the process may take. Defaults to an hour.

    Returns:
        One dict of output lists per call; bytes decoded as UTF-8 with U+FFFD.

    Raises:
        RuntimeError: if the process fails, takes too long, or loads anything else of
            this library.
    """
    fails = f"the exported model in {folder} does not run"
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "response.json"
        try:
            # -P keeps the runner's folder off the path: nothing of ours is in reach.
            process = subprocess.run(  # noqa: S603
                [python, "-P", str(RUNNER), str(folder), str(output)],
                input=json.dumps({"calls": calls, "warm_up": warm_up}),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{fails} within {timeout:g} seconds.") from error
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{fails}: {last}")
        try:
            response = json.loads(output.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{fails}: it gave no response ({error}).") from error
    if response["foreign_modules"]:
        raise RuntimeError(
            f"the exported model in {folder} needed {response['foreign_modules']}."
        )
    return response["responses"]
