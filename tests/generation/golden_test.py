"""Greedy, beam, diverse beam and contrastive search: transformers' own tokens."""

import functools
import json
import pathlib

import numpy as np
import pytest

from keras_gpt import GPTCausalLM

TESTDATA = pathlib.Path(__file__).parents[1] / "testdata"
GOLDEN = {
    name: dict(np.load(TESTDATA / f"generation_{name}.npz"))
    for name in ("beams", "methods")
}
CASES = [
    (file, key.removesuffix("/arguments"))
    for file, golden in GOLDEN.items()
    for key in golden
    if key.endswith("/arguments")
]


@functools.cache
def model(folder):
    return GPTCausalLM.from_preset(TESTDATA / "huggingface" / folder)


def renamed(arguments):
    """Arguments of transformers as options of ours."""
    options = dict(arguments)
    if "logit_bias" in options:
        options["logit_bias"] = {tuple(k): v for k, v in options["logit_bias"]}
    if "bad_words_ids" in options:
        options["bad_words"] = options.pop("bad_words_ids")
    return options


def new_tokens(sequence, *, length, end_id):
    """What follows the prompt, without end token and padding."""
    tokens = sequence[length:].tolist()
    tokens = [token for token in tokens if token >= 0]
    return tokens[: tokens.index(end_id)] if end_id in tokens else tokens


@pytest.mark.parametrize("kind", sorted({case.split("/")[1] for _, case in CASES}))
def test_tokens_and_scores_are_transformers_own(kind):
    for file, case in CASES:
        if case.split("/")[1] != kind:
            continue
        golden = GOLDEN[file]
        options = renamed(json.loads(str(golden[f"{case}/arguments"])))
        folder, prompt = options.pop("folder"), options.pop("prompt")
        end_id = options.pop("eos_token_id")
        if not {"num_beams", "penalty_alpha"} & set(options):
            options["temperature"] = 0.0
        found = model(folder).generate(
            {"token_ids": [prompt], "padding_mask": [[1] * len(prompt)]},
            max_length=24,
            stop_token_ids=[end_id],
            return_details=True,
            **options,
        )
        is_one = options.get("num_return_sequences", 1) == 1
        (texts,) = [found.token_ids] if is_one else found.token_ids
        sequences = golden[f"{case}/sequences"]
        assert len(texts) == len(sequences)
        for text, sequence in zip(texts, sequences, strict=True):
            expected = new_tokens(sequence, length=len(prompt), end_id=end_id)
            assert text.tolist() == expected, case
        if f"{case}/scores" in golden:
            (scores,) = found.score
            np.testing.assert_allclose(scores, golden[f"{case}/scores"], rtol=1e-4)
