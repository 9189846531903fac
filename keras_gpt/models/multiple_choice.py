"""GPT as a chooser among answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.sequences import LastToken, SplitRows
from keras_gpt.losses import mean_cross_entropy
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.fit_data import as_tensors
from keras_gpt.models.parts import linear_head
from keras_gpt.models.task import GPTTask
from keras_gpt.models.text_preprocessor import GPTTextPreprocessor, as_texts

MASKED_LOGIT = -1e9


class Choices(NamedTuple):
    """What a model chose.

    Attributes:
        choices: list of strings, the most probable choice of each row.
        probabilities: float32 (B, C), of all choices in their order, 0 where a row
            has fewer.
    """

    choices: list[str]
    probabilities: np.ndarray


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTMultipleChoicePreprocessor(GPTTextPreprocessor):
    """What `GPTMultipleChoice` does to its inputs; arguments: `GPTTextPreprocessor`'s.

    Call arguments:
        x: tuple of contexts, strings (B,), and choices, strings (B, C), or ragged; ""
            is no choice.
        y: int (B,), numbers of the right choices. Optional.
        sample_weight: weights, as they are. Optional.

    Returns:
        x a dict of `token_ids` int32 and `padding_mask` bool (B, C, T), the context
        with each choice, with y and sample_weight if given.
    """

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes; see the class."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError(
                "x must be a tuple of contexts and choices, "
                f"got {type(x).__name__}."
            )
        contexts, choices = as_texts(x[0]), as_choices(x[1])
        if choices.shape.rank != contexts.shape.rank + 1:
            raise ValueError(
                "choices must have one dimension more than contexts, got shapes "
                f"{contexts.shape} and {choices.shape}."
            )
        if contexts.shape.rank:
            rows = self.rows(contexts, choices)
        else:
            rows = self.rows(contexts[None], choices[None])
            rows = {name: tensor[0] for name, tensor in rows.items()}
        if y is not None:
            y = _checked_choice(y, choices)
        return keras.utils.pack_x_y_sample_weight(rows, y, sample_weight)

    def rows(
        self, contexts: tf.Tensor, choices: tf.Tensor, *, count: bool = True
    ) -> dict[str, tf.Tensor]:
        """Returns the inputs of the model, of strings (B,) and (B, C)."""
        num_choices = tf.shape(choices)[1]
        packed = self.pack(
            tf.repeat(contexts, num_choices), tf.reshape(choices, [-1]), count=count
        )
        shape = [-1, num_choices, self.sequence_length]
        is_there = (choices != "")[:, :, None]
        return {
            "token_ids": tf.reshape(packed.token_ids, shape),
            "padding_mask": tf.reshape(packed.padding_mask, shape) & is_there,
        }


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTMultipleChoice(GPTTask, keras_nlp.models.Task):
    """Chooses one of several answers to a context.

    A linear layer scores the last token of the context with each choice (Radford et
    al. 2018, section 3.3).

    Args:
        backbone: `GPTBackbone`.
        preprocessor: `GPTMultipleChoicePreprocessor`, or None to work on token ids.
        head_dropout: float. Rate before the linear layer, in training. Defaults to 0.1.

    Example:
        >>> model = GPTMultipleChoice.from_preset("path/to/preset")
        >>> model.fit((["The sky is"], [["blue", "a fish"]]), [0])
        >>> model.choose("The grass is", ["green", "a bird"]).choices
    """

    preprocessor_cls = GPTMultipleChoicePreprocessor
    head_kind = "multiple_choice"

    def __init__(
        self,
        backbone: GPTBackbone,
        preprocessor: Any = None,
        *,
        head_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.head_dropout = head_dropout

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.last_token = LastToken(dtype=backbone.dtype_policy, name="last_token")
        self.dropout = Dropout(head_dropout, dtype="float32", name="head_dropout")
        self.head = linear_head(backbone, 1)
        self.split_rows = SplitRows(dtype="float32", name="split_rows")

        # === Model ===
        inputs = self.symbolic_inputs(None)
        outputs = self.outputs_of(self.hidden_of(inputs), inputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> tf.Tensor:
        """Returns float32 logits (B, C), from hidden states (B * C, T, D).

        A sequence without tokens is no choice, and has -1e9.
        """
        mask = inputs["padding_mask"]
        last = self.last_token(hidden, self.merge_rows(mask))
        scores = self.head(self.dropout(last, training=training))
        logits = keras.ops.squeeze(self.split_rows(scores, mask), axis=-1)
        is_there = keras.ops.any(keras.ops.cast(mask, "bool"), axis=-1)
        return keras.ops.where(is_there, logits, MASKED_LOGIT)

    def _default_loss(self) -> keras.losses.Loss:
        return mean_cross_entropy()

    def _default_metrics(self) -> dict[str, Any]:
        return {"metrics": [keras.metrics.SparseCategoricalAccuracy()]}

    def training_examples(self, x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
        """Returns single examples, all with as many choices, "" where one has fewer."""
        if isinstance(x, tuple) and len(x) == 2:
            x = (x[0], as_choices(x[1]))
        return super().training_examples(x, y, sample_weight)

    def choose(
        self, contexts: Any, choices: Sequence[Any], batch_size: int = 32
    ) -> Choices:
        """Tells the most probable choice of each context.

        Args:
            contexts: string, or strings (B,).
            choices: strings (C,), or (B, C), also lists of different lengths.
            batch_size: int. Contexts at a time. Defaults to 32.
        """
        if isinstance(contexts, str | bytes):
            contexts, choices = [contexts], [choices]
        logits = self.predict((contexts, choices), batch_size=batch_size, verbose=0)
        chosen = [row[i] for row, i in zip(choices, logits.argmax(-1), strict=True)]
        return Choices(chosen, tf.nn.softmax(logits).numpy())

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "head_dropout": self.head_dropout}


def _checked_choice(y: Any, choices: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of right choices, after a check that they are there."""
    y = tf.convert_to_tensor(y)
    number = tf.cast(y, tf.int32)
    fits = (number >= 0) & (number < tf.shape(choices)[-1])
    chosen = tf.gather(
        choices, tf.where(fits, number, 0), axis=-1, batch_dims=choices.shape.rank - 1
    )
    is_right = fits & (chosen != "") & (tf.cast(number, y.dtype) == y)
    wrong = tf.boolean_mask(tf.reshape(y, [-1]), tf.reshape(~is_right, [-1]))[:1]
    rule = "y must be the number of a choice of its row, got"
    check = tf.debugging.Assert(tf.reduce_all(is_right), [rule, wrong])
    with tf.control_dependencies([check]):
        return tf.identity(y)


def as_choices(given: Any) -> tf.Tensor:
    """Returns choices as strings (B, C) or (C,), "" where a row has fewer."""
    given = as_tensors(given)
    return given.to_tensor("") if isinstance(given, tf.RaggedTensor) else given
