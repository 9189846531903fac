"""Beam search against the same rules written with plain lists."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import (
    HEURISTIC,
    NEVER,
    WHEN_FULL,
    BeamSettings,
    BeamStops,
)

VOCABULARY_SIZE = 7


def log_probs_after(tokens, *, seed):
    """A language model: random log-probabilities, fixed for each text."""
    digest = hashlib.sha256(repr((seed, *tokens)).encode()).digest()
    generator = np.random.default_rng(list(digest))
    logits = 2.0 * generator.normal(size=VOCABULARY_SIZE)
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


LETTERS = [b"a", b"b", b"ab", b"ba", b"c", b"aa", b"cb"]  # by token


def text_of(tokens):
    return b"".join(LETTERS[token] for token in tokens)


def oracle(*, seed, num_beams, limit, penalty, early_stopping, stops, strings=()):
    """Returns the finished beams, best first: score and tokens, stop token included."""
    running, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        candidates = sorted(
            (
                (total + log_prob, (*tokens, token))
                for total, tokens in running
                for token, log_prob in enumerate(log_probs_after(tokens, seed=seed))
            ),
            reverse=True,
        )[: max(2, 1 + len(stops)) * num_beams]
        running = []
        for place, (total, tokens) in enumerate(candidates):
            is_met = any(string in text_of(tokens) for string in strings)
            ends = tokens[-1] in stops or is_met or length == limit
            if ends and place < num_beams:
                finished.append((total / length**penalty, tokens))
            elif not ends and len(running) < num_beams:
                running.append((total, tokens))
        finished = sorted(finished, reverse=True)[:num_beams]
        is_full = len(finished) == num_beams
        if not running or (is_full and early_stopping == WHEN_FULL):
            break
        looks_ahead = early_stopping == NEVER and penalty > 0
        reachable = running[0][0] / (limit if looks_ahead else length) ** penalty
        if is_full and reachable <= finished[-1][0]:
            break
    return finished


def stops_at(token_ids, *, rows, strings=()):
    return BeamStops(
        sequences=tf.constant(token_ids, tf.int32, shape=[1, len(token_ids), 1]),
        strings=tf.constant(strings, tf.string, shape=[1, len(strings)]),
        token_text=tf.constant(LETTERS) if strings else None,
        min_new_tokens=tf.zeros([rows], tf.int32),
    )


def search(cases, *, num_beams, stops, strings=()):
    """Runs the module on rows of (seed, limit, penalty, early stopping)."""
    seeds, limits, penalties, early = zip(*cases, strict=True)
    settings = BeamSettings(
        tf.constant(penalties, tf.float32), tf.constant(early, tf.int32)
    )
    state = beam_search.begin(
        num_beams=num_beams,
        num_steps=tf.constant(max(limits)),
        is_open=tf.ones([len(cases)], tf.bool),
    )
    for step in range(max(limits)):
        tokens = state.running.token_ids.numpy()[:, :, :step].tolist()
        logits = [
            [log_probs_after(beam, seed=seed) for beam in row]
            for seed, row in zip(seeds, tokens, strict=True)
        ]
        state = beam_search.advance(
            state,
            log_probs=tf.constant(logits),
            gains=tf.constant(logits),
            step=tf.constant(step),
            limits=tf.constant(limits),
            settings=settings,
            stops=stops_at(stops, rows=len(cases), strings=strings),
        )
    assert not state.is_open.numpy().any()
    return state.finished


@pytest.mark.parametrize("stops", [[], [3], [3, 5]])
@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
def test_rows_of_every_kind_equal_the_oracle(num_beams, stops):
    cases = [
        (seed, 1 + seed % 8, penalty, early)
        for seed in range(16)
        for penalty in (-1.0, 0.0, 0.7, 1.0, 2.5)
        for early in (HEURISTIC, WHEN_FULL, NEVER)
    ]
    found = search(cases, num_beams=num_beams, stops=stops)
    lengths = set()
    for row, (seed, limit, penalty, early) in enumerate(cases):
        expected = oracle(
            seed=seed,
            num_beams=num_beams,
            limit=limit,
            penalty=penalty,
            early_stopping=early,
            stops=stops,
        )
        for beam, (score, tokens) in enumerate(expected):
            ended = tokens[-1] in stops
            kept = tokens[:-1] if ended else tokens
            lengths.add(len(kept))
            count = int(found.num_tokens[row, beam])
            assert count == len(kept)
            assert tuple(found.token_ids[row, beam, :count].numpy()) == kept
            assert bool(found.ended[row, beam]) == ended
            assert float(found.scores[row, beam]) == pytest.approx(score, rel=1e-4)
            steps = [
                log_probs_after(kept[:n], seed=seed)[t] for n, t in enumerate(kept)
            ]
            np.testing.assert_allclose(
                found.log_probs[row, beam, :count],
                steps,
                rtol=1e-5,
                atol=1e-6,
            )
    assert len(lengths) > 5 or not stops  # texts did end early


@pytest.mark.parametrize("strings", [[b"bab"], [b"cc", b"aaa"]])
def test_beams_end_at_stop_strings_and_keep_the_tokens(strings):
    cases = [
        (seed, 3 + seed % 6, penalty, early)
        for seed in range(12)
        for penalty in (0.0, 1.0)
        for early in (HEURISTIC, WHEN_FULL)
    ]
    found = search(cases, num_beams=3, stops=[6], strings=strings)
    num_met = 0
    for row, (seed, limit, penalty, early) in enumerate(cases):
        expected = oracle(
            seed=seed,
            num_beams=3,
            limit=limit,
            penalty=penalty,
            early_stopping=early,
            stops=[6],
            strings=strings,
        )
        for beam, (score, tokens) in enumerate(expected):
            kept = tokens[:-1] if tokens[-1] == 6 else tokens
            count = int(found.num_tokens[row, beam])
            assert tuple(found.token_ids[row, beam, :count].numpy()) == kept
            assert float(found.scores[row, beam]) == pytest.approx(score, rel=1e-4)
            places = [text_of(kept).find(string) for string in strings]
            first = min((place for place in places if place >= 0), default=-1)
            if tokens[-1] != 6:
                assert int(found.text_lengths[row, beam]) == first
                num_met += first >= 0
    assert num_met > 20


def test_a_wide_search_finds_the_best_of_all():
    found = search([(0, 3, 0.0, NEVER)], num_beams=VOCABULARY_SIZE**2, stops=[])
    everything = [
        (
            sum(
                log_probs_after(text[:n], seed=0)[token] for n, token in enumerate(text)
            ),
            text,
        )
        for text in np.ndindex(*[VOCABULARY_SIZE] * 3)
    ]
    best = sorted(everything, reverse=True)[:5]
    for beam, (total, text) in enumerate(best):
        assert tuple(found.token_ids[0, beam].numpy()) == text
        assert float(found.scores[0, beam]) == pytest.approx(total, rel=1e-5)


def test_closed_rows_stay_empty():
    state = beam_search.begin(
        num_beams=2, num_steps=tf.constant(3), is_open=tf.constant([True, False])
    )
    state = beam_search.advance(
        state,
        log_probs=tf.zeros([2, 2, VOCABULARY_SIZE]),
        gains=tf.zeros([2, 2, VOCABULARY_SIZE]),
        step=tf.constant(0),
        limits=tf.constant([1, 1]),
        settings=BeamSettings(tf.ones([2]), tf.zeros([2], tf.int32)),
        stops=stops_at([], rows=2),
    )
    assert state.finished.num_tokens.numpy().tolist() == [[1, 1], [0, 0]]
    assert state.finished.is_there.numpy().tolist() == [[True, True], [False, False]]
