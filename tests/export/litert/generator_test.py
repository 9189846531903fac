"""`LiteRTGenerator` writes what `GPTCausalLM` writes."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import ChatTemplate, GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.export import LiteRTGenerator, export_tflite
from keras_gpt.export.litert import network
from keras_gpt.models import GPTTextClassifier
from keras_gpt.tokenizer import train_tokenizer

PROMPTS = [
    *("", "T", "The king", "What say you, my lord?", "  First Citizen:\n", "ééé"),
    "O my lord, the queen hath said that you are not the man you were; and they",
]


@pytest.fixture(scope="module")
def lm(causal_lm):
    """The shared model, with a template for conversations."""
    preprocessor = GPTCausalLMPreprocessor(
        causal_lm.preprocessor.tokenizer,
        sequence_length=64,
        chat_template=ChatTemplate.named("plain"),
    )
    return GPTCausalLM(causal_lm.backbone, preprocessor)


@pytest.fixture(scope="module")
def path(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "model.tflite"
    export_tflite(lm, path)
    return path


@pytest.fixture(scope="module")
def generator(lm, path):
    return LiteRTGenerator(path, lm.preprocessor.tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"seed": 5},
        {"seed": [3, 1, 4, 1, 5, 9, 2], "temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"seed": 1, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"seed": 2, "stop_strings": ["e", "th"], "strip_prompt": True},
        {"seed": 3, "bad_words": ["a", "the"], "min_new_tokens": 4},
        {"seed": 4, "logit_bias": {32: 3.0, (5, 6): -2.0}},
        {"seed": 5, "num_return_sequences": 3},
        {"seed": 6, "best_of": 3},
        {"seed": 7, "truncate": "left", "max_new_tokens": 50},
        {"seed": 8, "sliding_window": True, "max_new_tokens": 80},
        {"seed": 9, "stop_token_ids": [5, [10, 11]]},
    ],
    ids=lambda options: "-".join(options),
)
def test_texts_are_those_of_the_model(lm, generator, options):
    options = {"max_new_tokens": 16, **options}
    assert generator.generate(PROMPTS, **options) == lm.generate(PROMPTS, **options)


def test_details_and_processors(lm, generator):
    def ban_even(logits, history):
        is_even = tf.range(tf.shape(logits)[1]) % 2 == 0
        return tf.where(is_even, -1e9, logits)

    options = {
        **{"seed": 1, "max_new_tokens": 8, "num_alternatives": 3},
        **{"logits_processors": [ban_even], "return_details": True},
    }
    want, got = (x.generate("The king", **options) for x in (lm, generator))
    assert got.text == want.text and got.finish_reason == want.finish_reason
    assert list(got.token_ids) == list(want.token_ids)
    np.testing.assert_allclose(got.log_probs, want.log_probs, atol=1e-4)
    assert got.timings.first_token_seconds > 0


def test_streams_and_conversations(lm, generator):
    options = {"seed": 3, "max_new_tokens": 24}
    pieces = list(generator.stream("The king", **options, tokens_per_call=1))
    assert len(pieces) > 3
    assert "".join(pieces) == lm.generate("The king", strip_prompt=True, **options)
    messages = [{"role": "user", "content": "What say you?"}]
    assert generator.chat(messages, **options) == lm.chat(messages, **options)


def test_ids_without_a_tokenizer(lm, path):
    on_ids = LiteRTGenerator(path)
    rows = {"token_ids": [[5, 6, 7, 0], [8, 9, 10, 11]]}
    rows["padding_mask"] = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    options = {"max_length": 20, "stop_token_ids": None, "seed": 2}
    want = GPTCausalLM(lm.backbone).generate(rows, **options)
    got = on_ids.generate(rows, **options)
    for key in ("token_ids", "padding_mask"):
        np.testing.assert_array_equal(got[key], want[key])


def test_defaults_are_those_of_the_model(lm, tmp_path):
    tokenizer = lm.preprocessor.tokenizer
    short = GPTCausalLMPreprocessor(tokenizer, sequence_length=20)
    greedy = GPTCausalLM(lm.backbone, short)
    greedy.compile(sampler="greedy")
    export_tflite(greedy, tmp_path / "model.tflite")
    got = LiteRTGenerator(tmp_path / "model.tflite", tokenizer)
    assert got.generate("The king") == greedy.generate("The king")
    greedy.compile(sampler="beam")
    export_tflite(greedy, tmp_path / "beam.tflite")
    searching = LiteRTGenerator(tmp_path / "beam.tflite", tokenizer)
    with pytest.raises(ValueError, match="num_beams must be 1"):
        searching.generate("The king")
    want = lm.generate("The king", max_length=20, seed=1)
    assert searching.generate("The king", num_beams=1, seed=1) == want


def test_ids_without_tokens_are_never_drawn(tokenizer, tmp_path):
    keras.utils.set_random_seed(2)
    size = tokenizer.vocabulary_size() + 20
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=size)
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=64))
    export_tflite(lm, tmp_path / "model.tflite")
    got = LiteRTGenerator(tmp_path / "model.tflite", tokenizer)
    want = lm.generate(["The king", "O"], seed=3)
    assert got.generate(["The king", "O"], seed=3) == want


def test_streams_take_turns(lm, generator):
    options = {"max_new_tokens": 20, "stop_token_ids": None}
    streams = [generator.stream("The king", seed=seed, **options) for seed in (1, 2)]
    texts = ["", ""]
    for pieces in zip(*streams, strict=False):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    for seed, text in zip((1, 2), texts, strict=True):
        want = lm.generate("The king", seed=seed, strip_prompt=True, **options)
        assert want.startswith(text) and len(text) > 5


def test_a_generator_is_freed(lm, path):
    generator = LiteRTGenerator(path, lm.preprocessor.tokenizer)
    generator.generate("The king", max_new_tokens=3)
    kept = weakref.ref(generator._runner()._network)
    del generator
    gc.collect()
    assert kept() is None


def test_errors_of_litert_come_as_they_are(lm, path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory is left")

    generator = LiteRTGenerator(path, lm.preprocessor.tokenizer)
    monkeypatch.setattr(network.LiteRTNetwork, "feed", fail)
    with pytest.raises(RuntimeError, match="^no memory is left$"):
        generator.generate("The king", max_new_tokens=3)


@pytest.mark.slow
def test_caches_grow_with_the_text(tokenizer, tmp_path, monkeypatch):
    keras.utils.set_random_seed(1)
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=100,
    )
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=100))
    export_tflite(lm, tmp_path / "model.tflite")
    monkeypatch.setattr(network, "SLOTS_AT_ONCE", 8)
    generator = LiteRTGenerator(tmp_path / "model.tflite", tokenizer)
    texts = ["The king", "The king is dead, long live the king! " * 2]
    for options in [{}, {"num_return_sequences": 2}]:
        # To the context's last token, in rows whose caches differ in size.
        want = lm.generate(texts, seed=1, stop_token_ids=None, **options)
        assert generator.generate(texts, seed=1, stop_token_ids=None, **options) == want
    opened = network.LiteRTNetwork(tmp_path / "model.tflite")
    cache = opened.empty_cache()
    sizes = []
    for count in range(1, 101):
        opened.feed(np.ones(count, np.int32), num_cached=count - 1, cache=cache)
        sizes.append(cache.num_slots)
    assert sizes[0] == 8 and sizes[-1] == 100 and sizes == sorted(sizes)
    assert len(set(sizes)) > 10


def test_bad_input(lm, path, generator, tmp_path):
    for options, message in [
        ({"num_beams": 2}, "num_beams must be 1"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "penalty_alpha and draft None"),
        ({"draft": "prompt_lookup"}, "draft None"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"max_length": 0}, "max_length must be an integer of at least 1"),
        ({"prefix": 3}, "prefix must be what prefill returned"),
    ]:
        with pytest.raises(ValueError, match=message):
            generator.generate("The king", **options)
    with pytest.raises(ValueError, match="shorter than the context of 64 tokens"):
        generator.generate("The king is dead. " * 40)
    with pytest.raises(ValueError, match="inputs must be valid UTF-8"):
        generator.generate([b"\xff"])
    other = train_tokenizer(["Others read other texts."], vocabulary_size=270)
    with pytest.raises(ValueError, match="tokenizer must be the one that the file was"):
        LiteRTGenerator(path, other)
    export_tflite(GPTCausalLM(lm.backbone), tmp_path / "bare.tflite")
    with pytest.raises(ValueError, match="tokenizer must be None"):
        LiteRTGenerator(tmp_path / "bare.tflite", other)
    classifier = GPTTextClassifier(lm.backbone, num_classes=3)
    export_tflite(classifier, tmp_path / "head.tflite", context_length=32)
    with pytest.raises(
        ValueError, match="the file of a language model, got one of GPT"
    ):
        LiteRTGenerator(tmp_path / "head.tflite")
    with pytest.raises(FileNotFoundError, match="path must be a TFLite file"):
        LiteRTGenerator(tmp_path / "absent.tflite")
    for tokenizer in ("run/model", 5):
        with pytest.raises(ValueError, match="tokenizer must be a GPTTokenizer or N"):
            LiteRTGenerator(path, tokenizer)
    for num_threads in (0, -1, 2.5, "2", 10**6):
        with pytest.raises(ValueError, match="num_threads must be an integer in"):
            LiteRTGenerator(path, num_threads=num_threads)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_files_that_are_cut(lm, tmp_path, quantization):
    export_tflite(lm, tmp_path / "whole", quantization)
    data = (tmp_path / "whole").read_bytes()
    for size in (len(data) // 2, len(data) - 5000, len(data) - 100, 0):
        (tmp_path / "part").write_bytes(data[:size])
        with pytest.raises(ValueError, match="path must be a whole TFLite file"):
            LiteRTGenerator(tmp_path / "part")


def test_logits_that_are_no_numbers(tmp_path, monkeypatch):
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=64)
    export_tflite(GPTCausalLM(backbone), tmp_path / "model.tflite")
    broken = LiteRTGenerator(tmp_path / "model.tflite")
    monkeypatch.setattr(
        network.LiteRTNetwork, "feed", lambda *_, **__: np.full([64], np.nan)
    )
    rows = {"token_ids": [[1, 2]], "padding_mask": [[1, 1]]}
    with pytest.raises(ValueError, match="logits must be finite, got NaN"):
        broken.generate(rows, max_length=9, stop_token_ids=None)
