"""The golden checkpoints, for every format's tests."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy

FOLDER = pathlib.Path(__file__).parents[1] / "testdata" / "huggingface"


class Golden:
    """One case of tests/testdata/huggingface: tensors, and what they compute."""

    def __init__(self, case):
        self.folder = FOLDER / case
        results = np.load(self.folder / "golden.npz")
        self.token_ids, self.logits = results["token_ids"], results["logits"]
        self.tensors = {}
        for path in self.folder.glob("*.safetensors"):
            self.tensors |= safetensors.numpy.load_file(path)

    def check(self, backbone):
        """Checks that a backbone computes the golden logits."""
        logits = backbone.logits(backbone.forward(self.token_ids).hidden).numpy()
        scale = np.abs(self.logits).max()
        np.testing.assert_allclose(logits, self.logits, rtol=0, atol=1e-5 * scale)


@pytest.fixture(scope="session")
def golden_gpt2():
    """GPT-2: tanh GELU, 2 layers of 2 heads, 16 wide, context 24, 53 tokens."""
    return Golden("gpt2")


@pytest.fixture(scope="session")
def golden_gelu():
    """GPT-2 with exact GELU: 3 layers of 4 heads, 24 wide, context 24, 61 tokens."""
    return Golden("gpt2_gelu")


@pytest.fixture(scope="session")
def vocabulary_files(tmp_path_factory, tokenizer):
    """A folder with vocab.json and merges.txt of 300 tokens."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer.save_files(folder)
    return folder


@pytest.fixture(scope="session")
def golden_gpt1():
    """GPT-1: 2 layers of 4 heads, 16 wide, context 24, 47 tokens."""
    return Golden("gpt1")
