"""Checkpoints of transformers, against golden files that transformers wrote."""

import dataclasses
import functools
import gc
import json
import pathlib
import shutil
import weakref

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, presets, save_huggingface
from keras_gpt.checkpoints.weight_names import weights_of

FOLDER = pathlib.Path(__file__).parents[1] / "testdata" / "huggingface"
CASES = sorted(path.name for path in FOLDER.iterdir())
BEAMS = {
    "plain": {},
    "long": {"length_penalty": 2.0},
    "early": {"early_stopping": True},
}


@functools.cache
def golden(case):
    return dict(np.load(FOLDER / case / "golden.npz"))


@functools.cache
def model(case):
    return GPTCausalLM.from_preset(FOLDER / case, dtype="float32")


def stored(folder):
    """Every tensor of a folder's files, by its full name."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(path)
    return tensors


def copy(case, folder):
    shutil.copytree(FOLDER / case, folder, dirs_exist_ok=True)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return folder


def assert_close(got, expected, tolerance):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def test_every_case_is_there():
    assert len(CASES) >= 7 and {"gpt2", "gpt1"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss(case):
    ids, expected = golden(case)["token_ids"], golden(case)["logits"]
    logits = model(case)({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    assert_close(logits, expected, 1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(loss(ids[:, 1:], logits[:, :-1])) == pytest.approx(
        float(golden(case)["loss"]), rel=1e-6
    )


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_of_every_layer(case):
    backbone = model(case).backbone
    layers = backbone.transformer_layers
    outputs = [backbone.embeddings_dropout.output]
    outputs += [keras.tree.flatten(layer.output)[0] for layer in layers]
    if backbone.config.normalize_first:  # transformers gives its last one normed
        outputs[-1] = backbone.layer_norm.output
    ids = golden(case)["token_ids"]
    hidden = keras.Model(backbone.inputs, outputs)(
        {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    )
    assert len(hidden) == backbone.config.num_layers + 1
    for index, states in enumerate(hidden):
        assert_close(states, golden(case)[f"hidden/{index}"], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_every_weight(case):
    backbone = model(case).backbone
    ids = golden(case)["token_ids"]
    with tf.GradientTape() as tape:
        logits = backbone.logits(backbone.forward(ids, training=False).hidden)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            ids[:, 1:], logits[:, :-1]
        )
        loss = tf.reduce_mean(losses)
    variables = {variable.path: variable for variable in backbone.trainable_variables}
    gradients = tape.gradient(loss, {p: v.value for p, v in variables.items()})
    naming = "gpt2" if backbone.config.normalize_first else "gpt1"
    weights = weights_of(backbone.config, naming)
    assert len(weights) == len(variables)
    for weight in weights:
        (got,) = weight.to_stored(tf.convert_to_tensor(gradients[weight.path]).numpy())
        assert_close(got, golden(case)[f"gradient/{weight.names[0]}"], 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_greedy_and_beam_continuations(case):
    prompts = golden(case)["token_ids"][:, :5]
    end_id = json.loads((FOLDER / case / "config.json").read_text())["eos_token_id"]
    options = {
        "max_length": 17,
        "stop_token_ids": None if end_id is None else [end_id],
        "temperature": 0.0,
    }
    inputs = {"token_ids": prompts, "padding_mask": np.ones_like(prompts)}
    greedy = model(case).generate(inputs, **options)
    for row in range(len(prompts)):
        expected = without_end(golden(case)[f"greedy/{row}"][0], end_id)
        np.testing.assert_array_equal(real(greedy, row), expected)
    del options["temperature"]
    for kind, settings in BEAMS.items():
        beams = model(case).generate(
            inputs, num_beams=3, num_return_sequences=2, **settings, **options
        )
        for row in range(len(prompts)):
            for place, sequence in enumerate(golden(case)[f"beam_{kind}/{row}"]):
                np.testing.assert_array_equal(
                    real(beams, 2 * row + place), without_end(sequence, end_id)
                )


def real(result, row):
    return result["token_ids"][row][result["padding_mask"][row]]


def without_end(sequence, end_id):
    """Drops the padding, and the end token after the prompt, as we do."""
    sequence = sequence[sequence >= 0]
    ends = np.flatnonzero(sequence[5:] == end_id) if end_id is not None else []
    return sequence[: 5 + ends[0]] if len(ends) else sequence


def test_options_become_fields():
    config = model("gpt2_scaled_silu").backbone.config
    assert config.scale_attention_by_inverse_layer and config.upcast_attention
    assert (config.dropout, config.embedding_dropout, config.attention_dropout) == (
        0.2, 0.0, 0.3,
    )  # fmt: skip
    assert (config.intermediate_dim, config.activation) == (20, "silu")
    assert config.layer_norm_epsilon == 1e-3
    config = model("gpt2_gelu").backbone.config
    assert (config.intermediate_dim, config.activation) == (96, "gelu")
    assert config.initializer_stddev == 0.25
    # Equal rates are one rate, so that one override changes all of them.
    assert model("gpt2").backbone.config.attention_dropout is None


def test_arguments_of_from_preset():
    backbone = GPTBackbone.from_preset(FOLDER / "gpt2", dropout=0.0, dtype="bfloat16")
    assert backbone.config.dropout == 0.0
    assert {variable.dtype for variable in backbone.weights} == {"bfloat16"}
    fresh = GPTBackbone.from_preset(FOLDER / "gpt2", load_weights=False)
    table = model("gpt2").backbone.token_embedding.embeddings.numpy()
    assert not np.allclose(fresh.token_embedding.embeddings.numpy(), table)
    with pytest.raises(ValueError, match="hidden_dim, head_dim must be as in"):
        GPTBackbone.from_preset(FOLDER / "gpt2", hidden_dim=32, head_dim=16)
    assert GPTCausalLM.from_preset(FOLDER / "gpt2", name="mine").name == "mine"


@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_exact(case, tmp_path):
    lm = GPTCausalLM.from_preset(
        FOLDER / case, dtype="bfloat16" if "bfloat16" in case else "float32"
    )
    save_huggingface(lm, tmp_path / "out")
    before, after = stored(FOLDER / case), stored(tmp_path / "out")
    assert set(after) == set(before)
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert after[name].tobytes() == value.tobytes()
    again = GPTBackbone.from_preset(tmp_path / "out")
    assert again.config == lm.backbone.config
    theirs = json.loads((FOLDER / case / "config.json").read_text())
    ours = json.loads((tmp_path / "out" / "config.json").read_text())
    skipped = {"n_inner", "bos_token_id", "eos_token_id"}
    for key in set(ours) - skipped:
        assert ours[key] == theirs[key], key


def test_a_network_without_biases_leaves_with_zeros_and_comes_back(tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", use_bias=False)
    save_huggingface(backbone, tmp_path / "out")
    tensors = stored(tmp_path / "out")
    assert not tensors["transformer.h.0.mlp.c_fc.bias"].any()
    again = GPTBackbone.from_preset(tmp_path / "out")
    assert again.config == backbone.config
    for ours, theirs in zip(backbone.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    tensors["transformer.h.0.mlp.c_fc.bias"][3] = 1.0
    write(tmp_path / "out", tensors)
    with pytest.raises(ValueError, match=r"h\.0\.mlp\.c_fc\.bias must be zero"):
        GPTBackbone.from_preset(tmp_path / "out")


def test_lora_is_merged(tmp_path):
    backbone = GPTBackbone.from_preset(FOLDER / "gpt2")
    backbone.enable_lora(2)
    dense = backbone.transformer_layers[0].attention.query_key_value
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    save_huggingface(backbone, tmp_path / "out")
    again = GPTBackbone.from_preset(tmp_path / "out")
    ids = golden("gpt2")["token_ids"]
    expected = backbone.forward(ids).hidden.numpy()
    assert np.abs(expected - golden("gpt2")["hidden/2"]).max() > 0.01
    assert_close(again.forward(ids).hidden, expected, 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_dim": 5}, "head_dim must be 16"),
        ({"normalize_first": False, "activation": "gelu"}, "activation must be one of"),
        ({"normalize_first": False, "intermediate_dim": 7}, "intermediate_dim must be"),
    ],
)
def test_networks_that_transformers_lacks_are_refused(fields, message, tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", **fields)
    with pytest.raises(ValueError, match=message):
        save_huggingface(backbone, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        save_huggingface(model("gpt2"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_huggingface(model("gpt2"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- Bad input -----------------------------------------------------------------


def write(folder, tensors):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def damage(folder, change):
    tensors = stored(folder)
    change(tensors)
    write(folder, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: [t.pop(n) for n in list(t) if ".ln_1." in n],
            r"4 differ:\n  missing: transformer\.h\.0\.ln_1\.weight \(16,\)"
            r"\n  missing: .*ln_1\.bias",
        ),
        (
            lambda t: t.update({"transformer.h.0.crossattention.q": np.ones(3)}),
            r"unknown: transformer\.h\.0\.crossattention\.q \(3,\)",
        ),
        (
            lambda t: t.update({"transformer.wpe.weight": np.ones([23, 16], "f4")}),
            r"wrong shape: transformer\.wpe\.weight must be \(24, 16\), is \(23, 16\)",
        ),
        (
            lambda t: t["transformer.ln_f.bias"].fill(np.nan),
            r"tensor 'transformer\.ln_f\.bias' must be finite",
        ),
        (
            lambda t: t.update({"transformer.ln_f.bias": np.ones(16, "i4")}),
            r"tensor 'transformer\.ln_f\.bias' must be of type F32, F16, BF16, got I32",
        ),
        (
            lambda t: t.update({"lm_head.weight": np.ones([53, 16], "f4")}),
            r"lm_head\.weight must equal transformer\.wte\.weight",
        ),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    folder = copy("gpt2", tmp_path)
    damage(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        GPTBackbone.from_preset(folder)
    assert str(folder) in str(caught.value)


def test_names_without_prefix_and_buffers_and_a_tied_copy_are_understood(tmp_path):
    folder = copy("gpt2", tmp_path)
    tensors = {
        name.removeprefix("transformer."): value
        for name, value in stored(folder).items()
    }
    tensors["h.0.attn.bias"] = np.ones([1, 1, 24, 24], np.uint8)
    tensors["h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    tensors["lm_head.weight"] = tensors["wte.weight"]
    write(folder, tensors)
    backbone = GPTBackbone.from_preset(folder)
    for ours, theirs in zip(
        model("gpt2").backbone.weights, backbone.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", ["gpt2", "gpt1"])
def test_a_tied_table_may_stand_under_the_heads_name_alone(case, tmp_path):
    folder = copy(case, tmp_path)
    table = {"gpt2": "wte", "gpt1": "tokens_embed"}[case]

    def rename(tensors):
        tensors["lm_head.weight"] = tensors.pop(f"transformer.{table}.weight")

    damage(folder, rename)
    np.testing.assert_array_equal(
        GPTBackbone.from_preset(folder).token_embedding.embeddings,
        model(case).backbone.token_embedding.embeddings,
    )


def test_unknown_tensors_are_named_as_in_the_file(tmp_path):
    folder = copy("gpt2", tmp_path)
    damage(folder, lambda tensors: tensors.update({"pooler.weight": np.ones((3, 16))}))
    with pytest.raises(
        ValueError, match=r"1 differ:\n  unknown: pooler\.weight \(3, 16"
    ):
        GPTBackbone.from_preset(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated_files(size, tmp_path):
    folder = copy("gpt1", tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors must be a whole safet"):
        GPTBackbone.from_preset(folder)


def test_every_flipped_bit_of_what_we_wrote_is_found(tmp_path):
    save_huggingface(GPTBackbone.from_preset(FOLDER / "gpt1_relu"), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little")
    places = [*generator.integers(8, 8 + header, 60)]
    places += [*generator.integers(8 + header, len(whole), 60)]
    found = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        try:
            GPTBackbone.from_preset(tmp_path / "out")
        except ValueError as error:
            assert str(tmp_path / "out") in str(error)
            found += 1
        else:  # in the header's padding, or the name of a key that is not read
            assert place < 8 + header
    assert found >= 110


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            lambda index: index["weight_map"].update(
                {"transformer.wte.weight": "x.st"}
            ),
            FileNotFoundError,
            r"x\.st is missing; .*index\.json names it for 'transformer\.wte\.weight'",
        ),
        (
            lambda index: index["weight_map"].update(
                {"transformer.wte.weight": "../../x"}
            ),
            ValueError,
            "must name files of its own folder, got '../../x'",
        ),
        (
            lambda index: index["weight_map"].update(
                {"nothing": "model-00001-of-00003.safetensors"}
            ),
            ValueError,
            "model-00001-of-00003.safetensors must hold the tensor 'nothing'",
        ),
        (lambda index: index.pop("weight_map"), ValueError, "with a 'weight_map'"),
    ],
)
def test_broken_index(edit, error, message, tmp_path):
    folder = copy("gpt2", tmp_path)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        GPTBackbone.from_preset(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = copy("gpt2", tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003.safetensors is"):
        GPTBackbone.from_preset(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": ...}, "config.json must have the key n_head"),
        ({"n_head": 3}, "config.json: hidden_dim must be divisible by num_heads"),
        ({"n_layer": "2"}, "num_layers must be a positive integer, got '2'"),
        ({"model_type": "llama"}, "model_type must be one of gpt2, openai-gpt, got 'l"),
        ({"add_cross_attention": True}, "add_cross_attention must be False"),
        ({"scale_attn_weights": False}, "scale_attn_weights must be True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be None"),
        ({"activation_function": "gelu_fast"}, "activation_function must be one of"),
        ({"rope_theta": 1e4}, "rope_theta is not a known option, got 10000.0"),
    ],
)
def test_configs_that_are_refused(changes, message, tmp_path):
    folder = edit_config(copy("gpt2", tmp_path), **changes)
    with pytest.raises(ValueError, match=message):
        GPTBackbone.from_preset(folder)


def test_options_of_generation_and_labels_do_not_matter(tmp_path):
    folder = edit_config(
        copy("gpt2", tmp_path),
        task_specific_params={"text-generation": {"do_sample": True}},
        id2label={"0": "A"},
        torch_dtype="float16",
        n_ctx=24,
    )
    assert GPTBackbone.from_preset(folder).config == model("gpt2").backbone.config


def test_broken_config_file(tmp_path):
    folder = copy("gpt2", tmp_path)
    (folder / "config.json").write_text('{"model_type": "gpt2",')
    with pytest.raises(ValueError, match="config.json must be a JSON file"):
        GPTBackbone.from_preset(folder)


def test_pickles_are_refused_unread(tmp_path):
    folder = copy("gpt1", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"got pytorch_model\.bin: pickled weights can"
    ):
        GPTBackbone.from_preset(folder)


def test_no_weights_at_all(tmp_path):
    folder = copy("gpt1", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors"):
        GPTBackbone.from_preset(folder)


def test_dropouts_survive_the_round_trip(tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", dropout=0.1, attention_dropout=0.25)
    save_huggingface(backbone, tmp_path / "out")
    again = GPTBackbone.from_preset(tmp_path / "out").config
    assert again == dataclasses.replace(backbone.config)


def test_a_loaded_model_lets_go_of_its_checkpoint():
    checkpoint = presets.find(FOLDER / "gpt2_untied_relu").checkpoint
    backbone = checkpoint.build_backbone()
    reference = weakref.ref(checkpoint)
    del checkpoint
    gc.collect()
    assert reference() is None
    assert backbone.count_params() == backbone.config.num_parameters
