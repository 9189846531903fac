"""What `fit` on a task watches: losses that are none, cut texts, bad labels."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_gpt.losses import DivergenceError

_ASSERTION = re.compile(
    r"assertion failed: \[(.*?), got\] \[(.*?)\](?=\s*(?:\[\[|$))", re.DOTALL
)
# What Keras and AutoGraph put around the message of an error in a preprocessor.
_OF_KERAS = re.compile(r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)
_OF_AUTOGRAPH = re.compile(r"\n    (?:Value|Type)Error: (.*?)\n*$", re.DOTALL)


class FiniteLoss(keras.callbacks.Callback):
    """Raises `DivergenceError` at the first batch with a loss that is no number."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks the running mean, which stays infinite once a loss is."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise DivergenceError(
                f"loss must be finite, got {loss} in batch {batch} of epoch "
                f"{self._epoch} (both from 0). A lower learning rate, gradient "
                "clipping or cleaner data may help."
            )


class CutTexts(keras.callbacks.Callback):
    """Warns once how many texts were longer than the rows of a preprocessor.

    Args:
        preprocessor: of the task; one without `num_cut` is not watched.
    """

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        self._preprocessor = preprocessor
        self._before = getattr(preprocessor, "num_cut", 0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Warns, after the epoch that has shown all texts."""
        self.warn()

    def on_test_end(self, logs: Any = None) -> None:
        """Warns, after an evaluation."""
        self.warn()

    def on_predict_end(self, logs: Any = None) -> None:
        """Warns, after a prediction."""
        self.warn()

    def warn(self) -> None:
        """Warns of what was not warned of before."""
        count = getattr(self._preprocessor, "num_cut", 0)
        if count > self._before:
            self._before = count
            name = self._preprocessor.cut_by
            warnings.warn(
                f"{count} texts were longer than {name} = "
                f"{getattr(self._preprocessor, name)} tokens and were cut.",
                stacklevel=2,
            )


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Makes what a check of the data raised in `tf.data` a `ValueError` of one line."""
    try:
        yield
    except (ValueError, TypeError) as error:
        for around in (_OF_KERAS, _OF_AUTOGRAPH):
            if (found := around.search(str(error))) is not None:
                raise ValueError(found[1]) from error
        raise
    except tf.errors.InvalidArgumentError as error:
        found = _ASSERTION.search(str(error))
        if found is None:
            raise
        rule, value = found.groups()
        raise ValueError(f"{rule}, got {value}.") from error
