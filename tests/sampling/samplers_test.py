"""Sampling against a plain NumPy oracle."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.sampling import SamplingSettings, sample, uniform

VOCABULARY_SIZE = 37


def settings_of(
    rows,
    *,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    typical_p=1.0,
    epsilon_cutoff=0.0,
    eta_cutoff=0.0,
    seed=None,
):
    seed = np.arange(rows) if seed is None else seed
    return SamplingSettings(
        temperature=tf.fill([rows], np.float32(temperature)),
        top_k=tf.fill([rows], top_k),
        top_p=tf.fill([rows], np.float32(top_p)),
        min_p=tf.fill([rows], np.float32(min_p)),
        typical_p=tf.fill([rows], np.float32(typical_p)),
        epsilon_cutoff=tf.fill([rows], np.float32(epsilon_cutoff)),
        eta_cutoff=tf.fill([rows], np.float32(eta_cutoff)),
        seed=tf.constant(seed, tf.int64),
    )


def oracle_distribution(logits, *, temperature, top_k, top_p, min_p):
    """Filtered probabilities of one row by id, written for reading."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    weights = {i: np.exp((logits[i] - logits[order[0]]) / temperature) for i in order}
    kept = order[:top_k] if top_k else order
    total = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if top_p >= 1.0 or mass < top_p * total or not nucleus:
            nucleus.append(i)
        mass += weights[i]
    nucleus = [i for i in nucleus if weights[i] >= min_p]
    total = sum(weights[i] for i in nucleus)
    return nucleus, np.array([weights[i] / total for i in nucleus])


CASES = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.5, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 1.3, "top_k": 0, "top_p": 0.6, "min_p": 0.0},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.7, "min_p": 0.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 1.0, "top_k": 0, "top_p": 1e-6, "min_p": 0.0},
    {"temperature": 1.0, "top_k": 10**6, "top_p": 1.0, "min_p": 1.0},
]


@pytest.mark.parametrize("case", CASES)
def test_token_is_the_inverse_cdf_of_the_oracle(case):
    rows = 300
    logits = np.random.default_rng(0).normal(0, 2, (rows, VOCABULARY_SIZE))
    logits = np.round(logits, 1).astype(np.float32)  # with ties
    settings = settings_of(rows, **case)
    got = sample(tf.constant(logits), settings=settings, step=tf.constant(4))
    draws = uniform(settings.seed, tf.constant(4)).numpy()
    for row in range(rows):
        ids, probabilities = oracle_distribution(logits[row].astype(float), **case)
        cumulative = np.cumsum(probabilities)
        index = min(int(np.sum(cumulative <= draws[row])), len(ids) - 1)
        near_edge = np.min(np.abs(cumulative - draws[row])) < 1e-5
        assert near_edge or got.numpy()[row] == ids[index]


CRITICAL = {5: 20.5, 4: 18.5, 3: 16.3, 2: 13.8, 1: 10.8}  # chi-square, p = 0.001


@pytest.mark.parametrize(
    "method",
    [
        {"temperature": 0.9},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.3},
        {"typical_p": 0.7},
        {"epsilon_cutoff": 0.12},
        {"eta_cutoff": 0.4},
        {"temperature": 1.4, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    ],
)
def test_frequencies_match_the_distribution(method):
    rows = 20_000
    logits = np.linspace(-1.0, 1.0, 6).astype(np.float32)
    settings = settings_of(rows, **method)
    got = sample(
        tf.tile(logits[None], [rows, 1]), settings=settings, step=tf.constant(0)
    )
    counts = np.bincount(got.numpy(), minlength=6)
    weights = np.exp(logits / method.get("temperature", 1.0))
    left = FILTERED[tuple(method)](weights / weights.sum(), **method)
    assert counts[left == 0].sum() == 0
    expected = left[left > 0] / left.sum() * rows
    statistic = np.sum((counts[left > 0] - expected) ** 2 / expected)
    assert statistic < CRITICAL[len(expected) - 1]


def nucleus(p, *, top_p, **_):
    order = np.argsort(-p)
    kept = order[: np.searchsorted(np.cumsum(p[order]), top_p) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0.0)


def typical(p, *, typical_p):
    distance = np.abs(-np.log(p) + np.sum(p * np.log(p)))
    order = np.argsort(distance)
    kept = order[: np.searchsorted(np.cumsum(p[order]), typical_p) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0.0)


def eta(p, *, eta_cutoff):
    entropy = -np.sum(p * np.log(p))
    cutoff = min(eta_cutoff, np.sqrt(eta_cutoff) * np.exp(-entropy))
    return np.where(p >= cutoff, p, 0.0)


def largest(p, *, top_k, **_):
    return np.where(p >= np.sort(p)[-top_k], p, 0.0)


def chain(p, *, top_k, top_p, min_p, **_):
    p = largest(p, top_k=top_k)
    p = nucleus(p / p.sum(), top_p=top_p)
    return np.where(p >= min_p * p.max(), p, 0.0)


FILTERED = {
    ("temperature",): lambda p, **_: p,
    ("top_k",): largest,
    ("top_p",): nucleus,
    ("min_p",): lambda p, min_p: np.where(p >= min_p * p.max(), p, 0.0),
    ("typical_p",): typical,
    ("epsilon_cutoff",): lambda p, epsilon_cutoff: np.where(
        p >= epsilon_cutoff, p, 0.0
    ),
    ("eta_cutoff",): eta,
    ("temperature", "top_k", "top_p", "min_p"): chain,
}


def test_temperature_zero_takes_the_lowest_of_equal_maxima():
    logits = tf.constant([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]])
    got = sample(logits, settings=settings_of(2, temperature=0.0), step=tf.constant(0))
    assert got.numpy().tolist() == [1, 0]


def test_a_row_does_not_depend_on_its_neighbours_settings():
    logits = tf.constant(np.random.default_rng(2).normal(size=(3, 50)), tf.float32)
    alone = settings_of(3, temperature=0.7, top_k=4)
    mixed = alone._replace(
        temperature=tf.constant([0.7, 0.0, 1.9]), top_k=tf.constant([4, 0, 50])
    )
    for step in range(20):
        first = sample(logits, settings=alone, step=tf.constant(step))[0]
        second = sample(logits, settings=mixed, step=tf.constant(step))[0]
        assert first == second
