"""Makes tests/testdata/generation_*.npz: what transformers' `generate` returns.

Run with torch 2.13 and each of two transformers (none is needed by the tests), after
make_huggingface.py, whose models it loads:

    python tests/testdata/make_generation.py

- transformers 5.23 makes generation_beams.npz: beam and greedy search under processors.
- transformers 4.55.4 makes generation_methods.npz: group beam search and contrastive
  search, which later versions would fetch from a hub.

A case NAME is FOLDER/KIND/ROW: a model, what is done, and which of its prompts.
`NAME/arguments` is its arguments, as JSON; `NAME/sequences` (n, S) the prompt and its
continuations, best first, padded with -1 after the end token; `NAME/scores` (n) the
scores that beams have.
"""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
# Random prompts and the end token, with which continuations end at several lengths.
MODELS = {
    "gpt2": ([[26, 9, 13, 51, 2], [40, 44, 5, 15, 33], [9, 32, 26, 1, 49]], 7),
    "gpt2_gelu": ([[2, 4, 1, 10, 49], [16, 49, 40, 0, 24], [3, 25, 57, 37, 21]], 39),
}
BEAMS = {"num_beams": 4, "num_return_sequences": 3}
GROUPS = ((4, 2), (6, 3), (6, 2))
CONTRASTS = ((0.6, 4), (0.3, 4), (0.6, 1), (0.9, 6))
# To transformers, a group that is done goes on with padding, which the groups after it
# are to avoid like any token. A case where it matters which token that is, is left out.
PADDING_IDS = (2, 50)

Options = dict[str, Any]


def main() -> None:
    """Writes every case that is the installed version's to make."""
    is_old = transformers.__version__.startswith("4.")
    golden = {}
    for folder, (prompts, end_id) in MODELS.items():
        path = HERE / "huggingface" / folder
        model = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
        for row, prompt in enumerate(prompts):
            common = {"folder": folder, "prompt": prompt}
            common |= {"eos_token_id": end_id, "max_new_tokens": 12}
            kinds = method_kinds() if is_old else beam_kinds(model, common)
            for kind, options in kinds:
                case = common | options
                result, other = (generate(model, case, pad) for pad in PADDING_IDS)
                name = f"{folder}/{kind}/{row}"
                if not all(np.array_equal(result[key], other[key]) for key in result):
                    print("depends on the padding:", name)
                    continue
                golden[f"{name}/arguments"] = np.array(json.dumps(case))
                golden |= {f"{name}/{key}": value for key, value in result.items()}
    output = HERE / f"generation_{'methods' if is_old else 'beams'}.npz"
    np.savez_compressed(output, **golden)


def method_kinds() -> Iterator[tuple[str, Options]]:
    """Yields the name and options of each group beam search and contrastive search."""
    for beams, groups in GROUPS:
        for diversity in (0.5, 2.0):
            for length_penalty in (1.0, 0.0):
                yield (
                    f"groups_{beams}_{groups}_{diversity}_{length_penalty}",
                    {
                        "num_beams": beams,
                        "num_beam_groups": groups,
                        "diversity_penalty": diversity,
                        "num_return_sequences": beams,
                        "length_penalty": length_penalty,
                        "early_stopping": False,
                    },
                )
    for alpha, top_k in CONTRASTS:
        options = {"penalty_alpha": alpha, "top_k": top_k}
        yield f"contrastive_{alpha}_{top_k}", options
        options = {**options, "repetition_penalty": 1.3}
        yield f"contrastive_{alpha}_{top_k}_repetition", options


def beam_kinds(
    model: torch.nn.Module, common: Options
) -> Iterator[tuple[str, Options]]:
    """Yields the name and options of each beam search and greedy search."""
    processors = processors_for(model, common)
    for name, options in processors.items():
        yield f"greedy_{name}", options
        yield f"beams_{name}", {**options, **BEAMS}
    for name in ("plain", "bad_words", "chain"):
        options = {**processors[name], **BEAMS, "length_penalty": 0.5}
        yield f"short_beams_{name}", options


def processors_for(model: torch.nn.Module, common: Options) -> dict[str, Options]:
    """Returns processors' arguments by name, against what the model says by itself."""
    prompt, end_id = common["prompt"], common["eos_token_id"]
    texts = [
        [token for token in text[len(prompt) :] if token not in (end_id, -1)]
        for options in (BEAMS, {})
        for text in generate(model, common | options)["sequences"].tolist()
    ]
    text = max(texts, key=len)
    first, last = text[0], prompt[-1]
    used = [token for token, _ in Counter(sum(texts, [])).most_common()]
    words = [[last, first], text[1:3], [*text[:2], end_id], [end_id], [0, 1, 2]]
    # A mapping first: transformers takes the last bias of a sequence given twice.
    biases = {(last, first): -1.5, tuple(text[1:3]): -2.0, (used[0],): -0.5}
    biases |= {(end_id,): 1.25, (used[1], end_id): 1.5, tuple(text[:3]): 0.75}
    logit_bias = [[list(ids), bias] for ids, bias in biases.items()]
    vocabulary = range(model.config.vocab_size)
    allowed = [token for token in vocabulary if token % 3 == end_id % 3]
    return {
        "plain": {},
        "repetition_penalty": {"repetition_penalty": 1.3},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
        "bad_tokens": {"bad_words_ids": [[token] for token in used[:2]]},
        "bad_words": {"bad_words_ids": words},
        "logit_bias": {"logit_bias": logit_bias},
        "min_new_tokens": {"min_new_tokens": 6},
        "suppress_tokens": {"suppress_tokens": used[1:4]},
        "begin_suppress_tokens": {
            "begin_suppress_tokens": sorted({text[0] for text in texts if text})
        },
        "allowed_token_ids": {"allowed_token_ids": allowed},
        "chain": {
            "logit_bias": logit_bias,
            "repetition_penalty": 1.3,
            "no_repeat_ngram_size": 2,
            "bad_words_ids": words,
            "min_new_tokens": 6,
            "suppress_tokens": used[:1],
        },
        "chain_allowed": {
            "logit_bias": logit_bias,
            "repetition_penalty": 1.3,
            "allowed_token_ids": allowed,
            "begin_suppress_tokens": [first, end_id],
        },
    }


def generate(
    model: torch.nn.Module, case: Options, padding_id: int = PADDING_IDS[0]
) -> dict[str, np.ndarray]:
    """Returns the sequences (n, S) of one case, and their scores (n) if there are."""
    options = dict(case)
    del options["folder"]
    prompt = torch.tensor([options.pop("prompt")])
    if "logit_bias" in options:
        options["sequence_bias"] = options.pop("logit_bias")
    if "allowed_token_ids" in options:
        allowed = options.pop("allowed_token_ids")
        options["prefix_allowed_tokens_fn"] = lambda row, text: allowed
    output = model.generate(
        prompt,
        # Without it, the padding's id in a prompt would count as padding.
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        pad_token_id=padding_id,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    sequences = output.sequences.numpy().astype(np.int32)
    ends = np.cumsum(sequences[:, prompt.shape[1] :] == case["eos_token_id"], axis=1)
    # After the first end token, and not on it.
    sequences[:, prompt.shape[1] + 1 :][ends[:, :-1] > 0] = -1
    result = {"sequences": sequences}
    if output.get("sequences_scores") is not None:
        result["scores"] = output.sequences_scores.numpy()
    return result


if __name__ == "__main__":
    main()
