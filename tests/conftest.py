"""Settings and fixtures that every test shares."""

import os
import pathlib

# Before TensorFlow is imported. One thread a pool suits `pytest -n 2` on two cores:
# the tests' models are too small to share out.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

REPOSITORY = pathlib.Path(__file__).absolute().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of larger test data beside the repository, or a skip."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is absent: the larger data were not fetched.")
    return folder


TEXT = """The king is dead, long live the king! What say you, my lord?
O my lord, the queen hath said that you are not the man you were;
and they that know the king's men know you'll not say nay, my lord.

    First Citizen: We are accounted poor citizens, the patricians good.
"""


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 300 tokens, trained on a few lines."""
    from keras_gpt.tokenizer import train_tokenizer

    return train_tokenizer([TEXT], vocabulary_size=300)


@pytest.fixture(scope="session")
def causal_lm(tokenizer):
    """A random `gpt_nano` with that tokenizer and a context of 64. Do not train it."""
    import keras

    from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor

    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
    )
    for weight in backbone.weights:  # spread out, so that texts differ
        if "kernel" in weight.path or "embeddings" in weight.path:
            weight.assign(weight * 10.0)
    preprocessor = GPTCausalLMPreprocessor(tokenizer, sequence_length=64)
    return GPTCausalLM(backbone, preprocessor)
