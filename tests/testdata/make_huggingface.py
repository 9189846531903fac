"""Makes tests/testdata/huggingface: tiny random models of transformers, with results.

Run with torch 2.13 and transformers 5.23 (neither is needed by the tests):

    python tests/testdata/make_huggingface.py

Each folder is what `save_pretrained` wrote, and `golden.npz`: prompts, logits, hidden
states, loss, gradients of the loss by weight, greedy and beam continuations.
"""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)

FOLDER = pathlib.Path(__file__).with_name("huggingface")
NEW_TOKENS = 12
BEAMS = {
    "plain": {},
    "long": {"length_penalty": 2.0},
    "early": {"early_stopping": True},
}
COMMON = {"n_positions": 24, "initializer_range": 0.25}
CASES = {
    "gpt2": GPT2Config(
        vocab_size=53, n_embd=16, n_layer=2, n_head=2, eos_token_id=7, **COMMON
    ),
    "gpt2_gelu": GPT2Config(
        vocab_size=61,
        n_embd=24,
        n_layer=3,
        n_head=4,
        activation_function="gelu",
        eos_token_id=3,
        **COMMON,
    ),
    "gpt2_untied_relu": GPT2Config(
        vocab_size=37,
        n_embd=12,
        n_layer=1,
        n_head=1,
        activation_function="relu",
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        **COMMON,
    ),
    "gpt2_scaled_silu": GPT2Config(
        vocab_size=41,
        n_embd=12,
        n_layer=3,
        n_head=3,
        n_inner=20,
        layer_norm_epsilon=1e-3,
        activation_function="silu",
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        resid_pdrop=0.2,
        embd_pdrop=0.0,
        attn_pdrop=0.3,
        eos_token_id=5,
        **COMMON,
    ),
    "gpt2_bfloat16": GPT2Config(
        vocab_size=31, n_embd=8, n_layer=1, n_head=2, eos_token_id=1, **COMMON
    ),
    "gpt1": OpenAIGPTConfig(
        vocab_size=47, n_embd=16, n_layer=2, n_head=4, eos_token_id=2, **COMMON
    ),
    "gpt1_relu": OpenAIGPTConfig(
        vocab_size=29,
        n_embd=12,
        n_layer=1,
        n_head=2,
        afn="relu",
        layer_norm_epsilon=1e-4,
        eos_token_id=2,
        **COMMON,
    ),
}


def main() -> None:
    """Writes every case."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (name, config) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        is_gpt1 = config.model_type == "openai-gpt"
        model = (OpenAIGPTLMHeadModel if is_gpt1 else GPT2LMHeadModel)(config)
        model.eval()
        # Random norms and biases too: ones and zeros would hide a mix-up.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        if name.endswith("bfloat16"):
            model = model.to(torch.bfloat16)
        shards = {"max_shard_size": "12KB"} if name == "gpt2" else {}
        model.save_pretrained(FOLDER / name, **shards)
        golden = results(model.float(), seed=seed)
        np.savez_compressed(FOLDER / name / "golden.npz", **golden)


def results(model: torch.nn.Module, *, seed: int) -> dict[str, np.ndarray]:
    """Runs a model on random prompts."""
    vocabulary_size = model.config.vocab_size
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, vocabulary_size, (2, 11))
    output = model(
        torch.tensor(ids), labels=torch.tensor(ids), output_hidden_states=True
    )
    output.loss.backward()
    golden = {
        "token_ids": ids.astype(np.int32),
        "logits": output.logits.detach().numpy(),
        "loss": output.loss.detach().numpy(),
    }
    for index, hidden in enumerate(output.hidden_states):
        golden[f"hidden/{index}"] = hidden.detach().numpy()
    for name, parameter in model.named_parameters():
        golden[f"gradient/{name}"] = parameter.grad.numpy()
    for row, prompt in enumerate(ids[:, :5]):
        golden[f"greedy/{row}"] = generate(model, prompt)
        for kind, options in BEAMS.items():
            golden[f"beam_{kind}/{row}"] = generate(
                model, prompt, num_beams=3, num_return_sequences=2, **options
            )
    return golden


def generate(
    model: torch.nn.Module, prompt: np.ndarray, **options: object
) -> np.ndarray:
    """Returns the sequences (n, T) that continue one prompt, padded with -1."""
    return model.generate(
        torch.tensor(prompt[None]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=-1,
        **options,
    ).numpy()


if __name__ == "__main__":
    main()
