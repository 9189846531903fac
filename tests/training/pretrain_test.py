"""Tests of whole pretraining runs with a tiny model."""

import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.config import GPTConfig
from keras_gpt.data import (
    CorpusData,
    TokenCorpus,
    encode_corpus,
)
from keras_gpt.tokenizer import train_tokenizer
from keras_gpt.training import (
    CheckpointError,
    CheckpointManager,
    DivergenceError,
    PretrainConfig,
    checkpointing,
    pretrain,
)

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40

# Run in a process of its own too, to be killed there.
SETUP = """
    import pathlib
    from keras_gpt.config import GPTConfig
    from keras_gpt.tokenizer import train_tokenizer
    from keras_gpt.training import PretrainConfig, pretrain

    def run(corpus, output, progress=print):
        texts = [pathlib.Path(corpus)]
        tokenizer = train_tokenizer(texts, kind="char", end_token=False)
        model = GPTConfig.named(
            "gpt_nano", vocabulary_size=tokenizer.vocabulary_size(), num_layers=1,
            hidden_dim=16, max_sequence_length=16, dropout=0.1,
        )
        config = PretrainConfig(
            model=model, steps=24, batch_size=4, learning_rate=0.01, warmup_steps=2,
            eval_every=6, eval_batches=2, checkpoint_every=4, log_every=3, seed=5,
            jit_compile=False,
        )
        return pretrain(config, corpus_paths=[corpus], tokenizer=tokenizer,
                        output_dir=output, progress=progress)
"""

exec(textwrap.dedent(SETUP))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("finished") / "run")
    lines = []
    return run(corpus, output, lines.append), lines  # noqa: F821


