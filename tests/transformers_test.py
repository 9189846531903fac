"""transformers' interface: a script with one changed import runs and gives the same."""

import json
import pathlib

import numpy as np
import pytest

from keras_gpt.transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    TFAutoModelForCausalLM,
    TFGPT2LMHeadModel,
)

GOLDEN = pathlib.Path(__file__).parent / "testdata" / "huggingface" / "gpt2"


@pytest.fixture(scope="module")
def preset(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("preset") / "model"
    causal_lm.save_to_preset(str(path))
    return path


@pytest.fixture(scope="module")
def their_tokenizer(preset):
    return GPT2Tokenizer.from_pretrained(preset)


@pytest.fixture(scope="module")
def model(preset):
    return TFGPT2LMHeadModel.from_pretrained(preset)


def test_the_example_of_the_readme(preset, causal_lm):
    tokenizer = AutoTokenizer.from_pretrained(preset)
    model = TFAutoModelForCausalLM.from_pretrained(preset)
    input_ids = tokenizer.encode("The king", return_tensors="tf")
    output = model.generate(input_ids, max_new_tokens=10)
    text = tokenizer.decode(output[0], skip_special_tokens=True)
    assert text == causal_lm.generate("The king", max_new_tokens=10, temperature=0.0)


def test_greedy_and_beams_are_transformers_own():
    model = TFGPT2LMHeadModel.from_pretrained(GOLDEN)
    results = np.load(GOLDEN / "golden.npz")
    prompts = results["token_ids"][:, :5]
    for row in range(2):
        options = {"max_new_tokens": 12, "eos_token_id": 7, "pad_token_id": -1}
        output = model.generate(prompts[row : row + 1], **options)
        np.testing.assert_array_equal(output, results[f"greedy/{row}"])
        output = model.generate(
            prompts[row : row + 1], num_beams=3, num_return_sequences=2, **options
        )
        np.testing.assert_array_equal(output, results[f"beam_plain/{row}"])


GENERATION = {
    name: np.load(GOLDEN.parents[1] / f"generation_{name}.npz")
    for name in ("beams", "methods")
}


@pytest.mark.parametrize(
    "case",
    [
        "beams/gpt2/greedy_repetition_penalty/0",
        "beams/gpt2/greedy_bad_words/1",
        "beams/gpt2/beams_no_repeat_ngram_size/2",
        "beams/gpt2/beams_min_new_tokens/0",
        "beams/gpt2/beams_suppress_tokens/1",
        "beams/gpt2/beams_begin_suppress_tokens/2",
        "methods/gpt2/contrastive_0.6_4/0",
        "methods/gpt2/contrastive_0.6_1/1",
    ],
)
def test_options_of_generate_are_transformers_own(case):
    name, _, key = case.partition("/")
    options = json.loads(str(GENERATION[name][f"{key}/arguments"]))
    prompt = [options.pop("prompt")]
    model = TFGPT2LMHeadModel.from_pretrained(GOLDEN.parent / options.pop("folder"))
    output = model.generate(prompt, pad_token_id=-1, **options).numpy()
    expected = GENERATION[name][f"{key}/sequences"]
    # -1 stands for what follows the end token there too.
    np.testing.assert_array_equal(output, expected)


def test_logits_and_loss_are_transformers_own():
    model = TFGPT2LMHeadModel.from_pretrained(GOLDEN)
    results = np.load(GOLDEN / "golden.npz")
    ids = results["token_ids"]
    output = model(ids, labels=ids)
    np.testing.assert_allclose(output.logits, results["logits"], atol=1e-4)
    assert float(output.loss) == pytest.approx(float(results["loss"]), rel=1e-5)
    # A label that does not count takes its loss out of the mean.
    logits = np.asarray(output["logits"], np.float64)[0, 0]
    labels = np.full_like(ids, -100)
    labels[0, 1] = ids[0, 1]
    expected = np.log(np.exp(logits).sum()) - logits[ids[0, 1]]
    assert float(model(ids, labels=labels).loss) == pytest.approx(expected, rel=1e-5)


def test_padding_on_either_side_changes_nothing(their_tokenizer, model):
    their_tokenizer.pad_token = their_tokenizer.eos_token
    texts = ["The king", "O my lord, the queen hath said"]
    results = {}
    for side in ("left", "right"):
        their_tokenizer.padding_side = side
        inputs = their_tokenizer(texts, return_tensors="tf", padding=True)
        output = model.generate(**inputs, max_new_tokens=6)
        assert output.shape[1] == inputs.input_ids.shape[1] + 6
        results[side] = output[:, -6:].numpy()
    np.testing.assert_array_equal(results["left"], results["right"])
    for row, text in enumerate(texts):
        ids = their_tokenizer.encode(text, return_tensors="np")
        alone = model.generate(ids, max_new_tokens=6)
        np.testing.assert_array_equal(alone[0, -6:], results["left"][row])


def test_draws(their_tokenizer, model):
    ids = their_tokenizer.encode("The king", return_tensors="tf")
    options = {"do_sample": True, "max_length": 16, "temperature": 2.0, "top_k": 0}
    first, again = (model.generate(ids, seed=3, **options) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    several = model.generate(ids, num_return_sequences=4, **options).numpy()
    assert len(several) == 4 and len({row.tobytes() for row in several}) == 4
    assert (several[:, : ids.shape[1]] == ids.numpy()).all()
    seeded = model.generate(ids, seed=3, num_return_sequences=2, **options).numpy()
    np.testing.assert_array_equal(seeded[:1, : first.shape[1]], first)


def test_default_length_is_transformers_own(their_tokenizer, model):
    ids = their_tokenizer.encode("The king", return_tensors="tf")
    assert model.generate(ids, eos_token_id=-1).shape == (1, 20)


def test_encoding(their_tokenizer):
    ids = their_tokenizer.encode("The king<|endoftext|>")
    assert ids[-1] == their_tokenizer.eos_token_id
    assert their_tokenizer.decode(ids) == "The king<|endoftext|>"
    assert their_tokenizer.decode(ids, skip_special_tokens=True) == "The king"
    assert their_tokenizer.encode("The king", truncation=True, max_length=1) == ids[:1]
    assert their_tokenizer(["The king", "O"])["input_ids"][0] == ids[:-1]
    assert their_tokenizer("O")["attention_mask"] == [1] * len(
        their_tokenizer.encode("O")
    )
    assert their_tokenizer.batch_decode([ids, ids[:-1]])[1] == "The king"
    assert len(their_tokenizer) == their_tokenizer.vocab_size == 300
    assert their_tokenizer.model_max_length == 64


def test_bad_arguments(their_tokenizer, model):
    ids = their_tokenizer.encode("The king", return_tensors="tf")
    with pytest.raises(ValueError, match="return_tensors must be .* got 'pt'"):
        their_tokenizer.encode("The king", return_tensors="pt")
    with pytest.raises(ValueError, match="max_length must be above the prompts' "):
        model.generate(ids, max_length=2)
    with pytest.raises(ValueError, match="num_return_sequences must be 1"):
        model.generate(ids, max_new_tokens=2, num_return_sequences=2)
    with pytest.raises(ValueError, match="do_sample must be False"):
        model.generate(ids, max_new_tokens=2, num_beams=2, do_sample=True)
    with pytest.raises(TypeError, match="num_beam_groups"):
        model.generate(ids, num_beam_groups=2)
    with pytest.raises(ValueError, match="must be of one shape"):
        model.generate(ids, attention_mask=[[1]])
    fresh = GPT2Tokenizer(their_tokenizer.tokenizer, model_max_length=64)
    with pytest.raises(ValueError, match="pad_token must be set"):
        fresh(["a", "b c d"], padding=True)
    with pytest.raises(ValueError, match="padding must be True"):
        fresh(["a", "b c d"], return_tensors="np")
