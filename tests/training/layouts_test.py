"""Tests of the rules by which a mesh splits a model."""

import numpy as np
import pytest

from keras_gpt.config import GPTConfig
from keras_gpt.models import GPTBackbone
from keras_gpt.training.layouts import check_mesh, parse_mesh, split_axis
from keras_gpt.training.mesh import _by_head


def test_every_large_weight_is_split():
    backbone = GPTBackbone.from_size("gpt_nano", tie_embeddings=False)
    split = {
        variable.path: (split_axis(variable.path), variable.shape)
        for variable in backbone.weights
        if "layer_1" not in variable.path and split_axis(variable.path) is not None
    }
    block = "transformer_layer_0"
    assert split == {
        "token_embedding/embeddings": (-2, (512, 32)),
        "token_embedding/reverse_embeddings": (-1, (32, 512)),
        f"{block}/attention/query_key_value/kernel": (-1, (32, 96)),
        f"{block}/attention/query_key_value/bias": (-1, (96,)),
        f"{block}/attention/output_projection/kernel": (-2, (32, 32)),
        f"{block}/mlp/expand/kernel": (-1, (32, 128)),
        f"{block}/mlp/expand/bias": (-1, (128,)),
        f"{block}/mlp/contract/kernel": (-2, (128, 32)),
    }


def test_heads_stand_side_by_side():
    # Columns named by (which projection, head, place in the head).
    columns = np.array([100 * q + 10 * n + h for q in range(3) for n in range(4)
                        for h in range(2)])  # fmt: skip
    by_head = _by_head(columns, 4)
    first_half = by_head[: len(columns) // 2]
    assert {int(c) // 10 % 10 for c in first_half} == {0, 1}
    assert by_head[:6].tolist() == [0, 1, 100, 101, 200, 201]
    np.testing.assert_array_equal(_by_head(by_head, 4, back=True), columns)


@pytest.mark.parametrize(
    "text, sizes",
    [
        ("batch:4,model:2", {"batch": 4, "model": 2}),
        ("model:3", {"batch": 1, "model": 3}),
        (" batch:2 , model:1", {"batch": 2, "model": 1}),
    ],
)
def test_meshes(text, sizes):
    assert parse_mesh(text) == sizes


@pytest.mark.parametrize("text", ["", "4x2", "rows:2", "batch:0", "batch:2,batch:2"])
def test_bad_meshes(text):
    with pytest.raises(ValueError, match="mesh must be like 'batch:4,model:2'"):
        parse_mesh(text)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_heads": 3, "head_dim": 8}, "num_heads = 3 is no multiple of model:2"),
        ({"vocabulary_size": 65}, "vocabulary_size = 65 is no multiple of model:2"),
        ({"intermediate_dim": 33}, "intermediate_dim = 33 is no"),
    ],
)
def test_a_mesh_must_divide_the_model(fields, message):
    config = GPTConfig.named("gpt_nano", **fields)
    check_mesh(config, {"batch": 3, "model": 1})
    with pytest.raises(ValueError, match=message):
        check_mesh(config, {"batch": 1, "model": 2})