def _losses(output):
    with open(os.path.join(output, "losses.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_a_run_leaves_its_files(finished):
    result, lines = finished
    assert set(os.listdir(result.output_dir)) == {
        "run.json",
        "checkpoints",
        "losses.jsonl",
        "logs",
        "loss.png",
        "model",
        "report.json",
    }
    picture = os.path.join(result.output_dir, "loss.png")
    with open(picture, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    steps = [r["step"] for r in _losses(result.output_dir) if r["kind"] == "train"]
    assert steps == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20, 21, 24]
    assert any("step 24/24  loss" in line and "tokens/s" in line for line in lines)
    assert any(line.startswith("step 0/24  validation loss") for line in lines)


def test_report_holds_what_was_measured(finished):
    report = finished[0].report
    losses = _losses(finished[0].output_dir)
    checked = [r["loss"] for r in losses if r["kind"] == "validation"]
    whole = losses[-1]["loss"]
    assert report["validation_loss"]["first"] == checked[0]
    assert report["validation_loss"]["best"] == min(checked)
    assert losses[-1]["kind"] == "final"
    assert report["validation_loss"]["final"] == whole
    assert checked[-1] < checked[0] - 0.5
    assert report["steps"] == 24 and report["seed"] == 5
    assert report["tokens_per_second"] > 0
    held_out = report["corpus"]["validation_bytes"]
    assert held_out + report["corpus"]["train_bytes"] == len(TEXT)
    # A character a token here: per byte is per token, but for the first one.
    assert report["validation_loss"]["final_per_byte"] == pytest.approx(
        whole * (held_out - 1) / held_out
    )


def test_final_loss_is_that_of_the_saved_model(finished):
    result, _ = finished
    model = result.model
    report = result.report["corpus"]
    ids = model.preprocessor.tokenizer.tokenize(TEXT).numpy()
    ids = ids[report["train_tokens"] :]
    losses = []
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        hidden = model.backbone.forward(tf.constant(window[None, :-1])).hidden
        log_probs = tf.nn.log_softmax(model.backbone.logits(hidden))[0].numpy()
        losses.extend(-log_probs[np.arange(len(window) - 1), window[1:]])
    assert len(losses) == report["validation_tokens"]
    assert result.report["validation_loss"]["final"] == pytest.approx(
        np.mean(losses), rel=1e-5
    )


def test_tensorboard_log_holds_the_losses(finished):
    result, _ = finished
    logs = os.path.join(result.output_dir, "logs")
    found = {}
    for name in os.listdir(logs):
        for record in tf.data.TFRecordDataset(os.path.join(logs, name)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                scalar = float(tf.make_ndarray(value.tensor))
                found[value.tag, event.step] = scalar
    for record in _losses(result.output_dir):
        tag = f"loss/{record['kind']}"
        assert found[tag, record["step"]] == pytest.approx(record["loss"])


def test_a_finished_run_is_returned(finished, corpus):
    result, _ = finished
    lines = []
    again = run(corpus, result.output_dir, lines.append)  # noqa: F821
    assert again.report == result.report
    assert lines == [f"{result.output_dir} holds this run, finished."]
    for one, other in zip(
        again.model.backbone.get_weights(),
        result.model.backbone.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_model_can_be_trained_on(finished):
    model = finished[0].model
    weights = model.get_weights()
    model.compile(optimizer="adam")
    model.fit(tf.data.Dataset.from_tensors(["the quick brown"]), verbose=0)
    model.set_weights(weights)


KILL = """
    import os, signal, sys

    def progress(line):
        if line.startswith(f"step {sys.argv[3]}/24  loss"):
            os.kill(os.getpid(), signal.SIGKILL)

    run(sys.argv[1], sys.argv[2], progress)
"""


def _run_until_killed(corpus, output, step):
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SETUP) + textwrap.dedent(KILL),
            corpus,
            output,
            str(step),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]


def test_a_killed_run_goes_on_as_if_never_killed(finished, corpus, tmp_path):
    unbroken, _ = finished
    output = str(tmp_path / "run")
    _run_until_killed(corpus, output, 15)
    # The record of step 15 lies after the last checkpoint; cut in half, too.
    with open(os.path.join(output, "losses.jsonl"), "a", encoding="utf-8") as file:
        file.write('{"kind": "tra')
    lines = []
    resumed = run(corpus, output, lines.append)  # noqa: F821
    assert f"Resuming {output} at step 12." in lines
    # Dropout is on: its random state was resumed as well.
    assert _losses(output) == _losses(unbroken.output_dir)
    for one, other in zip(
        resumed.model.backbone.get_weights(),
        unbroken.model.backbone.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_another_run_is_refused(finished, corpus, tmp_path):
    result, _ = finished
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = _config(tokenizer, steps=24, learning_rate=0.02)
    with pytest.raises(
        ValueError, match=r"config\.learning_rate is 0\.01 there and 0\.02 now"
    ):
        _pretrain(config, corpus, tokenizer, result.output_dir)
    other = tmp_path / "other.txt"
    other.write_text(TEXT + "the dog.")
    with pytest.raises(ValueError, match=r"holds another run: corpus\.sha256 is"):
        run(str(other), result.output_dir)  # noqa: F821
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(ValueError, match=r"no run\.json and other files: other\.txt"):
        run(corpus, str(tmp_path))  # noqa: F821
    with pytest.raises(ValueError, match="must be a directory"):
        run(corpus, corpus)  # noqa: F821


def _config(tokenizer, **fields):
    model = GPTConfig.named(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        hidden_dim=16,
        max_sequence_length=16,
    )
    return PretrainConfig(model=model, batch_size=4, **fields)


def _pretrain(config, corpus, tokenizer, output):
    return pretrain(
        config,
        corpus_paths=[corpus],
        tokenizer=tokenizer,
        output_dir=str(output),
        progress=lambda line: None,
    )


def test_divergence_stops_the_run(corpus, tmp_path):
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = _config(
        tokenizer, steps=40, learning_rate=1e30, clip_norm=None, jit_compile=False
    )
    with pytest.raises(
        DivergenceError,
        match="not finite at step .* on tokens .*learning_rate.*no earlier checkpoint",
    ):
        _pretrain(config, corpus, tokenizer, tmp_path / "run")
    assert os.listdir(tmp_path / "run" / "checkpoints") == []
    found = json.loads((tmp_path / "run" / "diverged.json").read_text())
    # The examples are those that the step really read.
    corpus_ids = encode_corpus([TEXT], tokenizer=tokenizer).train
    data = CorpusData(
        TokenCorpus(corpus_ids, corpus_ids[:9], 1, 1),
        context_length=16,
        vocabulary_size=tokenizer.vocabulary_size(),
    )
    batch = next(
        data.training_batches(
            seed=0, batch_size=4, start_step=found["step"] - 1, rows=(0, 4)
        )
    )
    for window, name in zip(batch.windows, found["examples"], strict=True):
        _, first, _, last = name.split()
        np.testing.assert_array_equal(window[:-1], corpus_ids[int(first) : int(last)])


def test_no_better_loss_ends_the_run_early(corpus, tmp_path):
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = _config(
        tokenizer, steps=40, learning_rate=1e-12, eval_every=4, patience=2,
        jit_compile=False,
    )  # fmt: skip
    report = _pretrain(config, corpus, tokenizer, tmp_path / "run").report
    losses = [r["loss"] for r in _losses(tmp_path / "run") if r["kind"] == "validation"]
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    assert report["stopped_early"] and report["steps"] == 4 * (len(losses) - 1) < 40
    assert report["validation_loss"]["final"] == pytest.approx(losses[0], abs=0.2)


def test_samples_are_logged_and_do_not_disturb(finished, corpus, tmp_path):
    result, _ = finished
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = dataclasses.replace(
        _config(tokenizer, steps=4, jit_compile=False), sample_tokens=5
    )
    plain = dataclasses.replace(config, sample_tokens=0)
    _pretrain(config, corpus, tokenizer, tmp_path / "run")
    _pretrain(plain, corpus, tokenizer, tmp_path / "plain")
    assert _losses(tmp_path / "run") == _losses(tmp_path / "plain")
    texts = {}
    for name in os.listdir(tmp_path / "run" / "logs"):
        path = str(tmp_path / "run" / "logs" / name)
        for record in tf.data.TFRecordDataset(path):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "sample":
                    (text,) = tf.make_ndarray(value.tensor).reshape(-1)
                    texts[event.step] = text.decode()
    assert set(texts) == {0, 4}
    for text in texts.values():
        # The first token of the vocabulary, and five more.
        assert len(text.replace("\n    ", "\n")) == 4 + 6


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"accumulate": 3}, "batch_size must be a multiple of accumulate"),
        ({"batch_size": 4, "accumulate": 8}, "batch_size must be a multiple of"),
    ],
)
def test_batches_that_cannot_be_cut(corpus, tmp_path, fields, message):
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = dataclasses.replace(_config(tokenizer, steps=2), **fields)
    with pytest.raises(ValueError, match=message):
        _pretrain(config, corpus, tokenizer, tmp_path / "run")


