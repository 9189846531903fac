"""A recurrent language model, as they were before the transformer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.embeddings import TokenEmbedding
from keras_gpt.layers.initializers import normal

INITIALIZER_STDDEV = 0.02  # of the token table, as in GPT-2: Radford et al. 2019


class LSTMOutput(NamedTuple):
    """What a forward pass returns.

    Attributes:
        hidden: (B, T, D), what the last layer gives at each position.
    """

    hidden: tf.Tensor


@keras.saving.register_keras_serializable(package="keras_gpt")
class LSTMLanguageModel(keras.Model):
    """Token embedding, LSTM layers, and the embedding again as output projection.

    Trained and scored as a `GPTBackbone` is, by `make_train_step` and
    `make_eval_step`. Each window starts from a state of zeros.

    Args:
        vocabulary_size: int. Number of token ids (V).
        hidden_dim: int. Width of the embeddings and of each layer (D).
        num_layers: int. LSTM layers, one upon the other. Defaults to 2.
        dropout: float in [0, 1). Rate on the embeddings and on what each layer gives,
            not between positions (Zaremba et al. 2014). Defaults to 0.1.
        dtype: string or `keras.DTypePolicy`. Defaults to Keras' global policy.

    Call arguments:
        token_ids: int32 (B, T).
        training: bool. Whether dropout is active.

    Returns:
        float32 (B, T, V). Logits of the token after each position.

    Raises:
        ValueError: if an argument is out of its range.

    References: Hochreiter & Schmidhuber 1997; Press & Wolf 2017 for the one table at
    both ends; Jozefowicz et al. 2015 for forget gates that begin with a bias of 1.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        hidden_dim: int,
        num_layers: int = 2,
        dropout: float = 0.1,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        check_positive_int("vocabulary_size", vocabulary_size)
        check_positive_int("hidden_dim", hidden_dim)
        check_positive_int("num_layers", num_layers)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        dtype = keras.dtype_policies.get(dtype)
        super().__init__(dtype=dtype, **kwargs)

        # === Layers ===
        self.token_embedding = TokenEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=True,
            embeddings_initializer=normal(
                INITIALIZER_STDDEV, path="token_embedding/embeddings"
            ),
            dtype=dtype,
            name="token_embedding",
        )
        self.lstm_layers = [
            keras.layers.LSTM(
                hidden_dim, return_sequences=True, dtype=dtype, name=f"lstm_{index}"
            )
            for index in range(num_layers)
        ]
        self.dropout_layers = [
            Dropout(dropout, dtype=dtype, name=f"dropout_{index}")
            for index in range(num_layers + 1)
        ]
        self.build((None, None))

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.dropout = dropout

    @classmethod
    def from_num_parameters(
        cls,
        num_parameters: int,
        *,
        vocabulary_size: int,
        num_layers: int = 2,
        **kwargs: Any,
    ) -> LSTMLanguageModel:
        """Builds the widest model of at most so many weights.

        Args:
            num_parameters: int. Such as a `GPTConfig`'s.
            vocabulary_size: int.
            num_layers: int. Defaults to 2.
            **kwargs: the constructor's other arguments.

        Raises:
            ValueError: if not even a width of 1 has so few.
        """
        hidden_dim = widest_hidden_dim(
            num_parameters, vocabulary_size=vocabulary_size, num_layers=num_layers
        )
        return cls(
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            **kwargs,
        )

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.token_embedding.build(input_shape)
        for layer in self.lstm_layers:
            layer.build((*input_shape, self.token_embedding.output_dim))
        self.built = True

    def forward(
        self, token_ids: tf.Tensor, *, training: bool | None = None
    ) -> LSTMOutput:
        """Runs the network up to the output projection.

        Args:
            token_ids: int32 (B, T).
            training: bool. Whether dropout is active.

        Returns:
            `LSTMOutput`.
        """
        first, *others = self.dropout_layers
        hidden = first(self.token_embedding(token_ids), training=training)
        for layer, dropout in zip(self.lstm_layers, others, strict=True):
            hidden = dropout(layer(hidden, training=training), training=training)
        return LSTMOutput(hidden)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Projects hidden states (..., D) to float32 logits (..., V)."""
        return self.token_embedding(hidden, reverse=True)

    def call(self, token_ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Runs the network; see the class."""
        return self.logits(self.forward(token_ids, training=training).hidden)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("vocabulary_size", "hidden_dim", "num_layers", "dropout")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}


def count_weights(vocabulary_size: int, *, hidden_dim: int, num_layers: int) -> int:
    """Counts the weights: the table, and four gates' kernels and biases a layer.

    Args:
        vocabulary_size: int (V).
        hidden_dim: int (D).
        num_layers: int.
    """
    layer = 4 * (2 * hidden_dim * hidden_dim + hidden_dim)
    return vocabulary_size * hidden_dim + num_layers * layer


def widest_hidden_dim(
    num_parameters: int, *, vocabulary_size: int, num_layers: int, num_classes: int = 0
) -> int:
    """Returns the width of the widest network of at most so many weights.

    Args:
        num_parameters: int.
        vocabulary_size: int (V).
        num_layers: int.
        num_classes: int (L). Of a linear layer without bias on top. Defaults to 0.

    Raises:
        ValueError: if not even a width of 1 has so few, or an argument is no integer.
    """
    check_positive_int("vocabulary_size", vocabulary_size)
    check_positive_int("num_layers", num_layers)
    if isinstance(num_parameters, bool) or not isinstance(num_parameters, int):
        raise ValueError(f"num_parameters must be an integer, got {num_parameters!r}.")
    rows = vocabulary_size + num_classes
    hidden_dim = _widest(num_parameters, rows, num_layers)
    if hidden_dim < 1:
        least = count_weights(rows, hidden_dim=1, num_layers=num_layers)
        raise ValueError(
            f"num_parameters must be at least {least} for {vocabulary_size} tokens "
            f"and {num_layers} layers, got {num_parameters}."
        )
    return hidden_dim


def _widest(num_parameters: int, vocabulary_size: int, num_layers: int) -> int:
    """Solves 8 L D^2 + (V + 4 L) D <= the number for the largest whole D."""
    square, linear = 8 * num_layers, vocabulary_size + 4 * num_layers
    root = math.isqrt(linear * linear + 4 * square * max(num_parameters, 0))
    return (root - linear) // (2 * square)


def check_positive_int(name: str, value: Any) -> None:
    """Checks an argument.

    Raises:
        ValueError: if it is no integer, or below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
