"""Adapters in files: written, loaded elsewhere, and refused where they do not fit."""

import json

import keras
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from keras_gpt import GPTBackbone
from keras_gpt.models import load_adapter, save_adapter
from keras_gpt.models.lora import TARGETS

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 64, (2, 9)).astype(np.int32)
FIRST = "transformer_layer_0/attention/query_key_value/lora_kernel_a"


def _backbone(**fields):
    keras.utils.set_random_seed(0)
    return GPTBackbone.from_size("gpt_nano", vocabulary_size=64, **fields)


def _hidden(backbone):
    return backbone.forward(IDS).hidden.numpy()


def _adapted(targets=("query_key_value",), **options):
    backbone = _backbone()
    backbone.enable_lora(3, targets, **options)
    for variable in backbone.adapters.named(None).variables:
        variable.assign(RNG.normal(0, 0.3, variable.shape))
    return backbone


class _Task(keras.Model):
    """A network and a head."""

    def __init__(self, backbone, num_labels=3):
        hidden = backbone(backbone.input)
        outputs = keras.layers.Dense(num_labels, name="labels")(hidden[:, 0])
        super().__init__(inputs=backbone.input, outputs=outputs)
        self.backbone = backbone


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_an_adapter_moves_to_another_copy(path):
    backbone = _adapted(TARGETS, alpha=7.0, dropout=0.25, name="mine")
    backbone.save_adapter(path)
    size = 4 * sum(int(np.prod(w.shape)) for w in backbone.trainable_weights)
    assert size < path.stat().st_size < size + 8192
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        assert set(file.keys()) == {w.path for w in backbone.trainable_weights}
    assert metadata["library"] == "keras_gpt"
    assert json.loads(metadata["target_layer_names"]) == list(TARGETS)
    other = _backbone()
    other.load_adapter(path, name="theirs")
    np.testing.assert_array_equal(_hidden(other), _hidden(backbone))
    assert other.adapters.active == "theirs"
    mine = backbone.adapters.held["mine"]
    assert other.adapters.held["theirs"].settings == mine.settings
    assert len(other.trainable_weights) == 16
    with pytest.raises(ValueError, match="there is an adapter 'theirs'"):
        other.load_adapter(path, name="theirs")


def test_one_of_several_is_saved_by_name(path):
    backbone = _adapted(name="one")
    expected = _hidden(backbone)
    backbone.enable_lora(2, name="two")
    with pytest.raises(ValueError, match=r"adapter \(one, two\), got 'three'"):
        backbone.save_adapter(path, name="three")
    backbone.save_adapter(path, name="one")
    other = _backbone()
    other.load_adapter(path)
    np.testing.assert_array_equal(_hidden(other), expected)
    with pytest.raises(ValueError, match=r"path must end in .safetensors, got"):
        backbone.save_adapter(path.with_suffix(".h5"))


def test_a_tasks_head_goes_with_it(path):
    task = _Task(_adapted())
    task.get_layer("labels").kernel.assign(RNG.normal(size=(32, 3)))
    save_adapter(task, path)
    inputs = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    expected = task(inputs).numpy()
    other = _Task(_backbone())
    assert np.abs(other(inputs) - expected).max() > 0.1
    load_adapter(other, path)
    np.testing.assert_array_equal(other(inputs), expected)
    # A network by itself leaves the head out.
    backbone = _backbone()
    load_adapter(backbone, path)
    np.testing.assert_array_equal(_hidden(backbone), _hidden(task.backbone))
    wider = _Task(_backbone(), num_labels=4)
    with pytest.raises(ValueError, match=r"weight 'labels/kernel' must be \(32, 4\)"):
        load_adapter(wider, path)
    assert not wider.backbone.adapters.held
    task.get_layer("labels").trainable = False
    save_adapter(task, path)
    assert not any("labels" in key for key in load_file(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_dim": 64},
            r"kernel 'transformer_layer_0/attention/query_key_value/kernel' must be "
            r"\(64, 192\), is \(32, 96\)",
        ),
        ({"num_layers": 3}, r"kernel 'transformer_layer_2/.*, is absent"),
        ({"num_layers": 1}, r"kernel 'transformer_layer_1/.* must be absent, is"),
    ],
)
def test_other_networks_are_refused(path, fields, message):
    _adapted().save_adapter(path)
    other = _backbone(**fields)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        other.load_adapter(path)
    assert not other.adapters.held
    assert len(other.trainable_weights) == len(other.weights)


def _rewrite(path, change):
    tensors = load_file(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def _cut(tensors, metadata):
    tensors[FIRST] = np.ascontiguousarray(tensors[FIRST][:5])


def _poison(tensors, metadata):
    tensors[FIRST][2, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, rf"tensor '{FIRST}' must be \(32, 3\), is \(5, 3\)"),
        (_poison, f"tensor '{FIRST}' must be finite"),
        (lambda t, m: t.pop(FIRST), rf"'{FIRST}' must be \(32, 3\), is absent"),
        (lambda t, m: t.update(x=t[FIRST]), r"'x' must be absent, is \(32, 3\)"),
        (lambda t, m: m.update(rank="4"), rf"'{FIRST}' must be \(32, 4\), is"),
        (lambda t, m: m.update(rank="-1"), "rank must be a positive integer, got -1"),
        (lambda t, m: m.update(dropout="[]"), "dropout must be in"),
        (lambda t, m: m.update(base_shapes="7"), "must have rank, alpha, .* metadata"),
        (lambda t, m: m.pop("alpha"), "must have rank, alpha, .* metadata"),
        (lambda t, m: m.update(library="peft"), "adapter of keras_gpt, got .* 'peft'"),
        (lambda t, m: m.update(head='["y"]'), r"'y' must be \(\), is absent"),
    ],
)
def test_broken_files_are_refused(path, change, message):
    _adapted().save_adapter(path)
    _rewrite(path, change)
    backbone = _backbone()
    with pytest.raises(ValueError, match=message) as caught:
        backbone.load_adapter(path)
    assert str(path) in str(caught.value)
    assert not backbone.adapters.held


def test_truncated_and_missing_files(path):
    backbone = _adapted()
    backbone.save_adapter(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{path} must be a whole safetensors file"):
        _backbone().load_adapter(path)
    with pytest.raises(FileNotFoundError):
        _backbone().load_adapter(path.with_name("none.safetensors"))
