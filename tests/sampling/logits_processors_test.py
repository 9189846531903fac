"""Penalties and filters against transformers' own, and against plain Python."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GenerationOptions
from keras_gpt.generation import SETTINGS, GenerationSettings
from keras_gpt.sampling import (
    History,
    SamplingSettings,
    TokenRules,
    keep,
    process_logits,
)
from keras_gpt.sampling.logits_processors import BANNED_LOGIT

GOLDEN = dict(
    np.load(pathlib.Path(__file__).parents[1] / "testdata" / "processors.npz")
)
SEQUENCES = dict(
    np.load(pathlib.Path(__file__).parents[1] / "testdata" / "sequence_processors.npz")
)
LOGITS, TOKEN_IDS = GOLDEN.pop("logits"), GOLDEN.pop("token_ids")
PROMPT_LENGTH, STOP_ID = 6, 4  # of make_processors.py
for shared in ("logits", "token_ids", "eos_token_id"):
    SEQUENCES.pop(shared)


ROWS = len(LOGITS)


def settings_of(rows=ROWS, **given):
    """Each setting one value, or one for each row."""
    return GenerationSettings(
        **{
            name: tf.constant(
                np.broadcast_to(given.get(name, setting.default), [rows]), setting.dtype
            )
            for name, setting in SETTINGS.items()
        }
    )


def history_of(token_ids, *, lengths=None, prompt_lengths=PROMPT_LENGTH):
    rows, width = token_ids.shape
    lengths = np.full(rows, width) if lengths is None else lengths
    return History(
        token_ids=tf.constant(token_ids),
        lengths=tf.constant(lengths, tf.int32),
        prompt_lengths=tf.constant(np.broadcast_to(prompt_lengths, rows), tf.int32),
    )


def processed(logits, settings, history, *, rules=None, processors=()):
    return process_logits(
        tf.constant(logits),
        penalties=settings.penalties,
        rules=TokenRules.none() if rules is None else rules,
        stop_sequences=tf.constant([[[STOP_ID]]]),
        history=history,
        processors=processors,
    )


def distribution(logits, settings):
    """What is left, as probabilities by id (B, V)."""
    kept = keep(tf.constant(logits), settings=settings.sampling)
    weights = np.zeros(logits.shape)
    np.put_along_axis(weights, kept.token_ids.numpy(), kept.weights.numpy(), axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("case", GOLDEN)
def test_each_processor_and_chain_is_transformers_own(case):
    given = {
        name: type(SETTINGS[name].default)(float(value))
        for name, value in (pair.split("=") for pair in case.split(","))
    }
    settings = settings_of(**given)
    logits = processed(LOGITS, settings, history_of(TOKEN_IDS)).numpy()
    expected = GOLDEN[case].astype(np.float64)
    if set(given) <= {"repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"}:
        logits = np.where(logits == BANNED_LOGIT, -np.inf, logits)
        np.testing.assert_allclose(logits, expected, rtol=1e-6)
    weights = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        distribution(logits, settings),
        weights / weights.sum(axis=1, keepdims=True),
        atol=1e-6,
    )


def test_every_knob_has_a_golden_case():
    named = {pair.split("=")[0] for case in GOLDEN for pair in case.split(",")}
    lacking = {"presence_penalty", "frequency_penalty", "max_new_tokens", "seed"}
    assert named | lacking == set(SETTINGS)


@pytest.mark.parametrize("case", range(len(SEQUENCES) // 2))
def test_rules_about_tokens_are_transformers_own(case):
    arguments = json.loads(str(SEQUENCES[f"case{case}/arguments"]))
    given = {name: value for name, value in arguments.items() if name in SETTINGS}
    prompt_length = arguments.get("prompt_length", PROMPT_LENGTH)
    options = GenerationOptions(
        logit_bias={tuple(k): v for k, v in arguments.get("logit_bias", [])},
        bad_words=arguments.get("bad_words_ids"),
        **{
            name: arguments.get(name)
            for name in (
                "allowed_token_ids",
                "suppress_tokens",
                "begin_suppress_tokens",
            )
        },
    )
    rules = options.rules(
        rows=ROWS,
        vocabulary_size=LOGITS.shape[1],
        stop_sequences=[[STOP_ID]],
        tokenize=None,
    )
    settings = settings_of(**given)
    history = history_of(TOKEN_IDS, prompt_lengths=prompt_length)
    logits = processed(LOGITS, settings, history, rules=rules).numpy()
    expected = SEQUENCES[f"case{case}/logits"].astype(np.float64)
    weights = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        distribution(logits, settings),
        weights / weights.sum(axis=1, keepdims=True),
        atol=1e-6,
    )
    if not set(given) & set(SamplingSettings._fields):
        logits = np.where(logits == BANNED_LOGIT, -np.inf, logits)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def oracle(logits, text, prompt_length, *, repetition, presence, frequency, ngram):
    """The penalties of one row, written for reading."""
    logits = [float(logit) for logit in logits]
    for token in set(text):
        factor = 1 / repetition if logits[token] > 0 else repetition
        logits[token] *= factor
    for token in set(text[prompt_length:]):
        logits[token] -= presence + frequency * text[prompt_length:].count(token)
    if ngram:
        end = text[len(text) - ngram + 1 :] if ngram > 1 else []
        for place in range(len(text) - ngram + 1):
            if text[place : place + ngram - 1] == end:
                logits[text[place + ngram - 1]] = BANNED_LOGIT
    return logits


def test_rows_of_their_own_lengths_and_penalties():
    generator = np.random.default_rng(3)
    rows, width = 200, 20
    token_ids = generator.integers(0, 6, (rows, width)).astype(np.int32)
    prompt_lengths = generator.integers(1, 10, rows)
    lengths = prompt_lengths + generator.integers(0, 10, rows)
    logits = generator.normal(size=(rows, 9)).astype(np.float32)
    given = {
        "repetition_penalty": generator.choice([1.0, 1.5, 0.5], rows),
        "presence_penalty": generator.choice([0.0, 0.7, -0.4], rows),
        "frequency_penalty": generator.choice([0.0, 0.3, -0.2], rows),
        "no_repeat_ngram_size": generator.integers(0, 5, rows),
    }
    got = processed(
        logits,
        settings_of(rows, **given),
        history_of(token_ids, lengths=lengths, prompt_lengths=prompt_lengths),
    )
    names = {"repetition": "repetition_penalty", "presence": "presence_penalty"}
    names |= {"frequency": "frequency_penalty", "ngram": "no_repeat_ngram_size"}
    for row in range(rows):
        expected = oracle(
            logits[row],
            token_ids[row, : lengths[row]].tolist(),
            prompt_lengths[row],
            **{short: given[name][row] for short, name in names.items()},
        )
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, atol=1e-6)


def rules_oracle(logits, text, *, is_first, bias, bad_words, allowed, never, not_first):
    """The rules about tokens of one row, written for reading."""
    logits = [float(logit) for logit in logits]
    for sequence, value in bias.items():
        if text[len(text) - len(sequence) + 1 :] == list(sequence[:-1]):
            logits[sequence[-1]] += value
    for word in bad_words:
        if text[len(text) - len(word) + 1 :] == word[:-1]:
            logits[word[-1]] = BANNED_LOGIT
    banned = {i for i in range(len(logits)) if allowed and i not in allowed}
    banned |= set(never) | (set(not_first) if is_first else set())
    return [BANNED_LOGIT if i in banned else x for i, x in enumerate(logits)]


def test_rules_of_each_row_hold_for_it_alone():
    generator = np.random.default_rng(5)
    rows, width, size = 120, 12, 9
    token_ids = generator.integers(0, 4, (rows, width)).astype(np.int32)
    prompt_lengths = generator.integers(1, 6, rows)
    lengths = prompt_lengths + generator.integers(0, 6, rows)
    logits = generator.normal(size=(rows, size)).astype(np.float32)

    def ids(low, high):
        return generator.integers(0, size, generator.integers(low, high)).tolist()

    def sequence():
        return [
            *generator.integers(0, 4, generator.integers(0, 3)).tolist(),
            *ids(1, 2),
        ]

    mine = {
        "bias": [
            {tuple(sequence()): 1.5, tuple(sequence()): -2.0} for _ in range(rows)
        ],
        "bad_words": [[sequence() for _ in range(3)] for _ in range(rows)],
        # Enough of them that none of these rows has all of them banned.
        "allowed": [
            list(range(size))[row % 3 :] if row % 2 else [] for row in range(rows)
        ],
        "never": [ids(0, 3) for _ in range(rows)],
        "not_first": [ids(0, 3) for _ in range(rows)],
    }
    rules = GenerationOptions(
        logit_bias=mine["bias"],
        bad_words=mine["bad_words"],
        allowed_token_ids=mine["allowed"],
        suppress_tokens=mine["never"],
        begin_suppress_tokens=mine["not_first"],
    ).rules(rows=rows, vocabulary_size=size, stop_sequences=[], tokenize=None)
    history = history_of(token_ids, lengths=lengths, prompt_lengths=prompt_lengths)
    got = processed(logits, settings_of(rows), history, rules=rules)
    for row in range(rows):
        expected = rules_oracle(
            logits[row],
            token_ids[row, : lengths[row]].tolist(),
            is_first=lengths[row] == prompt_lengths[row],
            **{name: values[row] for name, values in mine.items()},
        )
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, atol=1e-6)


def test_filters_of_neighbours_do_not_touch_a_row():
    settings = settings_of(
        typical_p=np.where(np.arange(len(LOGITS)) % 3 == 0, 0.3, 1.0),
        epsilon_cutoff=np.where(np.arange(len(LOGITS)) % 3 == 1, 0.1, 0.0),
    )
    got = distribution(LOGITS, settings)
    plain = distribution(LOGITS, settings_of())
    np.testing.assert_array_equal(got[2::3], plain[2::3])
    assert ((got[:2] > 0).sum(axis=1) < (plain[:2] > 0).sum(axis=1)).all()


def test_one_token_is_always_left():
    flat = np.zeros([2, 50], np.float32)
    for given in (
        {"typical_p": 1e-6},
        {"epsilon_cutoff": 0.999},
        {"eta_cutoff": 0.999},
        {"min_p": 1.0, "top_p": 1e-6, "top_k": 1, "typical_p": 1e-6},
    ):
        left = distribution(flat, settings_of(2, **given))
        assert np.isfinite(left).all() and (left.sum(axis=1) > 0.999).all()
