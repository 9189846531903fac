"""The decode loop and `generate`: identities that must hold exactly."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor, generation
from keras_gpt.generation import Decoder, Prompts, Request, Stops

PROMPTS = ["The king", "", "a\n\nb said", "O", "my lord, what say you to the"]


def generate_tokens(backbone, prompt_ids, prompt_lengths, settings, stop_ids=()):
    request = Request.of(settings, stops=Stops.at(list(stop_ids)))
    prompts = Prompts.of(backbone, prompt_ids, prompt_lengths)
    return Decoder(backbone).generate(prompts, request)


def greedy_oracle(backbone, prompt, count):
    """Whole forward pass for each token, no cache."""
    ids = list(prompt)
    for _ in range(count):
        hidden = backbone.forward(np.array([ids], np.int32)).hidden
        ids.append(int(np.argmax(backbone.logits(hidden)[0, -1])))
    return ids[len(prompt) :]


def test_greedy_equals_uncached_forward_passes(causal_lm, settings_of, ragged):
    backbone = causal_lm.backbone
    lengths = [3, 9, 1]
    rows, inputs = ragged(lengths, seed=0)
    got = generate_tokens(backbone, inputs["token_ids"], lengths, settings_of(3))
    for row, ids in enumerate(rows):
        assert got.token_ids[row].numpy().tolist() == greedy_oracle(backbone, ids, 8)
    assert got.num_tokens.numpy().tolist() == [8, 8, 8]


def test_log_probs_are_the_models(causal_lm, settings_of):
    backbone = causal_lm.backbone
    prompt = np.array([[5, 6, 7]], np.int32)
    got = generate_tokens(
        backbone, prompt, [3], settings_of(1, temperature=1.0, seed=5)
    )
    ids = np.concatenate([prompt, got.token_ids], axis=1)
    log_probs = tf.nn.log_softmax(backbone.logits(backbone.forward(ids).hidden))[0]
    expected = [log_probs[2 + i, ids[0, 3 + i]].numpy() for i in range(8)]
    np.testing.assert_allclose(got.log_probs[0], expected, atol=1e-4)


def test_stop_token_ends_its_row_and_is_left_out(causal_lm, settings_of):
    backbone = causal_lm.backbone
    prompt = np.array([[5, 6, 7], [9, 8, 1]], np.int32)
    free = greedy_oracle(backbone, prompt[0], 8)
    stop = next(token for token in free[1:] if token != free[0])
    got = generate_tokens(backbone, prompt, [3, 3], settings_of(2), stop_ids=[stop])
    count = free.index(stop)
    assert got.num_tokens[0] == count
    assert got.token_ids[0, :count].numpy().tolist() == free[:count]
    assert generation.FINISH_REASONS[got.finish_reason[0]] == "stop"


def test_context_ends_generation(causal_lm, settings_of):
    context = causal_lm.backbone.config.max_sequence_length
    got = generate_tokens(
        causal_lm.backbone,
        np.ones([2, context - 2], np.int32),
        [context - 2, 4],
        settings_of(2, max_new_tokens=5),
    )
    assert got.num_tokens.numpy().tolist() == [2, 5]
    assert [generation.FINISH_REASONS[r] for r in got.finish_reason] == ["length"] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batched_equals_one_by_one(causal_lm, temperature):
    knobs = {"temperature": temperature, "seed": 11, "max_new_tokens": 12}
    together = causal_lm.generate(PROMPTS, **knobs)
    alone = [causal_lm.generate(prompt, **knobs) for prompt in PROMPTS]
    backwards = causal_lm.generate(PROMPTS[::-1], **knobs)[::-1]
    assert together == alone == backwards


def test_settings_may_differ_by_row(causal_lm):
    together = causal_lm.generate(
        PROMPTS[:3],
        temperature=[0.0, 1.0, 0.5],
        top_k=[0, 3, 0],
        seed=[1, 2, 3],
        max_new_tokens=[3, 9, 6],
    )
    alone = [
        causal_lm.generate(prompt, temperature=t, top_k=k, seed=seed, max_new_tokens=n)
        for prompt, t, k, seed, n in zip(
            PROMPTS[:3],
            [0.0, 1.0, 0.5],
            [0, 3, 0],
            [1, 2, 3],
            [3, 9, 6],
            strict=True,
        )
    ]
    assert together == alone


def test_prompt_is_repeated_unless_stripped(causal_lm):
    knobs = {"max_new_tokens": 4, "seed": 0}
    whole = causal_lm.generate("The king", **knobs)
    stripped = causal_lm.generate("The king", strip_prompt=True, **knobs)
    assert whole == "The king" + stripped
    assert isinstance(causal_lm.generate(["a"], **knobs), list)


def test_tensors_and_datasets_are_prompts_too(causal_lm):
    knobs = {"max_new_tokens": 4, "seed": 0}
    expected = causal_lm.generate(PROMPTS, **knobs)
    dataset = tf.data.Dataset.from_tensor_slices(PROMPTS).batch(2)
    assert causal_lm.generate(tf.constant(PROMPTS), **knobs) == expected
    assert causal_lm.generate(dataset, **knobs) == expected


def test_max_length_counts_the_prompt(causal_lm):
    prompt = "The king"
    tokens = len(causal_lm.preprocessor.tokenizer.tokenize(prompt))
    longer = causal_lm.generate(
        prompt, max_length=tokens + 3, temperature=0.0, stop_token_ids=None
    )
    expected = causal_lm.generate(
        prompt, max_new_tokens=3, temperature=0.0, stop_token_ids=None
    )
    assert longer == expected


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"temperature": -1.0}, "temperature must be finite and at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": -2}, "top_k must be at least 0, got -2"),
        ({"top_k": 1.5}, "top_k must be a whole number, got 1.5"),
        ({"min_p": 2}, r"min_p must be in \[0, 1\], got 2"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"seed": [1, 2]}, r"seed must be one value or one per prompt \(1\)"),
        ({"max_length": 0}, "max_length must be an integer of at least 1, got 0"),
        ({"stop_token_ids": "never"}, "stop_token_ids must be 'auto'"),
    ],
)
def test_settings_out_of_range_are_named(causal_lm, knobs, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The", **knobs)


def test_prompt_longer_than_the_context_is_refused(causal_lm):
    with pytest.raises(ValueError, match="shorter than the context of 64 tokens"):
        causal_lm.generate(["fine", "word " * 200])


def test_invalid_utf8_is_refused(causal_lm):
    with pytest.raises(ValueError, match="valid UTF-8"):
        causal_lm.generate(tf.constant([b"ok", b"\xff"]), max_new_tokens=1)


def test_a_bad_row_fails_alone(causal_lm, settings_of):
    generator = causal_lm.text_generator()
    good = generator(
        tf.constant(["The king", "The king"]),
        Request.of(settings_of(2), stops=Stops.at([])),
    )
    settings = settings_of(4)._replace(temperature=tf.constant([0.0, 0.0, -1.0, 0.0]))
    mixed = generator(
        tf.constant([b"The king", b"word " * 200, b"The", b"\xff"]),
        Request.of(settings, stops=Stops.at([])),
    )
    reasons = [generation.FINISH_REASONS[r] for r in mixed.tokens.finish_reason]
    assert reasons == ["length", "prompt_too_long", "invalid_input", "invalid_input"]
    assert mixed.generated_bytes[0] == good.generated_bytes[0]
    assert mixed.generated_bytes[1:].numpy().tolist() == [b"", b"", b""]


def penalized_oracle(backbone, prompt, *, count, repetition, frequency, ngram, end_id):
    """Greedy choice with penalties, a whole forward pass for each token."""
    ids, new = list(prompt), []
    for step in range(count):
        hidden = backbone.forward(np.array([ids], np.int32)).hidden
        logits = backbone.logits(hidden)[0, -1].numpy().copy()
        for token in set(ids):
            logits[token] *= 1 / repetition if logits[token] > 0 else repetition
        for token in new:
            logits[token] -= frequency
        for place in range(len(ids) - ngram + 1):
            if ngram and ids[place : place + ngram - 1] == ids[len(ids) - ngram + 1 :]:
                logits[ids[place + ngram - 1]] = -np.inf
        if step < 4:
            logits[end_id] = -np.inf
        ids.append(int(np.argmax(logits)))
        new.append(ids[-1])
        if new[-1] == end_id:
            return new[:-1]
    return new


def test_penalties_in_ragged_rows_equal_an_uncached_oracle(
    causal_lm, causal_lm_on_ids, ragged
):
    lengths = [3, 9, 1, 6]
    rows, inputs = ragged(lengths, seed=4)
    # The end is what greedy choice takes first, were it not for min_new_tokens.
    end_id = greedy_oracle(causal_lm.backbone, rows[0], 1)[0]
    given = {
        "repetition_penalty": [1.0, 1.8, 0.9, 1.3],
        "frequency_penalty": [0.0, 0.5, 2.0, 0.0],
        "no_repeat_ngram_size": [2, 0, 3, 1],
    }
    got = causal_lm_on_ids.generate(
        inputs,
        max_length=64,
        max_new_tokens=10,
        min_new_tokens=4,
        temperature=0.0,
        stop_token_ids=[end_id],
        strip_prompt=True,
        **given,
    )
    repetition, frequency, ngram = given.values()
    for row, ids in enumerate(rows):
        expected = penalized_oracle(
            causal_lm.backbone,
            ids,
            count=10,
            repetition=repetition[row],
            frequency=frequency[row],
            ngram=ngram[row],
            end_id=end_id,
        )
        assert got["token_ids"][row][got["padding_mask"][row]].tolist() == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("min_new_tokens", -1, "min_new_tokens must be at least 0, got -1"),
        ("repetition_penalty", 0.0, "repetition_penalty must be finite and above 0"),
        ("presence_penalty", np.inf, "presence_penalty must be finite, got inf"),
        ("frequency_penalty", np.nan, "frequency_penalty must be finite, got nan"),
        ("no_repeat_ngram_size", 1.5, "no_repeat_ngram_size must be a whole number"),
        ("typical_p", 0.0, r"typical_p must be in \(0, 1\], got 0.0"),
        ("epsilon_cutoff", 1.0, r"epsilon_cutoff must be in \[0, 1\), got 1.0"),
        ("eta_cutoff", -0.1, r"eta_cutoff must be in \[0, 1\), got -0.1"),
    ],
)
def test_settings_out_of_range(causal_lm, name, value, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The king", **{name: value})


def test_ids_that_the_tokenizer_lacks_are_never_generated(tokenizer):
    # As nanoGPT's and others' models, padded to a round number of ids.
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=320)
    table = backbone.token_embedding.embeddings
    table.assign(np.concatenate([table[:300] * 0.01, table[300:] * 50.0]))
    lm = GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=64))
    knobs = {"max_new_tokens": 20, "strip_prompt": True, "stop_token_ids": None}
    texts = lm.generate(["The king"] * 8, temperature=5.0, **knobs)
    texts.append(lm.generate("The king", num_beams=3, **knobs))
    assert all(texts)


def test_a_model_without_a_tokenizer_says_so(causal_lm, causal_lm_on_ids):
    with pytest.raises(ValueError, match="inputs must be a dict of token_ids and pad"):
        causal_lm_on_ids.generate("The king")


def test_rounds_end_with_the_last_row(causal_lm, settings_of):
    """Eagerly a round calls a processor once, so that rounds can be counted."""
    rounds = []

    def count(logits, history):
        rounds.append(history.num_new_tokens.numpy().tolist())
        return logits

    decoder = Decoder(causal_lm.backbone, processors=[count])
    prompts = np.array([[5, 6, 7], [9, 8, 1]], np.int32)
    free = [greedy_oracle(causal_lm.backbone, prompt, 8) for prompt in prompts]
    stops = [row[3] for row in free]
    lengths = [min(row.index(stop) for stop in stops if stop in row) for row in free]
    request = Request.of(settings_of(2, max_new_tokens=60), stops=Stops.at(stops))
    got = decoder.generate(Prompts.of(causal_lm.backbone, prompts, [3, 3]), request)
    assert got.num_tokens.numpy().tolist() == lengths
    assert len(rounds) == max(lengths) + 1  # the stop token takes a round too
