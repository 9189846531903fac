"""Runs of fine-tuning: resumed as if unbroken, the best epoch kept, adapters alone."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import models
from keras_gpt.losses import DivergenceError
from keras_gpt.training import FinetuneConfig, finetune

NAMES = ("king", "lord", "man")
TEXTS = [f"{kind} {name}" for kind in ("good", "bad") for name in NAMES]
LABELS = ["yes"] * 3 + ["no"] * 3
QUICK = {"jit_compile": False, "batch_size": 4}
CONFIG = FinetuneConfig(epochs=4, learning_rate=0.01, **QUICK)


def make(tokenizer):
    keras.utils.set_random_seed(0)
    backbone = models.GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        dropout=0.1,
    )
    preprocessor = models.GPTTextClassifierPreprocessor(tokenizer, sequence_length=12)
    return models.GPTTextClassifier(
        backbone, preprocessor=preprocessor, label_names=["no", "yes"]
    )


def run(task, path, config=CONFIG, **kwargs):
    lines = []
    result = finetune(
        task,
        (TEXTS, LABELS),
        output_dir=str(path),
        config=config,
        progress=kwargs.pop("progress", lines.append),
        **kwargs,
    )
    return result, lines


def without_times(history):
    return [{k: v for k, v in one.items() if k != "seconds"} for one in history]


def test_a_stopped_run_goes_on_as_if_unbroken(tokenizer, tmp_path):
    whole = make(tokenizer)
    expected, _ = run(whole, tmp_path / "whole", validation=(TEXTS[2:4], LABELS[2:4]))
    assert [record["epoch"] for record in expected.history] == [1, 2, 3, 4]
    assert expected.history[-1]["loss"] < expected.history[0]["loss"]

    def stop(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            make(tokenizer),
            tmp_path / "broken",
            validation=(TEXTS[2:4], LABELS[2:4]),
            progress=stop,
        )
    again = make(tokenizer)
    found, lines = run(again, tmp_path / "broken", validation=(TEXTS[2:4], LABELS[2:4]))
    assert lines[0].startswith("goes on after epoch")
    assert without_times(found.history) == without_times(expected.history)
    for a, b in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    written = (tmp_path / "broken" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == found.history
    preset = models.GPTTextClassifier.from_preset(str(tmp_path / "broken" / "model"))
    np.testing.assert_array_equal(
        preset.predict(TEXTS, verbose=0), again.predict(TEXTS, verbose=0)
    )


def test_the_best_epoch_is_kept_and_enough_is_enough(tokenizer, tmp_path):
    task = make(tokenizer)
    # Labels turned round: the longer it learns, the worse.
    held_out = (TEXTS, LABELS[::-1])
    config = FinetuneConfig(epochs=9, learning_rate=0.02, patience=2, **QUICK)
    result, _ = run(task, tmp_path / "run", config, validation=held_out)
    losses = [record["val_loss"] for record in result.history]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == result.best_epoch + 2 < 9
    (events,) = (tmp_path / "run" / "logs").iterdir()
    logged = [
        (event.step, float(tf.make_ndarray(value.tensor)))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
        if value.tag == "val_loss"
    ]
    assert [step for step, _ in logged] == list(range(1, len(losses) + 1))
    np.testing.assert_allclose([loss for _, loss in logged], losses, rtol=1e-6)
    loss = task.evaluate(*held_out, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(min(losses), rel=1e-5)


def test_another_run_is_refused(tokenizer, tmp_path):
    task = make(tokenizer)
    short = FinetuneConfig(epochs=1, **QUICK)
    run(task, tmp_path / "run", short, identity={"data": "a"})
    with pytest.raises(ValueError, match="data is 'a' there and 'b' now"):
        run(task, tmp_path / "run", short, identity={"data": "b"})
    with pytest.raises(ValueError, match="config.epochs is 1 there and 4 now"):
        run(task, tmp_path / "run", identity={"data": "a"})


def test_an_adapter_is_trained_and_written_alone(tokenizer, tmp_path):
    task = make(tokenizer)
    task.backbone.enable_lora(2, ["query_key_value", "expand"])
    base = [w.numpy() for w in make(tokenizer).backbone.weights]
    run(task, tmp_path / "run", FinetuneConfig(epochs=2, learning_rate=0.05, **QUICK))
    task.predict(TEXTS, verbose=0)
    expected = task.predict(TEXTS, verbose=0)

    other = make(tokenizer)
    models.load_adapter(other, tmp_path / "run" / "adapter.safetensors")
    np.testing.assert_allclose(other.predict(TEXTS, verbose=0), expected, atol=1e-5)
    other.backbone.activate_adapter(None)
    for weight, value in zip(other.backbone.weights, base, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    merged = models.GPTTextClassifier.from_preset(str(tmp_path / "run" / "model"))
    np.testing.assert_allclose(merged.predict(TEXTS, verbose=0), expected, atol=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(tokenizer, tmp_path):
    task = make(tokenizer)
    task.head.kernel.assign(np.full(task.head.kernel.shape, np.nan))
    with pytest.raises(DivergenceError, match="batch 0 of epoch 0"):
        run(task, tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("layer_decay", 0.0, r"layer_decay must be in \(0, 1\], got 0.0"),
        ("warmup_share", 1.0, r"warmup_share must be in \[0, 1\), got 1.0"),
        ("clip_norm", 0.0, "clip_norm must be positive or None, got 0.0"),
        ("weight_decay", -1.0, "weight_decay must be at least 0, got -1.0"),
    ],
)
def test_settings_out_of_range(field, value, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**{field: value})
