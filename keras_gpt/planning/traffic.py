"""What training sends between devices, in bytes that each device sends for one step.

It receives as many. Each sum over devices is counted as a ring all-reduce: of n bytes
among p devices, each sends 2 (p - 1) / p n (Patarasuk & Yuan 2009, "Bandwidth optimal
all-reduce algorithms for clusters of workstations").

Symbols: B rows of the batch on a device at a time, T context, D hidden, e bytes of the
compute dtype, t size of the mesh's `model` dimension.

| sum | over | how often | bytes each |
|---|---|---|---|
| gradients | `batch` | 1 | 4 for each weight that the device holds |
| after each branch of a block, forward | `model` | 2 a block | B T D e |
| before each branch, backward | `model` | 2 a block | B T D e |
| both branches again, with remat | `model` | 2 a block | B T D e |
| token embedding, forward | `model` | 1 | B T D e |
| before the logits, backward | `model` | 1 | B T D e |
| softmax: maximum, sum, and the target's logit | `model` | 3 | B T 4 |

Those over `model` repeat for each part of an accumulated batch. The four of a block are
the 8 B T D (t - 1) / t of Narayanan et al. 2021, section 3.2; the table split by
vocabulary and its softmax are those of Shoeybi et al. 2019, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

from keras_gpt.config import GPTConfig
from keras_gpt.planning.activations import COMPUTE_BYTES, FLOAT32_BYTES

SUMS_OF_BLOCK = 4
SUMS_OF_BLOCK_WITH_REMAT = 6
SUMS_OF_EMBEDDING = 2
SUMS_OF_SOFTMAX = 3


class Traffic(NamedTuple):
    """Bytes that one device sends for one step.

    Attributes:
        gradients: float. Over `batch`.
        blocks: float. Activations of the blocks and their gradients, over `model`.
        embedding: float. The token table's, at both ends of the network.
        softmax: float. The loss's.
    """

    gradients: float
    blocks: float
    embedding: float
    softmax: float

    @property
    def total(self) -> float:
        """All bytes of a step."""
        return sum(self)


def ring_bytes(size: float, parts: int) -> float:
    """Returns what each of `parts` devices sends to sum `size` bytes with the others.

    Args:
        size: float. Bytes that each device has, and gets the sum of.
        parts: int. Number of devices.
    """
    return 2.0 * (parts - 1) / parts * size


def traffic_bytes(
    config: GPTConfig,
    *,
    batch_size: int,
    context_length: int,
    gradient_bytes: int,
    dtype_policy: str = "float32",
    accumulate: int = 1,
    remat: bool = False,
    batch_parts: int = 1,
    model_parts: int = 1,
) -> Traffic:
    """Counts what a device sends for one step, by the table of this module.

    Args:
        config: `GPTConfig`.
        batch_size: int. Windows that the device sees at a time (B).
        context_length: int. Tokens per window (T).
        gradient_bytes: int. Bytes of the gradients of the device's weights.
        dtype_policy: string. A key of `COMPUTE_BYTES`. Defaults to `"float32"`.
        accumulate: int. Parts of the batch, one after the other. Defaults to 1.
        remat: bool. Whether blocks are computed again in the backward pass. Defaults
            to False.
        batch_parts: int. Size of the mesh's `batch` dimension. Defaults to 1.
        model_parts: int. Size of its `model` dimension. Defaults to 1.
    """
    rows = batch_size * context_length * accumulate
    stream = rows * config.hidden_dim * COMPUTE_BYTES[dtype_policy]
    one_sum = ring_bytes(stream, model_parts)
    sums = SUMS_OF_BLOCK_WITH_REMAT if remat else SUMS_OF_BLOCK
    return Traffic(
        gradients=ring_bytes(gradient_bytes, batch_parts),
        blocks=config.num_layers * sums * one_sum,
        embedding=SUMS_OF_EMBEDDING * one_sum,
        softmax=SUMS_OF_SOFTMAX * ring_bytes(rows * FLOAT32_BYTES, model_parts),
    )
