"""Makes tests/testdata/sequence_processors.npz: transformers' processors given tokens.

Run with torch 2.13 and transformers 5.23 (neither is needed by the tests), after
make_processors.py, whose logits (B, V) and texts (B, S) are used again:

    python tests/testdata/make_sequence_processors.py

`logits`, `token_ids` and `eos_token_id` hold for every case. Case N is one processor
or a chain of them: `caseN/arguments` is their arguments, as JSON, and `caseN/logits`
(B, V) their result. Whatever the order of the arguments, the processors run in that of
`GenerationMixin._get_logits_processor`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import make_processors
import numpy as np
import torch
from transformers.generation import logits_process as peers

OUTPUT = pathlib.Path(__file__).with_name("sequence_processors.npz")
STOP_ID = make_processors.STOP_ID


def builders(prompt_length: int) -> dict[str, Callable[[Any], peers.LogitsProcessor]]:
    """Returns what builds each processor of its value, in the order of `generate`."""
    known = make_processors.PEERS
    filters = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    cutoffs = ("epsilon_cutoff", "eta_cutoff")
    return {
        "logit_bias": peers.SequenceBiasLogitsProcessor,
        "repetition_penalty": known["repetition_penalty"],
        "no_repeat_ngram_size": known["no_repeat_ngram_size"],
        "bad_words_ids": lambda words: peers.NoBadWordsLogitsProcessor(words, STOP_ID),
        "min_new_tokens": lambda least: peers.MinNewTokensLengthLogitsProcessor(
            prompt_length, least, STOP_ID
        ),
        "allowed_token_ids": lambda ids: peers.PrefixConstrainedLogitsProcessor(
            lambda row, text: ids, num_beams=1
        ),
        "suppress_tokens": peers.SuppressTokensLogitsProcessor,
        "begin_suppress_tokens": lambda ids: peers.SuppressTokensAtBeginLogitsProcessor(
            ids, prompt_length
        ),
        **{name: known[name] for name in filters + cutoffs},
    }


def cases(texts: list[list[int]]) -> list[dict[str, Any]]:
    """Returns the arguments of each case, some of which complete what the texts end in.

    Args:
        texts: the texts (B, S) that the logits follow.
    """
    length = len(texts[0])
    # Each once: transformers takes the last bias of a sequence that is given twice.
    lasts, pairs = ({tuple(text[-size:]) for text in texts} for size in (1, 2))
    ends = sorted(lasts)[:4] + sorted(pairs)[:6]
    absent = [22, 21]
    # A whole text and its next token, and a sequence longer than that.
    whole, longer = [*texts[0], 9], [0, *texts[1], 9]
    tokens = [[[4], -2.5], [[0], 1.25], [[17], 4.0]]
    sequences = [[[*end, 10 + row], 3.0 + row] for row, end in enumerate(ends)]
    same_last = [[[*end, 6], 1.5 + row] for row, end in enumerate(ends)]
    unmatched = [[[*absent, 3], 9.0], [[absent[0], 3], -9.0], [longer, 9.0]]
    biases = [*tokens, *sequences, *same_last, *unmatched, [[6], -0.75], [whole, 2.0]]
    words = [[*end, 7 + row] for row, end in enumerate(ends)]
    bans = [*words, [8], [*absent, 11], [absent[0], 12], longer, whole]
    stops = [[STOP_ID], [*ends[0], STOP_ID], [*ends[-1], STOP_ID], [2]]
    allowed = [1, 2, 4, 6, 9, 10, 13, 19]
    return [
        {"logit_bias": tokens},
        {"logit_bias": [[[3], 100.0], [[5], -100.0]]},
        {"logit_bias": sequences},
        {"logit_bias": same_last},
        {"logit_bias": [[[0], 0.5], *same_last, [[6], -0.75]]},
        {"logit_bias": unmatched},
        {"logit_bias": [[whole, 2.0], [longer, 3.0]]},
        {"logit_bias": biases},
        {"bad_words_ids": [[8], [0], [22]]},
        {"bad_words_ids": words},
        {"bad_words_ids": [[*end, 6] for end in ends]},
        {"bad_words_ids": [[*absent, 11], [absent[0], 12], longer]},
        {"bad_words_ids": [whole]},
        {"bad_words_ids": bans},
        # A stop token is never a bad word of its own, only at the end of a longer one.
        {"bad_words_ids": stops},
        {"allowed_token_ids": allowed},
        {"allowed_token_ids": [7]},
        {"suppress_tokens": [0, 3, STOP_ID, 16]},
        {"suppress_tokens": [1]},
        {"begin_suppress_tokens": [0, 3, STOP_ID, 16], "prompt_length": length},
        {"begin_suppress_tokens": [0, 3, STOP_ID, 16], "prompt_length": length - 1},
        {"begin_suppress_tokens": [0, 3, STOP_ID, 16], "prompt_length": 6},
        {"logit_bias": biases, "repetition_penalty": 1.7},
        {"logit_bias": biases, "bad_words_ids": bans},
        {"bad_words_ids": stops, "min_new_tokens": 9, "prompt_length": 6},
        {"bad_words_ids": stops, "min_new_tokens": 8, "prompt_length": 6},
        {"bad_words_ids": bans, "allowed_token_ids": allowed},
        {"allowed_token_ids": allowed, "suppress_tokens": [1, 10]},
        {
            "suppress_tokens": [1, 10],
            "begin_suppress_tokens": [2, 10, 13],
            "prompt_length": length,
        },
        {
            "logit_bias": biases,
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 2,
            "bad_words_ids": bans,
            "min_new_tokens": 12,
            "suppress_tokens": [1, 10],
            "prompt_length": 6,
        },
        {
            "logit_bias": sequences,
            "repetition_penalty": 0.6,
            "no_repeat_ngram_size": 3,
            "bad_words_ids": stops,
            "min_new_tokens": 1,
            "allowed_token_ids": allowed,
            "suppress_tokens": [1],
            "begin_suppress_tokens": [2, 13],
            "prompt_length": length,
        },
        {
            "logit_bias": biases,
            "repetition_penalty": 1.2,
            "bad_words_ids": words,
            "suppress_tokens": [3, 16],
            "temperature": 1.7,
            "top_k": 15,
            "top_p": 0.9,
            "min_p": 0.02,
        },
        {
            "logit_bias": same_last,
            "begin_suppress_tokens": [2, 13],
            "prompt_length": length,
            "temperature": 1.5,
            "typical_p": 0.95,
            "epsilon_cutoff": 0.01,
            "eta_cutoff": 0.02,
        },
        # Where each allowed token is banned, transformers allows all of them again.
        {"bad_words_ids": [[*ends[0], 6], [9]], "allowed_token_ids": [6, 9]},
    ]


def main() -> None:
    """Writes every case."""
    given = np.load(make_processors.OUTPUT)
    golden = {name: given[name] for name in ("logits", "token_ids")}
    golden["eos_token_id"] = np.int32(STOP_ID)
    token_ids = torch.tensor(golden["token_ids"], dtype=torch.int64)
    for number, case in enumerate(cases(token_ids.tolist())):
        logits = torch.tensor(golden["logits"])
        for name, build in builders(case.get("prompt_length", 0)).items():
            if name in case:
                logits = build(case[name])(token_ids, logits)
        golden[f"case{number}/arguments"] = np.array(json.dumps(case))
        golden[f"case{number}/logits"] = logits.numpy()
    np.savez_compressed(OUTPUT, **golden)


if __name__ == "__main__":
    main()
