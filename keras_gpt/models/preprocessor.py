"""What all preprocessors share: loading from any format that a network comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import keras_nlp
import tensorflow as tf

from keras_gpt import presets

# As of tasks, a class of Keras' own at the root would be in the way of theirs.
_Base: Any = keras_nlp.models.Preprocessor if TYPE_CHECKING else object


class GPTPreprocessor(_Base):
    """What comes before KerasHub's class of a preprocessor."""

    cut_by = "sequence_length"  # the attribute that says how long texts may be

    def begin_to_count(self) -> None:
        """Makes the table of cut texts, for a constructor to call."""
        # By hash, so that an epoch does not count what one before counted.
        with tf.init_scope():
            self._cut = tf.lookup.experimental.MutableHashTable(
                key_dtype=tf.int64, value_dtype=tf.int64, default_value=0
            )

    @property
    def num_cut(self) -> int:
        """Number of distinct texts so far that were cut."""
        return int(self._cut.size())

    def count_cut(self, texts: tf.Tensor, is_cut: tf.Tensor) -> None:
        """Counts those of texts, string (B,), that were cut, bool (B,)."""
        keys = tf.boolean_mask(tf.strings.to_hash_bucket_fast(texts, 2**62), is_cut)
        self._cut.insert(keys, keys)

    @classmethod
    def from_preset(cls, preset: Any, **kwargs: Any) -> Self:
        """Loads a preprocessor; see `GPTBackbone.from_preset` for what there is.

        Args:
            preset: string or path, as there.
            **kwargs: arguments of the constructor to change.

        Raises:
            ValueError: if the preset has no tokenizer; and as there.
        """
        found = presets.find(preset)
        if found.checkpoint is None:
            return super().from_preset(found.location, **kwargs)
        return cls.from_checkpoint(found.checkpoint, **kwargs)

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **kwargs: Any) -> Self:
        """Makes the preprocessor of a `keras_gpt.checkpoints.Checkpoint`.

        Args:
            checkpoint: of the network.
            **kwargs: arguments of the constructor to change.

        Raises:
            ValueError: if it has no tokenizer.
        """
        if checkpoint.tokenizer is None:
            raise ValueError(
                f"{checkpoint.location} must have tokenizer files, got none."
            )
        arguments = {**cls._arguments_of(checkpoint), **kwargs}
        return cls(checkpoint.tokenizer, **arguments)

    @classmethod
    def _arguments_of(cls, checkpoint: Any) -> dict[str, Any]:
        """Returns the constructor's arguments that a checkpoint stands for."""
        return checkpoint.preprocessor_arguments
