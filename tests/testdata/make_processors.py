"""Makes tests/testdata/processors.npz: what transformers' processors do to logits.

Run with torch 2.13 and transformers 5.23 (neither is needed by the tests):

    python tests/testdata/make_processors.py

Each case is one processor or a chain of them, in the order of `generate`, on the same
random logits (B, V) and texts (B, S).
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from transformers.generation import logits_process as peers

OUTPUT = pathlib.Path(__file__).with_name("processors.npz")
ROWS, VOCABULARY_SIZE, LENGTH, PROMPT_LENGTH, STOP_ID = 12, 23, 14, 6, 4
PEERS = {
    "repetition_penalty": peers.RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": peers.NoRepeatNGramLogitsProcessor,
    "min_new_tokens": lambda least: peers.MinNewTokensLengthLogitsProcessor(
        PROMPT_LENGTH, least, STOP_ID, device="cpu"
    ),
    "temperature": peers.TemperatureLogitsWarper,
    "top_k": peers.TopKLogitsWarper,
    "top_p": peers.TopPLogitsWarper,
    "min_p": peers.MinPLogitsWarper,
    "typical_p": peers.TypicalLogitsWarper,
    "epsilon_cutoff": peers.EpsilonLogitsWarper,
    "eta_cutoff": lambda cutoff: peers.EtaLogitsWarper(cutoff, device="cpu"),
}
CASES = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 15},
    {"min_new_tokens": 8},
    {"min_new_tokens": 9},
    {"temperature": 0.4},
    {"top_k": 5},
    {"top_p": 0.7},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"typical_p": 0.9},
    {"typical_p": 0.5},
    {"typical_p": 0.02},
    {"epsilon_cutoff": 0.03},
    {"epsilon_cutoff": 0.9},
    {"eta_cutoff": 0.05},
    {"eta_cutoff": 0.3},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 12},
    {"temperature": 1.7, "top_k": 15, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 0.7, "top_p": 0.95, "typical_p": 0.8, "epsilon_cutoff": 0.02},
    {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "temperature": 1.5,
        "top_k": 18,
        "typical_p": 0.95,
        "eta_cutoff": 0.02,
    },
]


def main() -> None:
    """Writes every case."""
    generator = np.random.default_rng(0)
    logits = (2.0 * generator.normal(size=(ROWS, VOCABULARY_SIZE))).astype(np.float32)
    # Few distinct tokens, so that n-grams do repeat.
    token_ids = generator.integers(0, 5, (ROWS, LENGTH))
    golden = {"logits": logits, "token_ids": token_ids.astype(np.int32)}
    for case in CASES:
        scores = torch.tensor(logits)
        for name, value in case.items():
            scores = PEERS[name](value)(torch.tensor(token_ids), scores)
        key = ",".join(f"{name}={value}" for name, value in case.items())
        golden[key] = scores.numpy()
    np.savez_compressed(OUTPUT, **golden)


if __name__ == "__main__":
    main()
