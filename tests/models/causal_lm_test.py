"""The task: training on strings, presets, samplers, LoRA."""

import keras
import keras_nlp
import numpy as np
import pytest

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor

TEXTS = ["the king is dead", "long live the king", "my lord", "the queen my lord"]


def make_lm(tokenizer, **preprocessor_options):
    keras.utils.set_random_seed(1)
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
    )
    preprocessor = GPTCausalLMPreprocessor(
        tokenizer, sequence_length=16, **preprocessor_options
    )
    return GPTCausalLM(backbone, preprocessor)


def test_fit_on_strings_lowers_the_loss(tokenizer):
    lm = make_lm(tokenizer)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2))
    history = lm.fit(TEXTS, batch_size=2, epochs=8, verbose=0)
    assert history.history["loss"][-1] < 0.6 * history.history["loss"][0]
    assert np.isfinite(lm.evaluate(TEXTS, batch_size=2, verbose=0)[0])


def test_strings_train_as_their_ids(tokenizer):
    losses = []
    for on_strings in (True, False):
        lm = make_lm(tokenizer)
        lm.compile(optimizer=keras.optimizers.SGD(0.1))
        if on_strings:
            data = {"x": TEXTS}
        else:
            x, y, weight = lm.preprocessor(TEXTS)
            lm.preprocessor = None
            data = {"x": x, "y": y, "sample_weight": weight}
        history = lm.fit(**data, batch_size=4, epochs=3, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_preprocessor_shifts_by_one_and_ends_rows(tokenizer):
    preprocessor = GPTCausalLMPreprocessor(tokenizer, sequence_length=16)
    ids = tokenizer.tokenize("the king").numpy().tolist()
    x, y, weight = preprocessor(["the king"])
    whole = ids + [tokenizer.end_token_id]
    assert np.array(x["token_ids"])[0, : len(whole)].tolist() == whole
    assert np.array(y)[0, : len(ids)].tolist() == whole[1:]
    assert np.array(weight)[0].tolist() == [True] * len(ids) + [False] * (16 - len(ids))


def test_preset_round_trip_generates_the_same(tokenizer, tmp_path):
    lm = make_lm(tokenizer, add_start_token=True)  # which is not the default
    expected = lm.generate(["the", ""], max_new_tokens=6, seed=3)
    lm.save_to_preset(str(tmp_path))
    for cls in (GPTCausalLM, keras_nlp.models.CausalLM):
        again = cls.from_preset(str(tmp_path))
        assert type(again) is GPTCausalLM
        assert again.generate(["the", ""], max_new_tokens=6, seed=3) == expected


def test_sampler_of_compile_is_the_default(tokenizer):
    lm = make_lm(tokenizer)
    greedy = lm.generate("the", temperature=0.0, max_new_tokens=6)
    lm.compile(sampler="greedy")
    assert lm.generate("the", max_new_tokens=6) == greedy
    lm.compile(sampler=keras_nlp.samplers.TopKSampler(k=1))
    assert lm.generate("the", max_new_tokens=6) == greedy
    beams = lm.generate("the", num_beams=5, max_new_tokens=6)
    contrast = lm.generate("the", penalty_alpha=0.6, top_k=5, max_new_tokens=6)
    lm.compile(sampler="beam")
    assert lm.generate("the", max_new_tokens=6) == beams
    lm.compile(sampler="contrastive")
    assert lm.generate("the", max_new_tokens=6) == contrast
    with pytest.raises(ValueError, match="got Sampler"):
        lm.compile(sampler=keras_nlp.samplers.Sampler())


def test_generate_follows_training_and_lora_without_stale_traces(tokenizer):
    lm = make_lm(tokenizer)
    lm.generate("the", temperature=0.0, max_new_tokens=8)
    lm.backbone.enable_lora(4)
    lm.compile(optimizer=keras.optimizers.Adam(5e-2))
    lm.fit(["the king"] * 240, batch_size=4, verbose=0)
    text = lm.generate("the", temperature=0.0, max_new_tokens=8)
    assert text == "the king"


def test_ids_in_ids_out_without_a_preprocessor(tokenizer):
    lm = make_lm(tokenizer)
    text = lm.generate("the king", temperature=0.0, max_length=12, stop_token_ids=None)
    ids = tokenizer.tokenize("the king").numpy()
    lm.preprocessor = None
    padded = np.zeros((1, 12), np.int32)
    padded[0, : len(ids)] = ids
    mask = (np.arange(12) < len(ids))[None]
    with pytest.raises(ValueError, match="stop_token_ids must be None or ids"):
        lm.generate({"token_ids": padded, "padding_mask": mask})
    lm.compile(sampler="greedy")
    result = lm.generate(
        {"token_ids": padded, "padding_mask": mask}, stop_token_ids=None
    )
    assert result["padding_mask"].sum() == 12
    decoded = tokenizer.detokenize(result["token_ids"][0]).numpy().decode()
    assert decoded == text


def test_summary_and_logits(tokenizer):
    lm = make_lm(tokenizer)
    lines = []
    lm.summary(print_fn=lines.append)
    assert "transformer_layer_0" in "".join(lines) or "gpt_backbone" in "".join(lines)
    x, _, _ = lm.preprocessor(TEXTS)
    assert lm(x).shape == (4, 16, tokenizer.vocabulary_size())
    assert lm.predict(TEXTS, verbose=0).shape == (4, 16, tokenizer.vocabulary_size())
