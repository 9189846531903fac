"""Layouts: every weight has a rule that fits its shape; meshes that do not fit."""

import re

import numpy as np
import pytest

from keras_gpt import GPTBackbone, GPTConfig
from keras_gpt.training.layouts import (
    SPLIT_RULES,
    check_mesh,
    padded_vocabulary_size,
    parse_mesh,
    split_axis,
)
from keras_gpt.training.mesh import _by_head

CONFIG = GPTConfig(
    vocabulary_size=48, num_layers=2, num_heads=4, hidden_dim=12, head_dim=5
)

# Path to the axis that is split over `model`; what is not here is whole.
EXPECTED = {
    "token_embedding/embeddings": 0,
    "token_embedding/reverse_embeddings": 1,
    "attention/query_key_value/kernel": 1,
    "attention/query_key_value/bias": 0,
    "attention/output_projection/kernel": 0,
    "mlp/expand/kernel": 1,
    "mlp/expand/bias": 0,
    "mlp/contract/kernel": 0,
}


@pytest.mark.parametrize("tied", [True, False])
def test_each_weight_has_one_rule_and_is_split_as_agreed(tied):
    config = {**CONFIG.to_dict(), "tie_embeddings": tied}
    backbone = GPTBackbone(**config)
    split = set()
    for weight in backbone.trainable_variables:
        rules = [r for r in SPLIT_RULES if re.search(f"(^|/){r.pattern}$", weight.path)]
        assert len(rules) == 1, weight.path
        end = re.sub(r"^.*transformer_layer_\d+/", "", weight.path)
        assert split_axis(weight.path) == EXPECTED.get(end), weight.path
        axis = split_axis(weight.path)
        if axis is not None:
            split.add(end)
            assert weight.shape[axis] % 4 == 0
    assert split == set(EXPECTED) - (set() if not tied else {
        "token_embedding/reverse_embeddings"
    })  # fmt: skip


def test_adapters_are_split_as_their_kernels():
    backbone = GPTBackbone(**CONFIG.to_dict())
    backbone.enable_lora(2, ["query_key_value", "output_projection", "expand"])
    split = {}
    for weight in backbone.trainable_variables:
        rules = [r for r in SPLIT_RULES if re.search(f"(^|/){r.pattern}$", weight.path)]
        assert len(rules) == 1, weight.path
        split["/".join(weight.path.split("/")[-2:])] = split_axis(weight.path)
    assert split == {
        "query_key_value/lora_kernel_a": None,
        "query_key_value/lora_kernel_b": 1,
        "output_projection/lora_kernel_a": 0,
        "output_projection/lora_kernel_b": None,
        "expand/lora_kernel_a": None,
        "expand/lora_kernel_b": 1,
    }


def test_paths_below_a_model_are_the_same_and_others_are_whole():
    assert split_axis("gpt/transformer_layer_11/mlp/expand/kernel") == 1
    assert split_axis("other_mlp/expand/kernel") is None
    assert split_axis("mlp/expand/kernel/part") is None
    assert split_axis("embeddings_dropout/seed_generator_state") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch:4,model:2", {"batch": 4, "model": 2}),
        ("model:2, batch:4", {"batch": 4, "model": 2}),
        ("model:8", {"batch": 1, "model": 8}),
        ("batch:3", {"batch": 3, "model": 1}),
    ],
)
def test_mesh_is_read(text, expected):
    mesh = parse_mesh(text)
    assert mesh == expected and list(mesh) == ["batch", "model"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mesh must be dimensions and sizes such as batch:4,model:2, got ''"),
        ("4x2", "mesh must be dimensions and sizes"),
        ("batch:four", "mesh must be dimensions and sizes"),
        ("batch:4,", "mesh must be dimensions and sizes"),
        ("batch:-1", "mesh must be dimensions and sizes"),
        ("batch:4,batch:2", "mesh must name batch once"),
        ("batch:4,pipe:2", "mesh must have dimensions batch and model, got 'pipe'"),
        ("batch:0", "mesh's batch must be a positive integer, got 0"),
    ],
)
def test_mesh_that_is_none_is_named(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_mesh(text)


def test_mesh_fits_or_names_what_it_does_not_divide():
    check_mesh(CONFIG, {"batch": 7, "model": 4})
    check_mesh(CONFIG, {"batch": 7})
    with pytest.raises(ValueError, match="num_heads must be divisible .* 4 and 3"):
        check_mesh(CONFIG, {"model": 3})
    odd = GPTConfig(**{**CONFIG.to_dict(), "intermediate_dim": 50})
    with pytest.raises(ValueError, match="intermediate_dim must be .* 50 and 4"):
        check_mesh(odd, {"model": 4})
    gpt2 = GPTConfig.named("gpt2_small")
    with pytest.raises(ValueError, match="vocabulary_size must be .* 50257 and 2"):
        check_mesh(gpt2, {"batch": 4, "model": 2})
    with pytest.raises(ValueError, match="batch must be a positive integer, got True"):
        check_mesh(gpt2, {"batch": True})
    with pytest.raises(ValueError, match="dimensions batch and model, got 'x'"):
        check_mesh(gpt2, {"x": 1})


@pytest.mark.parametrize(("parts", "expected"), [(1, 50257), (2, 50258), (8, 50264)])
def test_a_vocabulary_is_padded_to_what_the_mesh_divides(parts, expected):
    mesh = {"batch": 3, "model": parts}
    size = padded_vocabulary_size(50257, mesh)
    assert size == expected
    assert padded_vocabulary_size(size, mesh) == size


def test_heads_stand_side_by_side_on_a_mesh():
    # Columns named by (projection, head, place in the head).
    columns = np.array(
        [100 * q + 10 * n + h for q in range(3) for n in range(4) for h in range(2)]
    )
    by_head = _by_head(columns, 4)
    assert by_head[:6].tolist() == [0, 1, 100, 101, 200, 201]
    assert {column // 10 % 10 for column in by_head[:12].tolist()} == {0, 1}
    np.testing.assert_array_equal(_by_head(by_head, 4, back=True), columns)
