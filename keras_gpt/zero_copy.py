"""Arrays as tensors and back, sharing memory: large tables are not copied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

ALIGNMENT = 64  # bytes; TensorFlow's kernels refuse buffers of less


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns a new array, not filled, whose memory TensorFlow can use."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns an array's values; in its own memory if that is aligned.

    Args:
        array: of any shape and dtype. Not to be written to afterwards.
    """
    flags = array.flags
    is_own = flags.c_contiguous and flags.writeable and array.size > 0
    # Only types that NumPy itself has can be handed over: bfloat16 is not one.
    if array.dtype.kind != "f" or not is_own or array.ctypes.data % ALIGNMENT:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def as_array(value: Any) -> np.ndarray:
    """Returns a view of a variable's or tensor's memory, where NumPy has its type.

    Args:
        value: Keras variable or eager tensor. The view is good while it is not
            assigned to.
    """
    tensor = tf.convert_to_tensor(value)
    if tensor.dtype.as_numpy_dtype(0).dtype.kind != "f":
        return tensor.numpy()
    return np.asarray(memoryview(tensor))
