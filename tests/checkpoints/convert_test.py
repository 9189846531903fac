"""Conversion between formats, and how much memory it takes."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from keras_gpt import (
    GPTBackbone,
    GPTCausalLM,
    GPTTextClassifier,
    convert_checkpoint,
    save_huggingface,
)


def stored(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def test_around_all_formats_and_back_is_bit_exact(golden_gpt2, tmp_path):
    places = [golden_gpt2.folder]
    for format in ("keras_gpt", "keras_hub", "huggingface", "keras_gpt"):
        places.append(tmp_path / f"{len(places)}_{format}")
        convert_checkpoint(places[-2], places[-1], format=format)
    found = stored(tmp_path / "3_huggingface")
    assert set(found) == set(golden_gpt2.tensors)
    for name, value in golden_gpt2.tensors.items():
        assert found[name].tobytes() == value.tobytes(), name
    golden_gpt2.check(GPTBackbone.from_preset(places[-1]))


def test_the_tokenizer_goes_along(causal_lm, tmp_path):
    causal_lm.save_to_preset(str(tmp_path / "preset"))
    convert_checkpoint(tmp_path / "preset", tmp_path / "hf", format="huggingface")
    convert_checkpoint(tmp_path / "hf", tmp_path / "hub", format="keras_hub")
    convert_checkpoint(tmp_path / "hub", tmp_path / "back")
    prompts = ["The king", "O my lord, you'll"]
    expected = causal_lm.generate(prompts, max_new_tokens=8, temperature=0.0)
    for name in ("hf", "hub", "back"):
        lm = GPTCausalLM.from_preset(tmp_path / name)
        lm.preprocessor.add_start_token = False  # KerasHub's presets turn it on
        assert lm.generate(prompts, max_new_tokens=8, temperature=0.0) == expected


def test_a_head_goes_along_or_is_refused(tmp_path):
    source = pathlib.Path(__file__).parents[1] / "testdata" / "heads" / "sequence"
    golden = np.load(source / "golden.npz")
    inputs = {key: golden[key] for key in ("token_ids", "padding_mask")}
    convert_checkpoint(source, tmp_path / "preset")
    convert_checkpoint(tmp_path / "preset", tmp_path / "again")
    task = GPTTextClassifier.from_preset(tmp_path / "again")
    assert task.label_names == ["poor", "fair", "good"]
    logits = task.predict(inputs, verbose=0)
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-4)
    for place in (source, tmp_path / "again"):
        for format in ("huggingface", "keras_hub"):
            with pytest.raises(ValueError, match="with a head, which would be lost"):
                convert_checkpoint(place, tmp_path / "other", format=format)
    save_huggingface(task.backbone, tmp_path / "network")
    assert not (tmp_path / "other").exists()


def test_bfloat16_stays_bfloat16(tmp_path):
    source = pathlib.Path(__file__).parents[1] / "testdata/huggingface/gpt2_bfloat16"
    convert_checkpoint(source, tmp_path / "preset")
    convert_checkpoint(tmp_path / "preset", tmp_path / "out", format="huggingface")
    before, after = stored(source), stored(tmp_path / "out")
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


@pytest.mark.parametrize("format", ["keras_gpt", "huggingface", "keras_hub"])
def test_nothing_is_left_of_a_failed_conversion(format, golden_gpt2, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    config = json.loads((golden_gpt2.folder / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config))
    damaged = dict(golden_gpt2.tensors)
    damaged["transformer.ln_f.bias"] = damaged["transformer.ln_f.bias"] * np.nan
    safetensors.numpy.save_file(damaged, source / "model.safetensors")
    with pytest.raises(ValueError, match="'transformer.ln_f.bias' must be finite"):
        convert_checkpoint(source, tmp_path / "target", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_unknown_formats(golden_gpt2, tmp_path):
    with pytest.raises(ValueError, match="format must be one of keras_gpt, .*'onnx'"):
        convert_checkpoint(golden_gpt2.folder, tmp_path / "out", format="onnx")


SLACK = 16 * 2**20  # of Python and TensorFlow themselves
CONVERT = """
import sys
from keras_gpt import convert_checkpoint
small, large, format, target = sys.argv[1:]
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
convert_checkpoint(small, target + "_small", format=format)
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = memory("VmRSS")
convert_checkpoint(large, target, format=format)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "models", "tensors"),
    [("huggingface", 0, 1), ("keras_gpt", 1, 1)],
)
def test_peak_memory(format, models, tensors, golden_gpt2, tmp_path):
    backbone = GPTBackbone(
        vocabulary_size=50257, num_layers=3, num_heads=8, hidden_dim=512
    )
    save_huggingface(backbone, tmp_path / "large")
    sizes = [weight.nbytes for weight in stored(tmp_path / "large").values()]
    result = subprocess.run(
        [sys.executable, "-c", CONVERT, golden_gpt2.folder, tmp_path / "large", format]
        + [tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
    )
    grown = int(result.stdout)
    allowed = models * sum(sizes) + tensors * max(sizes)
    assert max(sizes) / 2 < grown < allowed + SLACK
