"""What `fit` on a task is given, as tensors and as a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def is_in_memory(x: Any) -> bool:
    """Returns whether data are in lists, arrays or tensors, or dicts of them."""
    if isinstance(x, Mapping):
        return all(map(is_in_memory, x.values()))
    if isinstance(x, list | tuple | tf.Tensor | tf.RaggedTensor):
        return True
    return is_array(x)


def is_array(x: Any) -> bool:
    """Returns whether something is, or turns into, an array: a column of pandas."""
    return hasattr(x, "__array__") and hasattr(x, "__len__")


def examples(x: Any, y: Any = None, sample_weight: Any = None) -> tf.data.Dataset:
    """Returns a dataset of single examples.

    Args:
        x: lists, arrays or tensors, ragged ones too, of as many rows each; tuples and
            dicts of them.
        y: likewise. Optional.
        sample_weight: likewise. Optional.

    Raises:
        ValueError: if the numbers of rows differ, or are 0, or there are weights
            without y, which Keras would leave out.
    """
    if y is None and sample_weight is not None:
        raise ValueError("y must be given with sample_weight, got None.")
    given = keras.utils.pack_x_y_sample_weight(
        *(as_tensors(part) for part in (x, y, sample_weight))
    )
    num_rows(given)
    return tf.data.Dataset.from_tensor_slices(given)


def untuned(data: Any) -> Any:
    """Returns a dataset without autotuning, unless its options ask for it.

    When `keras.Model.fit` drops an iterator, TensorFlow waits for the autotuner's next
    turn. These come after 10 ms, and then after twice as long each time: so an epoch
    of 2.8 seconds takes 5.1.

    Args:
        data: `tf.data.Dataset`; all else is returned as it is.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    if data.options().autotune.enabled is not None:
        return data
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def num_rows(given: Any) -> int:
    """Returns the number of rows of tensors, one at least and the same for all.

    Raises:
        ValueError: if it is not.
    """
    counts = {
        int(part.nrows() if isinstance(part, tf.RaggedTensor) else len(part))
        for part in tf.nest.flatten(given)
    }
    if len(counts) > 1:
        raise ValueError(
            "x, y and sample_weight must have as many rows each, got "
            f"{', '.join(map(str, sorted(counts)))}."
        )
    if counts == {0}:
        raise ValueError("x must have at least one row, got none.")
    return counts.pop()


def as_tensors(given: Any, name: str = "x") -> Any:
    """Returns lists as tensors, ragged where rows differ, in tuples and dicts, too.

    Args:
        given: lists, arrays or tensors; a tuple of scalars counts as a list. Or None.
        name: string. What they are called in a message. Defaults to `"x"`.

    Raises:
        ValueError: if a value is missing.
    """
    if given is None or isinstance(given, tf.Tensor | tf.RaggedTensor):
        return given
    if isinstance(given, Mapping):
        return {key: as_tensors(part, name) for key, part in given.items()}
    if isinstance(given, tuple) and not all(map(np.isscalar, given)):
        return tuple(as_tensors(part, name) for part in given)
    if is_array(given):
        given = np.asarray(given)
        if given.dtype != object:
            return tf.convert_to_tensor(given)
        given = given.tolist()
    is_text = any(isinstance(row, str | bytes) for row in given)
    for number, row in enumerate(given):
        if row is None or (is_text and isinstance(row, float)):
            raise ValueError(
                f"{name} must have no missing value, got {row} in row {number}."
            )
    if any(isinstance(row, list | tuple | np.ndarray) for row in given):
        given = [list(row) for row in given]
        if len({len(row) for row in given}) > 1:
            return tf.ragged.constant(given)
    return tf.convert_to_tensor(given)
