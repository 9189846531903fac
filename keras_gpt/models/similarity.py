"""GPT as a judge of how two texts relate, whichever comes first."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_gpt.layers.sequences import SplitRows
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.text_classifier import GPTTextClassifier
from keras_gpt.models.text_preprocessor import (
    GPTTextPreprocessor,
    as_texts,
    unpadded_batch,
)


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTSimilarityPreprocessor(GPTTextPreprocessor):
    """What `GPTSimilarity` does to its inputs; arguments: `GPTTextPreprocessor`'s.

    Call arguments:
        x: tuple of two strings (B,), or of two strings.
        y: labels or numbers, as they are. Optional.
        sample_weight: weights, as they are. Optional.

    Returns:
        x a dict of `token_ids` int32 and `padding_mask` bool (B, 2, T), the pair in
        both orders, with y and sample_weight if given.
    """

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes; see the class."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError(f"x must be a tuple of two texts, got {type(x).__name__}.")
        rows = unpadded_batch(self.rows, *map(as_texts, x))
        return keras.utils.pack_x_y_sample_weight(rows, y, sample_weight)

    def rows(
        self, first: tf.Tensor, second: tf.Tensor, *, count: bool = True
    ) -> dict[str, tf.Tensor]:
        """Returns the inputs of the model, of strings (B,); `count` as in `pack`."""
        one_way = tf.concat([first, second], axis=0)
        other_way = tf.concat([second, first], axis=0)
        packed = self.pack(one_way, other_way, count=False)
        if count:
            pairs = tf.strings.join((first, second), separator="\0")
            self.count_cut(pairs, packed.is_cut[: tf.size(first)])
        return {
            name: tf.stack(tf.split(getattr(packed, name), 2), axis=1)
            for name in ("token_ids", "padding_mask")
        }


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTSimilarity(GPTTextClassifier):
    """Classifies or scores pairs of texts that have no order.

    The pair goes through the network in both orders; the hidden states of the last
    tokens are added (Radford et al. 2018, figure 1 and section 3.3). So
    `(a, b)` and `(b, a)` give the same.

    Args:
        backbone: `GPTBackbone`.
        num_classes: int. As in `GPTTextClassifier`; 1 for a score. Defaults to 2.
        preprocessor: `GPTSimilarityPreprocessor`, or None to work on token ids.
        **kwargs: further arguments of `GPTTextClassifier`.

    Example:
        >>> model = GPTSimilarity.from_preset("path/to/preset", num_classes=1)
        >>> model.fit((["a cat"], ["the cat"]), [4.5])
        >>> model.predict((["a cat"], ["a dog"]))
    """

    preprocessor_cls = GPTSimilarityPreprocessor
    head_kind = None  # of no other library
    _sequences = (2,)

    def __init__(
        self,
        backbone: GPTBackbone,
        num_classes: int | None = None,
        preprocessor: Any = None,
        **kwargs: Any,
    ) -> None:
        if num_classes is None and kwargs.get("label_names") is None:
            num_classes = 2
        self.split_rows = SplitRows(dtype=backbone.dtype_policy, name="split_rows")
        super().__init__(backbone, num_classes, preprocessor, **kwargs)

    def _features(self, hidden: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
        last = self.last_token(hidden, self.merge_rows(padding_mask))
        return keras.ops.sum(self.split_rows(last, padding_mask), axis=1)