def test_disk_full_stops_the_run_and_it_can_go_on(corpus, tmp_path, monkeypatch):
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    config = _config(tokenizer, steps=4, checkpoint_every=2, jit_compile=False)
    write = checkpointing._write_values

    def full_at_step_4(prefix, values):
        if "00000004" in prefix:
            raise OSError(28, "No space left on device")
        write(prefix, values)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "_write_values", full_at_step_4)
        with pytest.raises(CheckpointError, match="No space.*step_00000002"):
            _pretrain(config, corpus, tokenizer, tmp_path / "run")
    assert _pretrain(config, corpus, tokenizer, tmp_path / "run").report["steps"] == 4


def test_corpora_that_do_not_fit(corpus, tmp_path):
    tokenizer = train_tokenizer([pathlib.Path(corpus)], kind="char", end_token=False)
    short = tmp_path / "short.txt"
    short.write_text("the dog")
    config = _config(tokenizer, steps=2)
    with pytest.raises(ValueError, match=r"context_length \+ 1 = 17 tokens, got"):
        _pretrain(config, str(short), tokenizer, tmp_path / "run")
    with pytest.raises(ValueError, match="does not exist"):
        _pretrain(config, str(tmp_path / "none.txt"), tokenizer, tmp_path / "run")
    small = dataclasses.replace(
        config, model=dataclasses.replace(config.model, vocabulary_size=3)
    )
    with pytest.raises(ValueError, match="tokenizer must have at most"):
        _pretrain(small, corpus, tokenizer, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"batch_size": -1},
        {"batch_size": True},
        {"context_length": 65},
        {"context_length": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"min_learning_rate": 1.0},
        {"warmup_steps": 10},
        {"warmup_steps": -1},
        {"beta_1": 1.0},
        {"beta_2": -0.1},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
        {"eval_every": 0},
        {"eval_batches": 0},
        {"checkpoint_every": 0},
        {"keep_checkpoints": 0},
        {"log_every": 0},
        {"seed": -1},
        {"seed": 2**31},
        {"validation_fraction": 1.0},
        {"dtype_policy": "float16"},
        {"jit_compile": "no"},
        {"optimizer": "sgd"},
        {"schedule": "step"},
        {"accumulate": 0},
        {"patience": 0},
        {"decay_fraction": 0.0},
        {"sample_tokens": -1},
        {"model": "gpt_nano"},
    ],
    ids=str,
)
def test_config_checks_itself(fields):
    name = next(iter(fields))
    base = {"model": GPTConfig.named("gpt_nano"), "steps": 10, "batch_size": 2}
    with pytest.raises(ValueError, match=f"^{name} must be"):
        PretrainConfig(**{**base, **fields})


def test_config_defaults():
    config = PretrainConfig(model=GPTConfig.named("gpt_nano"), steps=10, batch_size=2)
    assert config.context_length == 64 and config.tokens_per_step == 128
    assert config.min_learning_rate == pytest.approx(config.learning_rate / 10)


def test_checkpoint_manager_is_what_pretrain_uses(finished):
    directory = os.path.join(finished[0].output_dir, "checkpoints")
    manager = CheckpointManager(directory, variables={})
    assert manager.steps() == [20, 24]
    assert manager.state(24).validation_loss is not None
