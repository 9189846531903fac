"""Names of presets, and folders that are none."""

import pathlib

import huggingface_hub
import kagglehub
import keras_nlp
import pytest

from keras_gpt import GPTBackbone, GPTCausalLM, GPTTokenizer
from keras_gpt.checkpoints.sources import SHORT_NAMES
from keras_gpt.tokenizer import GPT1Tokenizer


@pytest.fixture
def hub(monkeypatch, golden_gpt2):
    """Stands in for the hub: every repository is the golden GPT-2."""
    calls = []

    def snapshot_download(name, *, revision, allow_patterns):
        calls.append((name, revision))
        assert not any(
            "bin" in pattern or "pt" in pattern for pattern in allow_patterns
        )
        return str(golden_gpt2.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize(
    ("preset", "call"),
    [
        ("hf://owner/name", ("owner/name", None)),
        ("hf://owner/name@v1.0", ("owner/name", "v1.0")),
        ("gpt2", ("openai-community/gpt2", None)),
    ],
)
def test_names_on_the_hub(preset, call, hub, golden_gpt2):
    golden_gpt2.check(GPTBackbone.from_preset(preset))
    assert hub == [call]


def test_a_folder_goes_before_a_short_name(tmp_path, monkeypatch, golden_gpt2):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").symlink_to(golden_gpt2.folder)
    golden_gpt2.check(GPTBackbone.from_preset("gpt2"))


def test_names_of_keras_hub_are_fetched_from_kaggle(monkeypatch, golden_gpt2):
    handles = []

    def model_download(handle):
        handles.append(handle)
        return str(golden_gpt2.folder)

    monkeypatch.setattr(kagglehub, "model_download", model_download)
    golden_gpt2.check(GPTBackbone.from_preset("gpt2_base_en"))
    golden_gpt2.check(GPTBackbone.from_preset("kaggle://keras/gpt2/keras/mine"))
    assert handles[0].startswith("keras/gpt2/keras/gpt2_base_en")
    assert handles[1] == "keras/gpt2/keras/mine"


@pytest.mark.parametrize("cls", [GPTCausalLM, GPTBackbone, GPTTokenizer])
@pytest.mark.parametrize("preset", ["gpt2", "hf://openai-community/gpt2"])
def test_without_a_network_the_message_says_what_to_do(
    preset, cls, tmp_path, monkeypatch
):
    # The hub's own switch: what follows is its real error.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConnectionError,
        match=r"hf://openai-community/gpt2 could not be fetched from huggingface.co "
        r"\(config, weights and tokenizer files\): .* give its path",
    ):
        cls.from_preset(preset)


def test_kaggle_without_a_network(monkeypatch):
    def fail(_):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(kagglehub, "model_download", fail)
    with pytest.raises(ConnectionError, match="kaggle.com .*: no route to host With"):
        GPTBackbone.from_preset("gpt2_base_en")


def test_a_name_that_the_hub_cannot_have():
    with pytest.raises(
        ValueError, match="preset must be hf://owner/name, got 'hf://a/"
    ):
        GPTBackbone.from_preset("hf://a/b/c")


def test_unknown_names():
    with pytest.raises(FileNotFoundError, match="or one of gpt2, .*got 'gpt5'"):
        GPTBackbone.from_preset("gpt5")


def test_short_names_are_whole():
    assert all(name.startswith("hf://") for name in SHORT_NAMES.values())
    assert not set(SHORT_NAMES) & set(keras_nlp.models.GPT2Backbone.presets)


def test_folders_and_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="one .pt file .* got nothing"):
        GPTBackbone.from_preset(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"must hold config.json .* got notes\.txt"):
        GPTBackbone.from_preset(tmp_path)
    with pytest.raises(ValueError, match=r"or a nanoGPT file \(\.pt\), got .*notes"):
        GPTBackbone.from_preset(tmp_path / "notes.txt")


def test_our_own_presets_still_load(causal_lm, tmp_path):
    causal_lm.save_to_preset(str(tmp_path / "preset"))
    text = causal_lm.generate("The king", max_new_tokens=5, temperature=0.0)
    for preset in (tmp_path / "preset", str(tmp_path / "preset")):
        lm = GPTCausalLM.from_preset(preset)
        assert lm.generate("The king", max_new_tokens=5, temperature=0.0) == text
    base = keras_nlp.models.CausalLM.from_preset(str(pathlib.Path(preset)))
    assert type(base) is GPTCausalLM


def test_a_tokenizer_needs_no_weights(tokenizer, tmp_path):
    tokenizer.save_files(tmp_path)
    found = GPTTokenizer.from_preset(tmp_path)
    assert found.get_vocabulary() == tokenizer.get_vocabulary()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert type(GPTTokenizer.from_preset(tmp_path)) is GPTTokenizer
    with pytest.raises(ValueError, match="must hold a GPT1Tokenizer, got a GPTToken"):
        GPT1Tokenizer.from_preset(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt"):
        GPTTokenizer.from_preset(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json, vocab"):
        GPTTokenizer.from_preset(tmp_path)
