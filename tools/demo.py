"""From a text to a served model: vocabulary, training, samples, export."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from keras_gpt.tools import command, inputs

DESCRIPTION = "from a text to a served model, in a few minutes"
# Written first of all: only a folder that has it is ever cleared.
MARKER = ".keras_gpt_demo"
OWN_FILES = {
    MARKER,
    "corpus.txt",
    "run",
    "model",
    "saved_model",
    "report.json",
    ".report.json",
    "loss.png",
}
VOCABULARY_SIZE = 1024
PROMPTS = ("The ", "If the object is", "")


def define_flags(flags: absl_flags.FlagValues) -> None:
    """Defines the tool's flags."""
    absl_flags.DEFINE_string(
        "output", "build/demo", "Folder to write; a demo's own is made afresh",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_multi_string(
        "corpus", [], "UTF-8 text file or glob pattern; may be repeated. Without it, "
        "the language reference that ships with Python",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_integer("steps", 600, "Training steps", flag_values=flags)
    absl_flags.DEFINE_integer(
        "vocabulary_size", VOCABULARY_SIZE, "Token ids to learn", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> None:
    """Runs the tool."""
    started = time.monotonic()
    output = Path(flags.output)
    paths = inputs.text_paths(flags.corpus) if flags.corpus else []
    _make_afresh(output)
    if not paths:
        paths = [_python_reference(output / "corpus.txt")]
    from keras_gpt.tokenizer import train_tokenizer
    from keras_gpt.training import pretrain

    print(f"1/5 learning {flags.vocabulary_size} tokens from {len(paths)} file(s)")
    tokenizer = train_tokenizer(paths, vocabulary_size=flags.vocabulary_size)
    config = _config(flags.steps, tokenizer.vocabulary_size())
    print(f"2/5 training {config.model.num_parameters:,} weights")
    result = pretrain(
        config,
        corpus_paths=paths,
        tokenizer=tokenizer,
        output_dir=output / "run",
        progress=lambda line: print(f"    {line}", flush=True),
    )
    shutil.copytree(output / "run" / "model", output / "model")
    shutil.copy(output / "run" / "loss.png", output / "loss.png")
    print("3/5 writing text")
    samples = _samples(result.model)
    print("4/5 exporting, checked in a process with tensorflow alone")
    served = _export_and_serve(result.model, output)
    print(f"5/5 the served model continues {PROMPTS[0]!r}:\n{served}")
    _write_report(output, result.report, samples, served)
    loss = result.report["validation_loss"]
    print(
        f"validation loss {loss['first']:.2f} -> {loss['final']:.2f} nats per token, "
        f"{time.monotonic() - started:.0f} s in all; see {output}"
    )


def _config(steps: int, vocabulary_size: int) -> Any:
    from keras_gpt.config import GPTConfig
    from keras_gpt.training import PretrainConfig

    return PretrainConfig(
        model=GPTConfig.named(
            "gpt_char",
            vocabulary_size=vocabulary_size,
            hidden_dim=192,
            head_dim=None,
            num_heads=6,
            max_sequence_length=128,
        ),
        steps=steps,
        batch_size=16,
        learning_rate=2e-3,
        min_learning_rate=1e-4,
        warmup_steps=min(100, steps // 2),
        beta_2=0.99,
        eval_every=max(steps // 5, 1),
        checkpoint_every=max(steps // 3, 1),
        log_every=max(steps // 30, 1),
    )


def _make_afresh(output: Path) -> None:
    """Clears what an earlier demo wrote; refuses a folder with anything else.

    Raises:
        OSError: if `output` is a file, or a folder that no demo made, or one to which
            something was added.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"output must be a folder, but {output} is a file.")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    foreign = sorted(names - OWN_FILES if MARKER in names else names)
    if foreign:
        raise FileExistsError(
            f"output must be new or a demo's, but {output} holds {foreign[0]}."
        )
    # The marker goes last, so that an interrupted clearing is taken up again.
    for name in sorted(names - {MARKER}):
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()


def _python_reference(path: Path) -> Path:
    """Writes the topics of Python's language reference as one text."""
    from pydoc_data.topics import topics

    path.write_text("\n\n".join(topics.values()), encoding="utf-8")
    return path


def _samples(lm: Any) -> list[str]:
    texts = lm.generate(
        list(PROMPTS), max_new_tokens=80, temperature=0.8, top_k=40, seed=1
    )
    for text in texts:
        print("    " + text.replace("\n", "\n    "))
    return texts


def _export_and_serve(lm: Any, output: Path) -> str:
    from keras_gpt.export import export_saved_model, verify

    path = export_saved_model(lm, output / "saved_model", temperature=0.8, top_k=40)
    call = {"signature": "serving_default", "inputs": {"text": [PROMPTS[0]]}}
    return verify.run_in_fresh_process(path, [call])[0]["generated_text"][0]


def _write_report(
    output: Path, report: dict[str, Any], samples: list[str], served: str
) -> None:
    whole = {**report, "sample": samples[0], "samples": samples, "served": served}
    temporary = output / ".report.json"
    temporary.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(output / "report.json")


if __name__ == "__main__":
    command.run_main(__name__)
