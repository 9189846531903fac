"""How many operations a token costs.

A multiplication and an addition are two FLOPs, as in the papers and in machines'
figures. Only matrix products count: all else is below one percent in any but the
smallest network. Look-ups of embeddings multiply nothing.

Nothing here needs TensorFlow.
"""

from __future__ import annotations

from keras_gpt.config import GPTConfig

# The backward pass computes a product for the inputs and one for the weights, each as
# large as that of the forward pass.
PASSES = 3


def block_flops_per_token(config: GPTConfig, context_length: int) -> int:
    """Counts the forward FLOPs of one block, for one token.

    A kernel of I x O costs 2 I O. Attention compares each query with each of the
    `context_length` keys, those that the mask then hides too, and sums as many values:
    2 * 2 T N H.

    Args:
        config: `GPTConfig`.
        context_length: int. Tokens per window (T).
    """
    hidden, attention = config.hidden_dim, config.attention_dim
    kernels = 4 * hidden * attention
    kernels += 2 * hidden * config.intermediate_dim  # type: ignore[operator]
    return 2 * kernels + 4 * context_length * attention


def forward_flops_per_token(config: GPTConfig, context_length: int) -> int:
    """Counts the FLOPs of one token's forward pass: all blocks and the logits.

    Args:
        config: `GPTConfig`.
        context_length: int. Tokens per window (T).
    """
    blocks = config.num_layers * block_flops_per_token(config, context_length)
    return blocks + 2 * config.hidden_dim * config.vocabulary_size


def training_flops_per_token(
    config: GPTConfig, context_length: int, *, remat: bool = False
) -> int:
    """Counts the FLOPs of one token's forward and backward pass.

    Model-FLOPs utilization, the share of a machine's peak that training turns into
    progress, is tokens per second, times this without `remat`, over the peak of all
    devices (Chowdhery et al. 2022, "PaLM", appendix B, whose 6 N + 12 L H Q T this is,
    but for the parameters that multiply nothing: norms, biases and positions).

    Args:
        config: `GPTConfig`.
        context_length: int. Tokens per window (T).
        remat: bool. Whether the blocks run forward once more during the backward pass.
            What a machine then computes is no longer what the model needs. Defaults to
            False. With it, this is equation 3 of Narayanan et al. 2021, "Efficient
            Large-Scale Language Model Training on GPU Clusters Using Megatron-LM".
    """
    flops = PASSES * forward_flops_per_token(config, context_length)
    if remat:
        flops += config.num_layers * block_flops_per_token(config, context_length)
    return flops


def training_flops_by_parameters(config: GPTConfig, tokens: float) -> float:
    """Estimates the FLOPs of a training run as 6 N D (Brown et al. 2020, appendix D).

    N are the parameters, D the tokens. It leaves attention's own products out.

    Args:
        config: `GPTConfig`.
        tokens: float. Tokens seen (D).
    """
    return 2.0 * PASSES * config.num_parameters * tokens
