"""Makes tests/testdata/heads: tiny random models of transformers with heads.

Run with torch 2.13 and transformers 5.23 (neither is needed by the tests):

    python tests/testdata/make_heads.py

Each folder is what `save_pretrained` wrote, and `golden.npz`: token ids, padding mask,
labels, logits and loss.
"""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).with_name("heads")
PAD_ID = 52
GPT2 = transformers.GPT2Config(
    vocab_size=53,
    n_embd=16,
    n_layer=2,
    n_head=2,
    n_positions=24,
    initializer_range=0.25,
    pad_token_id=PAD_ID,
)
GPT1 = transformers.OpenAIGPTConfig(
    vocab_size=53,
    n_embd=16,
    n_layer=2,
    n_head=4,
    n_positions=24,
    initializer_range=0.25,
    pad_token_id=PAD_ID,
)
NAMES = {"id2label": {0: "poor", 1: "fair", 2: "good"}}
CASES = {
    "sequence": (transformers.GPT2ForSequenceClassification, GPT2, NAMES),
    "sequence_gpt1": (transformers.OpenAIGPTForSequenceClassification, GPT1, NAMES),
    "multi_label": (
        transformers.GPT2ForSequenceClassification,
        GPT2,
        {**NAMES, "problem_type": "multi_label_classification"},
    ),
    "regression": (transformers.GPT2ForSequenceClassification, GPT2, {"num_labels": 1}),
    "tokens": (transformers.GPT2ForTokenClassification, GPT2, NAMES),
    "answering": (transformers.GPT2ForQuestionAnswering, GPT2, {}),
    "choice": (transformers.GPT2DoubleHeadsModel, GPT2, {"num_labels": 1}),
    "choice_gpt1": (transformers.OpenAIGPTDoubleHeadsModel, GPT1, {"num_labels": 1}),
}


def main() -> None:
    """Writes every case."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (name, (cls, config, changes)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = cls(type(config)(**{**config.to_dict(), **changes})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(FOLDER / name)
        golden = results(model, name.partition("_gpt1")[0], seed=seed)
        np.savez_compressed(FOLDER / name / "golden.npz", **golden)


def results(
    model: torch.nn.Module, name: str, *, seed: int
) -> dict[str, np.ndarray]:
    """Runs a model on random rows, padded but where it has no way to say so."""
    draw = np.random.default_rng(seed)
    shape = (4, 3, 11) if name == "choice" else (4, 11)
    ids = draw.integers(0, PAD_ID, shape)
    lengths = np.full(shape[:-1], 11)
    if name in ("sequence", "multi_label", "regression", "choice"):
        lengths = draw.integers(3, 12, shape[:-1])
    mask = np.arange(11) < lengths[..., None]
    ids[~mask] = PAD_ID
    arguments, labels = {}, {}
    if name == "sequence":
        labels["labels"] = draw.integers(0, 3, 4)
    elif name == "multi_label":
        labels["labels"] = draw.integers(0, 2, (4, 3)).astype(np.float32)
    elif name == "regression":
        labels["labels"] = draw.normal(size=4).astype(np.float32)
    elif name == "tokens":
        labels["labels"] = draw.integers(0, 3, (4, 11))
    elif name == "answering":
        labels["start_positions"] = draw.integers(0, 11, 4)
        labels["end_positions"] = draw.integers(0, 11, 4)
    else:
        arguments["mc_token_ids"] = lengths - 1
        labels["mc_labels"] = draw.integers(0, 3, 4)
        labels["labels"] = np.where(mask, ids, -100)
    if ids.ndim == 2:  # of three, GPT-1 has no way; its padding is last anyway
        arguments["attention_mask"] = mask.astype(np.int64)
    given = {**arguments, **labels}
    output = model(
        torch.tensor(ids), **{key: torch.tensor(value) for key, value in given.items()}
    )
    golden = {
        "token_ids": ids.astype(np.int32),
        "padding_mask": mask,
        **{f"label/{key}": value for key, value in labels.items()},
    }
    names = ("loss", "mc_loss", "logits", "mc_logits", "start_logits", "end_logits")
    for key in names:
        if (value := getattr(output, key, None)) is not None:
            golden[key] = value.detach().numpy()
    return golden


if __name__ == "__main__":
    main()
