"""GPT as a classifier of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.sequences import LastToken
from keras_gpt.losses import MEAN
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.labels import is_named, labels_of
from keras_gpt.models.parts import linear_head
from keras_gpt.models.task import GPTTask
from keras_gpt.models.text_preprocessor import GPTTextClassifierPreprocessor

SINGLE_LABEL = "single_label"
MULTI_LABEL = "multi_label"
REGRESSION = "regression"
LIKELY = 0.5  # a text has a label of many where it is more probable than this


class Classification(NamedTuple):
    """What a classifier says of texts.

    Attributes:
        labels: list of strings, the most probable label of each text; with several
            labels a text, a list of those above 0.5 for each.
        probabilities: float32 (B, L), of all labels in the order of `label_names`.
    """

    labels: list[Any]
    probabilities: np.ndarray


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTTextClassifier(GPTTask, keras_nlp.models.TextClassifier):
    """A `keras_nlp.models.TextClassifier` on a `GPTBackbone`.

    A linear layer without bias reads the last token of a text (Radford et al. 2018,
    section 3.2).

    Args:
        backbone: `GPTBackbone`.
        num_classes: int. Number of labels (L); 1 for regression. May be left out
            with `label_names`.
        preprocessor: `GPTTextClassifierPreprocessor`, or None to work on token ids.
        label_names: list of strings. Labels in order, which `fit` then takes, too.
            Defaults to "0", "1" and so on.
        multi_label: bool. Whether a text has any number of labels. Defaults to False.
        activation: of the outputs, such as `"softmax"`. Defaults to none: logits.
        head_dropout: float. Rate before the linear layer, in training. Defaults to 0.1.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> classifier = GPTTextClassifier.from_preset(
        ...     "path/to/preset", label_names=["bad", "good"]
        ... )
        >>> classifier.fit(["a fine text", "a poor one"], ["good", "bad"])
        >>> classifier.classify("another").labels
        >>> classifier.fit((premises, hypotheses), labels)  # pairs
    """

    preprocessor_cls = GPTTextClassifierPreprocessor
    head_kind: str | None = "text_classifier"
    _sequences: tuple[int, ...] = ()  # of a row, where there are several

    def __init__(
        self,
        backbone: GPTBackbone,
        num_classes: int | None = None,
        preprocessor: Any = None,
        *,
        label_names: Iterable[str] | None = None,
        multi_label: bool = False,
        activation: Any = None,
        head_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.labels = labels_of(num_classes, label_names)
        num_classes = 1 if self.labels is None else len(self.labels.names)
        if multi_label and self.labels is None:
            raise ValueError("multi_label must be False with 1 class, got True.")
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.activation = keras.activations.get(activation)
        self.head_dropout = head_dropout

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.last_token = LastToken(dtype=backbone.dtype_policy, name="last_token")
        self.dropout = Dropout(head_dropout, dtype="float32", name="head_dropout")
        self.head = linear_head(
            backbone, num_classes, use_bias=False, activation=self.activation
        )

        # === Model ===
        inputs = self.symbolic_inputs(*self._sequences)
        outputs = self.outputs_of(self.hidden_of(inputs), inputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> tf.Tensor:
        """Returns float32 (B, L), from hidden states (B, T, D)."""
        features = self._features(hidden, inputs["padding_mask"])
        return self.head(self.dropout(features, training=training))

    def _features(self, hidden: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
        """Returns (B, D), what the linear layer reads."""
        return self.last_token(hidden, padding_mask)

    @property
    def problem(self) -> str:
        """`"single_label"`, `"multi_label"` or `"regression"`."""
        if self.labels is None:
            return REGRESSION
        return MULTI_LABEL if self.multi_label else SINGLE_LABEL

    @property
    def label_names(self) -> list[str] | None:
        """The labels, in order; None for regression."""
        return None if self.labels is None else list(self.labels.names)

    def _default_loss(self) -> keras.losses.Loss:
        if self.problem == REGRESSION:
            return keras.losses.MeanSquaredError(reduction=MEAN)
        if self.problem == MULTI_LABEL:
            from_logits = self.activation is not keras.activations.sigmoid
            return keras.losses.BinaryCrossentropy(from_logits, reduction=MEAN)
        from_logits = self.activation is not keras.activations.softmax
        return keras.losses.SparseCategoricalCrossentropy(from_logits, reduction=MEAN)

    def _default_metrics(self) -> dict[str, Any]:
        if self.problem == REGRESSION:
            metric = keras.metrics.RootMeanSquaredError()
        elif self.problem == MULTI_LABEL:
            is_sigmoid = self.activation is keras.activations.sigmoid
            metric = keras.metrics.BinaryAccuracy(
                threshold=LIKELY if is_sigmoid else 0.0
            )
        else:
            metric = keras.metrics.SparseCategoricalAccuracy()
        return {"metrics": [metric]}

    def encoded_labels(self, y: Any) -> Any:
        """Returns the targets of labels; numbers and None as they are."""
        if self.labels is None:
            if is_named(y):
                raise ValueError("y must be numbers for a regression, got texts.")
            return y
        return self.labels.indicators(y) if self.multi_label else self.labels.encoded(y)

    def class_weights(self, given: Mapping[Any, float]) -> dict[int, float]:
        """Returns `class_weight` of `fit` for all labels, by their numbers."""
        if self.labels is None or self.multi_label:
            return super().class_weights(given)
        return self.labels.weights(given)

    def classify(self, inputs: Any, batch_size: int = 32) -> Classification:
        """Tells the labels of texts, and how probable all labels are.

        Args:
            inputs: string or strings (B,), or a tuple of two for pairs; or a
                `tf.data.Dataset` of batches of these.
            batch_size: int. Texts at a time. Defaults to 32.

        Returns:
            `Classification`. Of one string, too, with B = 1.

        Raises:
            ValueError: if the model is a regression.
        """
        if self.labels is None:
            raise ValueError("num_classes must be 2 or more to classify, got 1.")
        if not isinstance(inputs, tf.data.Dataset):
            inputs = _batched(inputs)
            outputs = self.predict(inputs, batch_size=batch_size, verbose=0)
        else:
            # Of two texts, Keras would take the second for labels.
            outputs = self.predict(
                inputs.map(lambda *texts: texts if len(texts) == 1 else (texts,)),
                verbose=0,
            )
        probabilities = self.probabilities(tf.convert_to_tensor(outputs)).numpy()
        names = np.array(self.labels.names, object)
        if self.multi_label:
            labels = [names[row > LIKELY].tolist() for row in probabilities]
        else:
            labels = names[probabilities.argmax(axis=-1)].tolist()
        return Classification(labels, probabilities)

    def probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns float32 (B, L), from the outputs of the model."""
        if self.multi_label:
            is_done = self.activation is keras.activations.sigmoid
            return outputs if is_done else tf.sigmoid(outputs)
        is_done = self.activation is keras.activations.softmax
        return outputs if is_done else tf.nn.softmax(outputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "label_names": self.label_names,
            "multi_label": self.multi_label,
            "activation": keras.activations.serialize(self.activation),
            "head_dropout": self.head_dropout,
        }


def _batched(inputs: Any) -> Any:
    """Gives one text, or one pair, a batch dimension."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    parts = tuple(part if np.ndim(part) else [part] for part in parts)
    return parts if len(parts) > 1 else parts[0]
