"""GPT-1 whole: a checkpoint with its own tokenizer, from strings to strings."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from keras_gpt import GPTCausalLM, GPTTokenizer, export, save_huggingface
from keras_gpt.tokenizer import GPT1Tokenizer

TEXT = "The King is dead. Long live the KING! Who hath said é so, my lord?"


@pytest.fixture(scope="module")
def peer():
    """GPT-1's pipeline of `tokenizers`, with 47 tokens learnt from a line."""
    peer = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    )
    peer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    peer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    peer.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=47,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    peer.train_from_iterator([TEXT.replace("é", "")], trainer)
    return peer


@pytest.fixture(scope="module", params=["vocab.json", "tokenizer.json"])
def folder(request, golden_gpt1, peer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt1")
    shutil.copytree(golden_gpt1.folder, folder, dirs_exist_ok=True)
    if request.param == "tokenizer.json":
        peer.save(str(folder / "tokenizer.json"))
    else:
        peer.model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def lm(folder):
    return GPTCausalLM.from_preset(folder)


def test_ids_are_those_of_tokenizers(folder, peer):
    tokenizer = GPTTokenizer.from_preset(folder)
    assert type(tokenizer) is GPT1Tokenizer
    for text in (TEXT, "", "  who\n SAID\tthat?ÀÉ 中文", "king's lord"):
        np.testing.assert_array_equal(tokenizer.tokenize(text), peer.encode(text).ids)


def test_text_goes_on_as_transformers_decodes_it(lm, peer):
    prompt = "the king is dead"
    ids = peer.encode(prompt).ids
    for _ in range(6):
        hidden = lm.backbone.forward(np.array([ids], np.int32)).hidden
        ids.append(int(np.argmax(lm.backbone.logits(hidden)[0, -1])))
    options = {"max_new_tokens": 6, "temperature": 0.0}
    assert lm.generate(prompt, **options) == peer.decode(ids)
    # The prompt itself is repeated as it was given.
    assert lm.generate("The KING is dead", **options).startswith("The KING is dead ")
    assert lm.generate(prompt, max_new_tokens=0) == prompt


def test_stop_strings_and_streams_know_that_words_end_in_spaces(lm):
    options = {"max_new_tokens": 12, "stop_token_ids": None, "seed": 2}
    free = lm.generate("the king", strip_prompt=True, **options)
    for begin in range(len(free) - 3):
        string = free[begin : begin + 3]
        got = lm.generate(
            "the king", strip_prompt=True, stop_strings=[string], **options
        )
        assert got == free.partition(string)[0]
        pieces = lm.stream(
            "the king", tokens_per_call=1, stop_strings=[string], **options
        )
        assert "".join(pieces) == got
    assert "".join(lm.stream("the king", tokens_per_call=2, **options)) == free


def test_round_trips(lm, tmp_path):
    save_huggingface(lm, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["OpenAIGPTLMHeadModel"]
    again = GPTCausalLM.from_preset(tmp_path / "out")
    options = {"max_new_tokens": 5, "temperature": 0.0}
    text = lm.generate("The King", **options)
    assert again.generate("The King", **options) == text
    lm.save_to_preset(str(tmp_path / "preset"))
    assert (
        GPTCausalLM.from_preset(tmp_path / "preset").generate("The King", **options)
        == text
    )


@pytest.mark.parametrize("folder", ["vocab.json"], indirect=True)
def test_export(lm, tmp_path):
    options = {"max_new_tokens": 5, "temperature": 0.0}
    path = export.export_saved_model(lm, tmp_path, batch_sizes=[1], **options)
    served = tf.saved_model.load(path).signatures["serving_default"]
    got = served(text=tf.constant(["The King"]))["generated_text"].numpy()[0].decode()
    assert "The King" + got == lm.generate("The King", **options)
