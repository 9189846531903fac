"""What a forward pass keeps for the backward pass, in bytes on one device.

Derived from the layers op by op, as TensorFlow runs them without XLA (which fuses ops
and keeps less). Symbols: B rows of the batch on this device, T context, R = B T, D
hidden, N heads, H head size, F intermediate, V vocabulary; e bytes of the compute
dtype: 4 in float32, 2 in mixed_bfloat16. What is split over a mesh's `model`
dimension is divided by its size.

| kept by | tensors | shape | bytes | split |
|---|---|---|---|---|
| embeddings | token ids | R + T | 4 | |
| | dropout's mask, if any | R, D | 1 | |
| | attention mask | T, T | 1 | |
| each norm | its input | R, D | 4 | |
| | scale over standard deviation | R, D | 4 | |
| | mean, its negative, 1 / standard deviation | R | 3 x 4 | |
| | output | R, D | e | |
| attention | query and key (4 bytes with `upcast_attention`) | 2 x R, NH | e | yes |
| | value and context | 2 x R, NH | e | yes |
| | softmax | B, N, T, T | 4 | yes |
| | its cast to e bytes, or what dropout leaves | B, N, T, T | e | yes |
| | dropout's mask, if any | B, N, T, T | 1 | yes |
| MLP | `KEPT_BY_ACTIVATION`: input, output and between | R, F | e | yes |
| both branches | dropout's mask, if any | 2 x R, D | 1 | |
| loss | its gradient by the logits | R, V | 4 | yes |

A block has two norms, an attention and an MLP. With `normalize_first`, the final norm
stands before the loss; without, the first block's input is one more tensor (R, D) of e
bytes. A softmax in float32 without dropout needs no second copy.

With remat, a block keeps its input alone, (R, D) of e bytes; the rest of one block at a
time comes back during the backward pass, when the loss needs its part no longer (Chen
et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Narayanan et al. 2021,
section 3.5).
"""

from __future__ import annotations

from typing import NamedTuple

from keras_gpt.config import GPTConfig

FLOAT32_BYTES = 4
COMPUTE_BYTES = {"float32": 4, "mixed_bfloat16": 2}
# Tensors (R, F) that `layers/mlp.py` makes of each activation and its gradient needs.
KEPT_BY_ACTIVATION = {"gelu_approximate": 8, "gelu": 4, "relu": 1, "silu": 2}


class Activations(NamedTuple):
    """Bytes that one device keeps between forward and backward pass.

    Attributes:
        embeddings: int. Kept by the embeddings and the mask, in any case.
        block_input: int. Kept of each block with remat.
        block: int. Kept by each block without remat.
        head: int. Kept by the final norm and the loss.
        num_layers: int. Number of blocks.
    """

    embeddings: int
    block_input: int
    block: int
    head: int
    num_layers: int

    @property
    def total(self) -> int:
        """Bytes at the end of a forward pass without remat."""
        return self.embeddings + self.num_layers * self.block + self.head

    @property
    def kept_with_remat(self) -> int:
        """Bytes at the end of a forward pass with remat."""
        return self.embeddings + self.num_layers * self.block_input + self.head

    @property
    def total_with_remat(self) -> int:
        """Most bytes at any time with remat: the loss's, or one block's, at the end."""
        inputs = self.embeddings + self.num_layers * self.block_input
        return inputs + max(self.head, self.block)


def activation_bytes(
    config: GPTConfig,
    *,
    batch_size: int,
    context_length: int,
    dtype_policy: str = "float32",
    model_parts: int = 1,
) -> Activations:
    """Counts what a device keeps for the backward pass, by the table of this module.

    Args:
        config: `GPTConfig`.
        batch_size: int. Windows that the device sees at a time (B).
        context_length: int. Tokens per window (T).
        dtype_policy: string. A key of `COMPUTE_BYTES`. Defaults to `"float32"`.
        model_parts: int. Size of the mesh's `model` dimension. Defaults to 1.
    """
    rows, width = batch_size * context_length, config.hidden_dim
    size = COMPUTE_BYTES[dtype_policy]
    residual_mask = 2 * rows * width if config.dropout else 0
    embedding_mask = rows * width if config.dropout_of("embedding") else 0
    norm = _norm(rows, width, size)
    split = _attention(config, batch_size, context_length, size)
    split += KEPT_BY_ACTIVATION[config.activation] * rows * _inner(config) * size
    head = rows * config.vocabulary_size * FLOAT32_BYTES // model_parts
    stream = rows * width * size
    return Activations(
        embeddings=FLOAT32_BYTES * (rows + context_length)
        + embedding_mask
        + context_length**2
        + (0 if config.normalize_first else stream),
        block_input=stream,
        block=2 * norm + residual_mask + split // model_parts,
        head=head + (norm if config.normalize_first else 0),
        num_layers=config.num_layers,
    )


def _inner(config: GPTConfig) -> int:
    return config.intermediate_dim  # type: ignore[return-value]


def _norm(rows: int, width: int, size: int) -> int:
    return rows * (width * (2 * FLOAT32_BYTES + size) + 3 * FLOAT32_BYTES)


def _attention(
    config: GPTConfig, batch_size: int, context_length: int, size: int
) -> int:
    compared = FLOAT32_BYTES if config.upcast_attention else size
    heads = batch_size * context_length * config.attention_dim * 2 * (compared + size)
    scores = batch_size * config.num_heads * context_length**2
    dropout = bool(config.dropout_of("attention"))
    second = size if dropout or size != FLOAT32_BYTES else 0
    return heads + scores * (FLOAT32_BYTES + second + int(dropout))
