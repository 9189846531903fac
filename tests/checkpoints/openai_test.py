"""OpenAI's TensorFlow checkpoints, written here by name and layout of the release."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTTokenizer

HPARAMS = {"n_vocab": 53, "n_ctx": 24, "n_embd": 16, "n_head": 2, "n_layer": 2}
NAMES = {
    "attn.c_attn.weight": "attn/c_attn/w",
    "attn.c_attn.bias": "attn/c_attn/b",
    "attn.c_proj.weight": "attn/c_proj/w",
    "attn.c_proj.bias": "attn/c_proj/b",
    "mlp.c_fc.weight": "mlp/c_fc/w",
    "mlp.c_fc.bias": "mlp/c_fc/b",
    "mlp.c_proj.weight": "mlp/c_proj/w",
    "mlp.c_proj.bias": "mlp/c_proj/b",
    "ln_1.weight": "ln_1/g",
    "ln_1.bias": "ln_1/b",
    "ln_2.weight": "ln_2/g",
    "ln_2.bias": "ln_2/b",
}


def variables(tensors):
    """The tensors of transformers' GPT-2 as the release has them."""
    named = {
        "model/wte": tensors["transformer.wte.weight"],
        "model/wpe": tensors["transformer.wpe.weight"],
        "model/ln_f/g": tensors["transformer.ln_f.weight"],
        "model/ln_f/b": tensors["transformer.ln_f.bias"],
    }
    for block in range(2):
        for theirs, name in NAMES.items():
            value = tensors[f"transformer.h.{block}.{theirs}"]
            # The release keeps kernels as convolutions of width 1.
            named[f"model/h{block}/{name}"] = value[None] if value.ndim == 2 else value
    return named


def write(folder, named, hparams=HPARAMS):
    folder.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=list(named),
        shape_and_slices=[""] * len(named),
        tensors=[tf.constant(value) for value in named.values()],
    )
    (folder / "hparams.json").write_text(json.dumps(hparams))
    return folder


@pytest.fixture
def release(tmp_path, golden_gpt2):
    return write(tmp_path / "release", variables(golden_gpt2.tensors))


def test_logits_are_those_of_transformers(release, golden_gpt2):
    golden_gpt2.check(GPTBackbone.from_preset(release))


def test_without_a_vocabulary_there_is_no_preprocessor(release):
    assert GPTCausalLM.from_preset(release).preprocessor is None


def test_encoder_json_and_vocab_bpe(tmp_path, golden_gpt2, shared_data):
    named = variables(golden_gpt2.tensors)
    named["model/wte"] = np.random.default_rng(0).normal(size=[50257, 16])
    named["model/wte"] = named["model/wte"].astype(np.float32)
    folder = write(tmp_path / "release", named, HPARAMS | {"n_vocab": 50257})
    shutil.copy(shared_data / "gpt2_encoder.json", folder / "encoder.json")
    shutil.copy(shared_data / "gpt2_vocab.bpe", folder / "vocab.bpe")
    lm = GPTCausalLM.from_preset(folder)
    # Published: "Hello world" is 15496, 995 in GPT-2.
    ids = lm.preprocessor.tokenizer.tokenize("Hello world")
    np.testing.assert_array_equal(ids, [15496, 995])
    assert lm.preprocessor.sequence_length == 24
    text = lm.generate("Hello world", max_new_tokens=3, temperature=0.0)
    assert text.startswith("Hello world") and len(text) > len("Hello world")
    tokenizer = GPTTokenizer.from_preset(folder)
    np.testing.assert_array_equal(tokenizer.tokenize("Hello world"), ids)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"n_vocab": 53}, "hparams.json must have the key n_ctx, n_embd"),
        (HPARAMS | {"n_moe": 2}, "hparams.json must have no other keys, got n_moe"),
        (HPARAMS | {"n_head": 3}, "hparams.json: hidden_dim must be divisible"),
        (
            HPARAMS | {"n_ctx": 12},
            r"wrong shape: model/wpe must be \(12, 16\), is \(24, 16\)",
        ),
        (HPARAMS | {"n_layer": 1}, r"unknown: model/h1/attn/c_attn/b \(48,\)"),
        (
            HPARAMS | {"n_layer": 3},
            r"missing: model/h2/attn/c_attn/w \(1, 16, 48\)",
        ),
    ],
)
def test_hparams_that_do_not_fit(hparams, message, release):
    (release / "hparams.json").write_text(json.dumps(hparams))
    with pytest.raises(ValueError, match=message):
        GPTBackbone.from_preset(release)


@pytest.mark.parametrize("name", ["hparams.json", "model.ckpt.index"])
def test_missing_files(name, release):
    (release / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        GPTBackbone.from_preset(release)


def test_a_missing_data_file(release):
    (release / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"model\.ckpt.* must be a whole TensorFlow"):
        GPTBackbone.from_preset(release)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damaged_files(suffix, how, release):
    path = release / f"model.ckpt.{suffix}"
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.ckpt.* must be a whole TensorFlow"):
        GPTBackbone.from_preset(release)
