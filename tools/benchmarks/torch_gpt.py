"""The same network in torch eager, for comparison of training speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from keras_gpt.config import GPTConfig


class Block(nn.Module):
    """A pre-norm block with fused attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width, bias = config.hidden_dim, config.use_bias
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.query_key_value = nn.Linear(width, 3 * width, bias=bias)
        self.output_projection = nn.Linear(width, width, bias=bias)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.contract = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Any) -> Any:
        """Runs the block on (B, T, D)."""
        batch, length, width = x.shape
        heads = self.query_key_value(self.attention_norm(x))
        heads = heads.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        x = x + self.output_projection(mixed)
        inner = functional.gelu(self.expand(self.mlp_norm(x)), approximate="tanh")
        return x + self.contract(inner)


class GPT(nn.Module):
    """GPT-2 with tied embeddings; its forward pass returns the loss."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary_size, config.hidden_dim)
        self.positions = nn.Embedding(config.max_sequence_length, config.hidden_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_dim, bias=config.use_bias)
        for weight in self.parameters():
            if weight.dim() >= 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Any, targets: Any) -> Any:
        """Mean cross-entropy of (B, T) ids and targets."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train_step(
    size: str,
    *,
    batch_size: int,
    context_length: int,
    learning_rate: float,
    beta_2: float,
    weight_decay: float,
    clip_norm: float,
    compiled: bool = False,
) -> Callable[[], Any]:
    """Returns a training step on one random batch; it returns the loss."""
    config = GPTConfig.named(size, max_sequence_length=context_length)
    model = GPT(config)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, beta_2),
    )
    ids = torch.randint(0, config.vocabulary_size, (batch_size, context_length + 1))

    network = torch.compile(model) if compiled else model

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = network(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        return loss.detach()

    return step
