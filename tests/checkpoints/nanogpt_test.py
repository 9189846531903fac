"""nanoGPT's checkpoint files. Reading them needs torch; without it, they say so."""

import sys

import numpy as np
import pytest

from keras_gpt import GPTBackbone, GPTCausalLM

ARGUMENTS = {
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 24,
    "block_size": 24,
    "bias": True,
    "vocab_size": 61,
    "dropout": 0.0,
}


def weights(golden, torch, *, prefix="", tied_copy=True):
    """The tensors of transformers' GPT-2 as nanoGPT's modules hold them."""
    found = {}
    for name, value in golden.tensors.items():
        is_kernel = name.split(".")[-2] in ("c_attn", "c_proj", "c_fc")
        is_kernel = is_kernel and value.ndim == 2
        found[prefix + name] = torch.tensor(value.T if is_kernel else value)
    if tied_copy:
        found[f"{prefix}lm_head.weight"] = found[f"{prefix}transformer.wte.weight"]
    return found


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading .pt files needs torch")


@pytest.fixture
def write(tmp_path, torch, golden_gelu):
    def write(model=None, **changes):
        content = {
            "model": model or weights(golden_gelu, torch),
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
            "model_args": ARGUMENTS,
            "iter_num": 7,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare_char"},
            **changes,
        }
        torch.save(content, tmp_path / "ckpt.pt")
        return tmp_path / "ckpt.pt"

    return write


def test_logits_are_those_of_transformers(write, golden_gelu):
    path = write()
    golden_gelu.check(GPTBackbone.from_preset(path))
    golden_gelu.check(GPTBackbone.from_preset(path.parent))


def test_compiled_models_and_older_buffers(write, torch, golden_gelu):
    model = weights(golden_gelu, torch, prefix="_orig_mod.", tied_copy=False)
    model["_orig_mod.transformer.h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    arguments = {key: ARGUMENTS[key] for key in ARGUMENTS if key != "dropout"}
    golden_gelu.check(GPTBackbone.from_preset(write(model, model_args=arguments)))


def test_files_of_old_versions_of_torch(write, torch, golden_gelu):
    path = write()
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    golden_gelu.check(GPTBackbone.from_preset(path))


def test_without_biases(write, torch, golden_gelu):
    model = {
        name: value
        for name, value in weights(golden_gelu, torch).items()
        if not name.endswith(".bias")
    }
    path = write(model, model_args=ARGUMENTS | {"bias": False})
    backbone = GPTBackbone.from_preset(path)
    assert not backbone.config.use_bias
    assert backbone.config.activation == "gelu"
    kernel = backbone.transformer_layers[1].mlp.expand.kernel.numpy()
    np.testing.assert_array_equal(
        kernel, golden_gelu.tensors["transformer.h.1.mlp.c_fc.weight"]
    )


def test_bfloat16(write, torch, golden_gelu):
    model = {n: v.bfloat16() for n, v in weights(golden_gelu, torch).items()}
    table = GPTBackbone.from_preset(write(model)).token_embedding.embeddings.numpy()
    expected = model["transformer.wte.weight"].float().numpy()
    np.testing.assert_array_equal(table, expected)


def test_a_vocabulary_beside_it_is_read(write, tmp_path, tokenizer):
    path = write()
    assert GPTCausalLM.from_preset(path).preprocessor is None
    tokenizer.save_files(tmp_path)
    with pytest.raises(ValueError, match="at most the model's 61 ids, got 300"):
        GPTCausalLM.from_preset(path)


def test_an_object_in_the_pickle_is_not_made(write, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = write(config=Bomb())
    with pytest.raises(ValueError, match="must hold weights and numbers alone"):
        GPTBackbone.from_preset(path)
    assert not (tmp_path / "exploded").exists()


def test_broken_files(write, tmp_path):
    path = write()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"ckpt\.pt must be a whole file of torch"):
        GPTBackbone.from_preset(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_args": None}, "must be a nanoGPT checkpoint with a dict 'model_args'"),
        (
            {"model_args": {"n_layer": 3}},
            r"model_args must have the keys .*missing: \['n_head'",
        ),
        ({"model_args": ARGUMENTS | {"rope": 1}}, r"unknown: \['rope'\]"),
        (
            {"model_args": ARGUMENTS | {"block_size": 8}},
            r"wrong shape: transformer\.wpe\.weight must be \(8, 24\)",
        ),
    ],
)
def test_contents_that_do_not_fit(changes, message, write):
    with pytest.raises(ValueError, match=message):
        GPTBackbone.from_preset(write(**changes))


def test_a_head_that_is_not_tied(write, torch, golden_gelu):
    model = weights(golden_gelu, torch)
    model["lm_head.weight"] = model["lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head\.weight must equal"):
        GPTBackbone.from_preset(write(model))


def test_without_torch_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "ckpt.pt").write_bytes(b"")
    with pytest.raises(ImportError, match="needs torch, which is not installed"):
        GPTBackbone.from_preset(tmp_path)
