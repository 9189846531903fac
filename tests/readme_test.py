"""Every command and every line of Python in the README runs."""

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keras_gpt import (
    GPTBackbone,
    GPTCausalLM,
    GPTCausalLMPreprocessor,
    save_huggingface,
)
from keras_gpt.data import read_questions
from keras_gpt.export import saved_model
from keras_gpt.export.server import Server, ServerOptions
from keras_gpt.export.verify import verify
from keras_gpt.export.web.static_server import StaticServer
from keras_gpt.tools import cli
from tests.export.web.stand_in import write_node_modules
from tests.free_addresses import free_addresses

README = Path(__file__).parents[1] / "README.md"
# `make` targets are what runs these tests; the demo has a test of its own.
OUTSIDE = ("make demo", "make test")
# Exports of which cli_test checks the answers: drafts, bfloat16 and stop strings.
CHECKED_ELSEWHERE = ("fast", "small")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands():
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def shortened(words):
    """Cuts training to a few steps of the same command."""
    cuts = {"--steps": "4", "--warmup_steps": "2", "--epochs": "1"}
    if "--vocabulary_size=8192" in words:  # more than the test's text fills
        cuts["--vocabulary_size"] = "300"
    if "--output=pretrained" in words:  # larger than what the other commands train
        cuts |= {"--num_layers": "1", "--hidden_dim": "32", "--context_length": "64"}
    words = [
        f"{flag}={cuts.get(flag, value)}" if has_value else flag
        for flag, has_value, value in (word.partition("=") for word in words)
    ]
    if words[0] in ("pretrain", "finetune"):
        words += ["--jit_compile=false"]  # which takes longer than a few steps
    if words[0] == "pretrain":
        words += ["--eval_batches=1"]
        if any(word.startswith("--dataset=") for word in words):
            words += ["--num_layers=1"]  # of runs that nothing else reads
        if not any(word.startswith("--warmup_steps") for word in words):
            words.append("--warmup_steps=2")
    if "--format=web" in words:  # in place of what npm would fetch
        words.append(f"--node_modules={write_node_modules(Path('node_modules'))}")
    return words


def serve(folder, servers):
    """Starts a server on free ports; returns them by those of the README."""
    options = ServerOptions(port=0, rest_api_port=0)
    server = servers.enter_context(Server(folder, options))
    return {
        "127.0.0.1:8500": server.grpc_address,
        "127.0.0.1:8501": server.rest_url.removeprefix("http://"),
    }


def run_curl(words):
    if shutil.which("curl") is None:
        return
    command = ["curl", "--silent", "--show-error", "--fail", *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert (
        '"predictions"' in found.stdout or '"finish_reason": "length"' in found.stdout
    )


def run_in_own_processes(words):
    """Runs what must begin before TensorFlow uses the devices, and each worker."""
    workers = next((w for w in words if w.startswith("--workers=")), None)
    count = 1
    if workers is not None:
        count = len(workers.split(","))
        words[words.index(workers)] = "--workers=" + ",".join(free_addresses(count))
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "keras_gpt.tools.cli", *words],
            env={**os.environ, "JOB_COMPLETION_INDEX": str(index)},
        )
        for index in range(count)
    ]
    for process in processes:
        assert process.wait(timeout=600) == 0, words


CONTEXT = "In 1850 the king of Rome was Ada , who is dead ."
QUESTION = "Who was the king ?"


def write_squad():
    """Writes questions in each of the forms that the README reads."""
    row = {"question": QUESTION, "context": CONTEXT, "answer_text": "Ada"}
    Path("squad_train.jsonl").write_text((json.dumps(row) + "\n") * 9)
    answer = {"text": "Ada", "answer_start": CONTEXT.index("Ada")}
    entry = {"id": "1", "question": QUESTION, "answers": [answer]}
    paragraph = {"context": CONTEXT, "qas": [entry]}
    data = {"data": [{"paragraphs": [paragraph]}]}
    Path("squad_dev-v1.1.json").write_text(json.dumps(data))
    parts = {  # the second span is broken, as some of the real ones are
        "context": [CONTEXT, CONTEXT],
        "question": [QUESTION, QUESTION],
        "answer": ["Ada", "Ada"],
        "span": ["7 7", "7 6"],
    }
    for name, lines in parts.items():
        Path(f"squad_trainpart_tok.{name}").write_text("\n".join(lines) + "\n")


def test_commands_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "".join(
        f"The king of line {n} is dead; {n * n} mourn.\n" for n in range(900)
    )
    words = " ".join(
        f"{a}{b}{c}ing" for a in "bcdfgh" for b in "aeiou" for c in "lmnrst"
    )
    Path("corpus.txt").write_text((text + words) * 3)
    reviews = "".join(f"review {n} is good,glad\nand {n} bad,sad\n" for n in range(9))
    Path("reviews.csv").write_text("text,label\n" + reviews)
    Path("wikitext2_train.txt").write_text(text)
    write_squad()
    pages = "".join(f'{{"text": "Page {n} of the king."}}\n' for n in range(99))
    Path("pages.jsonl.gz").write_bytes(gzip.compress(pages.encode()))
    with contextlib.ExitStack() as servers:
        addresses = {}
        for command in commands():
            if command in OUTSIDE:
                continue
            if command == "keras-gpt serve --model=served":
                addresses = serve("served", servers)
                continue
            if command == "keras-gpt serve --web=page":
                StaticServer("page", port=0).close()
                continue
            for ours, free in addresses.items():
                command = command.replace(ours, free)
            program, *words = shlex.split(command)
            if program == "curl":
                run_curl(words)
                continue
            assert program == "keras-gpt", command
            if any(word.startswith("--strategy=") for word in words):
                run_in_own_processes(shortened(words))
                continue
            assert cli.main(shortened(words)) == 0, command
    assert Path("served/1/saved_model.pb").exists()


def test_python_runs(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)

    def check(written, checks):
        if written.parents[1].name not in CHECKED_ELSEWHERE:
            verify(written, checks)

    monkeypatch.setattr(saved_model, "verify", check)
    write_squad()
    # In place of the download: a directory goes before a name on the hub.
    gpt2 = GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=128,
    )
    save_huggingface(GPTCausalLM(gpt2, GPTCausalLMPreprocessor(tokenizer)), "gpt2")
    scope = {}
    with contextlib.ExitStack() as servers:
        for block in blocks("python"):
            if "GPTClient(" in block:
                for ours, free in serve("served_model", servers).items():
                    block = block.replace(ours, free)
            exec(compile(block, "README.md", "exec"), scope)  # noqa: S102
    (question,) = read_questions("squad_train.jsonl")
    assert question.answers == (("Ada", CONTEXT.index("Ada")),)
    assert Path("served_model/1/saved_model.pb").exists()


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "venv"])
def test_make_targets_exist(target):
    makefile = (README.parent / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
