"""A counter-based random generator, written with integer ops.

Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel Random Numbers: As Easy
as 1, 2, 3"). The same (seed, step) gives the same number in every runtime, because
the arithmetic is 32-bit integers throughout: sums and products wrap in int32, a
logical right shift goes through uint32, and a rotation is a product and a shift.
"""

from __future__ import annotations

import tensorflow as tf

KEY_PARITY = 0x1BD11BDA  # Salmon et al. 2011; C240 of Skein, cut to 32 bits
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)  # Salmon et al. 2011, table 2
NUM_ROUNDS = 20
UNIFORM_BITS = 23  # mantissa of float32


def threefry2x32(
    key: tuple[tf.Tensor, tf.Tensor], counter: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Hashes a counter under a key.

    Args:
        key: two int32 tensors of one shape; the bits of the unsigned words.
        counter: two int32 tensors that broadcast with the key.

    Returns:
        Two int32 tensors: the bits of the two random words.
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ KEY_PARITY)
    first = counter[0] + words[0]
    second = counter[1] + words[1]
    for index in range(NUM_ROUNDS):
        first = first + second
        second = _rotate_left(second, ROTATIONS[index % 8]) ^ first
        if index % 4 == 3:  # every fourth round mixes the key in again
            injection = index // 4 + 1
            first = first + words[injection % 3]
            second = second + words[(injection + 1) % 3] + injection
    return first, second


def uniform(seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Returns one uniform number in (0, 1) per row.

    Args:
        seed: int64 (B,). The row's seed; its two halves are the key. Or int32 (B, 2):
            the halves, the low one first.
        step: int32 scalar or (B,). Number of the draw; the counter.

    Returns:
        float32 (B,). Multiples of 2**-24, never 0 and never 1.
    """
    halves = seed if seed.dtype == tf.int32 else tf.bitcast(seed, tf.int32)
    step = tf.broadcast_to(step, tf.shape(halves)[:1])
    bits, _ = threefry2x32((halves[:, 0], halves[:, 1]), (step, tf.zeros_like(step)))
    fraction = tf.cast(_shift_right(bits, 32 - UNIFORM_BITS), tf.float32)
    return (fraction + 0.5) * 2.0**-UNIFORM_BITS


def _rotate_left(bits: tf.Tensor, count: int) -> tf.Tensor:
    factor = tf.constant(2**count, tf.int32)
    return (bits * factor) ^ _shift_right(bits, 32 - count)


def _shift_right(bits: tf.Tensor, count: int) -> tf.Tensor:
    """Logical right shift of int32 bits."""
    unsigned = tf.bitcast(bits, tf.uint32)
    shifted = tf.bitwise.right_shift(unsigned, tf.constant(count, tf.uint32))
    return tf.bitcast(shifted, tf.int32)
