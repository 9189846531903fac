"""Floating-point operations of a GPT, counted from its configuration."""

from __future__ import annotations

from keras_gpt.config import GPTConfig


def forward_flops_per_token(config: GPTConfig, *, context_length: int) -> float:
    """Returns the operations of a forward pass, per token of a full context.

    Matrix products alone, two operations for each weight and each attended key;
    keys that the causal mask hides count, for they are computed.

    Args:
        config: `GPTConfig`.
        context_length: int (T).

    Reference: Kaplan et al. 2020, table 1; Narayanan et al. 2021, section 5.1.
    """
    hidden, attention = config.hidden_dim, config.attention_dim
    products = 4 * hidden * attention + 2 * hidden * config.intermediate_dim  # type: ignore[operator]
    attended = 2 * context_length * attention
    layers = config.num_layers * (products + attended)
    return 2.0 * (layers + hidden * config.vocabulary_size)


def training_flops_per_token(config: GPTConfig, *, context_length: int) -> float:
    """Returns the operations of a training step, per token of a full context.

    The backward pass takes two products for each of the forward pass. What `remat`
    computes again does not count (Chowdhery et al. 2022, appendix B).
    """
    return 3.0 * forward_flops_per_token(config, context_length=context_length)
