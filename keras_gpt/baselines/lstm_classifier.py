"""A recurrent classifier of texts, to compare a fine-tuned GPT with."""

from __future__ import annotations

from typing import Any, Self

import keras
import tensorflow as tf

from keras_gpt.baselines.lstm import (
    LSTMLanguageModel,
    check_positive_int,
    widest_hidden_dim,
)
from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.sequences import LastToken


@keras.saving.register_keras_serializable(package="keras_gpt")
class LSTMClassifier(keras.Model):
    """The network of an `LSTMLanguageModel`, and a linear layer on the last token.

    It takes what `GPTTextClassifierPreprocessor` makes of texts, and is trained as any
    Keras model is.

    Args:
        num_classes: int. Number of labels (L).
        vocabulary_size: int. Number of token ids.
        hidden_dim: int. Width of the embeddings and of each layer (D).
        num_layers: int. LSTM layers, one upon the other. Defaults to 2.
        dropout: float in [0, 1). Rate on the embeddings, on what each layer gives and
            before the linear layer. Defaults to 0.1.
        dtype: string or `keras.DTypePolicy`. Of the network; the linear layer is
            float32. Defaults to Keras' global policy.

    Call arguments:
        inputs: dict of `token_ids`, int32 (B, T), and `padding_mask`, int or bool
            (B, T), true at real tokens, which come first.
        training: bool. Whether dropout is active.

    Returns:
        float32 (B, L). Logits of the labels.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> preprocessor = GPTTextClassifierPreprocessor(tokenizer, sequence_length=32)
        >>> size = tokenizer.vocabulary_size()
        >>> classifier = LSTMClassifier(
        ...     num_classes=2, vocabulary_size=size, hidden_dim=64
        ... )
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> classifier.compile("adam", loss)
        >>> classifier.fit(preprocessor(texts), labels)

    Reference: Dai & Le 2015, "Semi-supervised Sequence Learning", whose classifier
    reads the state after the last token, too.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        vocabulary_size: int,
        hidden_dim: int,
        num_layers: int = 2,
        dropout: float = 0.1,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_int("num_classes", num_classes)
        dtype = keras.dtype_policies.get(dtype)
        super().__init__(dtype=dtype, **kwargs)

        # === Layers ===
        self.network = LSTMLanguageModel(
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            dropout=dropout,
            dtype=dtype,
            name="network",
        )
        self.last_token = LastToken(dtype=dtype, name="last_token")
        self.head_dropout = Dropout(dropout, dtype="float32", name="head_dropout")
        self.head = keras.layers.Dense(
            num_classes, use_bias=False, dtype="float32", name="head"
        )
        self.head.build((None, hidden_dim))
        self.built = True

        # === Config ===
        self.num_classes = num_classes

    @classmethod
    def from_num_parameters(
        cls,
        num_parameters: int,
        *,
        num_classes: int,
        vocabulary_size: int,
        num_layers: int = 2,
        **kwargs: Any,
    ) -> Self:
        """Builds the widest classifier of at most so many weights.

        Args:
            num_parameters: int. Such as a `GPTTextClassifier`'s.
            num_classes: int.
            vocabulary_size: int.
            num_layers: int. Defaults to 2.
            **kwargs: the constructor's other arguments.

        Raises:
            ValueError: if not even a width of 1 has so few.
        """
        check_positive_int("num_classes", num_classes)
        hidden_dim = widest_hidden_dim(
            num_parameters,
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_classes=num_classes,
        )
        return cls(
            num_classes=num_classes,
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            **kwargs,
        )

    def call(
        self, inputs: dict[str, tf.Tensor], training: bool | None = None
    ) -> tf.Tensor:
        """Runs the classifier; see the class."""
        output = self.network.forward(inputs["token_ids"], training=training)
        last = self.last_token(output.hidden, inputs["padding_mask"])
        return self.head(self.head_dropout(last, training=training))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("vocabulary_size", "hidden_dim", "num_layers", "dropout")
        own = {name: getattr(self.network, name) for name in names}
        return {**super().get_config(), "num_classes": self.num_classes, **own}
