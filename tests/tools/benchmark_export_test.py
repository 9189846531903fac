"""`keras-gpt benchmark export` on a small model."""

import json

import pytest

from keras_gpt.config import GPT2_VOCABULARY_SIZE
from keras_gpt.tools import cli


@pytest.mark.slow
def test_sizes_and_times_are_of_the_model_that_was_exported(tmp_path, capsys):
    result = tmp_path / "result.json"
    small = ["--hidden_dim=8", "--num_layers=1", "--num_heads=2"]
    options = ["--storage_dtype=bfloat16", "--rounds=1", f"--json={result}"]
    assert cli.main(["benchmark", "export", *small, *options]) == 0
    measured = json.loads(result.read_text())["export"]
    embeddings = 8 * (GPT2_VOCABULARY_SIZE + 1024)
    # A block has 12 D^2 weights and 13 D biases and norms; the last norm has 2 D.
    assert measured["weight_bytes"] == 2 * (embeddings + 12 * 64 + 13 * 8 + 2 * 8)
    assert measured["folder_bytes"] > measured["weight_bytes"]
    times = ("export", "read", "load", "warm_up")
    assert all(measured[f"{name}_seconds"] > 0 for name in times)
    assert measured["first_over_tenth"] > 0
    assert "MB of weights" in capsys.readouterr().out
