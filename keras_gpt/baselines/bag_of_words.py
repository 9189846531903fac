"""Logistic regression on the words of a text, to compare a fine-tuned GPT with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_gpt.baselines.lstm import check_positive_int

CHUNK = 512  # texts whose features are dense at a time, to save memory
LEARNING_RATE = 0.1
STEPS_TOGETHER = 20
LEAST_GAIN = 1e-3  # share of the loss below which so many steps brought nothing


@keras.saving.register_keras_serializable(package="keras_gpt")
class BagOfWordsClassifier(keras.Model):
    """A linear layer on the tf-idf of words and of pairs of neighbouring words.

    Words are lower-case and without punctuation; the features of a text are scaled to
    a length of 1. So the loss has one minimum, whatever the first weights.

    Args:
        num_classes: int. Number of labels (L).
        max_features: int. The most frequent words and pairs of the texts given to
            `adapt` are features, at most so many (F). Defaults to 20,000.
        max_words: int. Longest run of words that is a feature: 1 for words alone.
            Defaults to 2.
        l2: float, at least 0. Weight in the loss of the sum of the squared weights.
            Defaults to 1e-5.
        vocabulary: strings. The features, as a saved model has them. Defaults to
            None: `adapt` finds them.

    Call arguments:
        inputs: string (B,). Texts.

    Returns:
        float32 (B, L). Logits of the labels.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> classifier = BagOfWordsClassifier(num_classes=2)
        >>> classifier.fit_to_convergence(["a fine text", "a poor one"], [1, 0])
        >>> classifier(tf.constant(["another fine text"]))

    References: Sparck Jones 1972 for idf; Wang & Manning 2012, "Baselines and Bigrams",
    for how strong a linear model on pairs of words is.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        max_features: int = 20_000,
        max_words: int = 2,
        l2: float = 1e-5,
        vocabulary: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive_int("num_classes", num_classes)
        check_positive_int("max_features", max_features)
        check_positive_int("max_words", max_words)
        if not l2 >= 0.0:
            raise ValueError(f"l2 must be at least 0, got {l2}.")
        super().__init__(**kwargs)

        # === Layers ===
        self.words = keras.layers.TextVectorization(
            max_tokens=max_features,
            ngrams=max_words,
            output_mode="count",
            pad_to_max_tokens=True,
            vocabulary=vocabulary,
            name="words",
        )
        self.idf = self.add_weight(
            shape=(max_features,), initializer="zeros", trainable=False, name="idf"
        )
        self.to_unit = keras.layers.UnitNormalization(name="to_unit")
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer="zeros",
            kernel_regularizer=keras.regularizers.L2(l2),
            name="head",
        )
        self.head.build((None, max_features))
        self.built = True

        # === Config ===
        self.num_classes = num_classes
        self.max_features = max_features
        self.max_words = max_words
        self.l2 = l2

    def adapt(self, texts: Sequence[str]) -> None:
        """Takes the features, and how rare each is, from texts (B,).

        A feature that n of the texts have counts log(1 + B / (1 + n)).
        """
        self.words.adapt(tf.constant(list(texts)))
        found = tf.zeros(self.max_features)
        for chunk in _chunks(texts):
            found += tf.reduce_sum(tf.cast(self.words(chunk) > 0, tf.float32), axis=0)
        self.idf.assign(tf.math.log1p(len(texts) / (1.0 + found)))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Runs the classifier; see the class."""
        return self.head(self._features(inputs))

    def fit_to_convergence(
        self,
        texts: Sequence[str],
        labels: Sequence[int],
        *,
        max_steps: int = 2000,
        seconds: float = math.inf,
    ) -> int:
        """Adapts to texts and trains on all at once until the loss falls no further.

        The steps are Adam's, with a learning rate of 0.1, and begin with the weights
        as they are. They end when 20 lowered the loss by less than a thousandth of it.

        Args:
            texts: strings (B,).
            labels: ints (B,), from 0.
            max_steps: int. Most steps. Defaults to 2000.
            seconds: float. Time after which no further 20 steps begin. Defaults to
                no limit.

        Returns:
            The number of steps.

        Raises:
            ValueError: if the numbers of texts and labels differ, there are none, or a
                label is none of the model's.
        """
        if not 0 < len(texts) == len(labels):
            raise ValueError(
                "texts must be one or more, and labels as many, got "
                f"{len(texts)} and {len(labels)}."
            )
        wrong = [label for label in labels if not 0 <= label < self.num_classes]
        if wrong:
            raise ValueError(
                f"labels must be in [0, {self.num_classes}), got {wrong[0]}."
            )
        started = time.monotonic()
        self.adapt(texts)
        steps = self._several_steps(texts, labels)
        loss, before, done = float(steps()), math.inf, STEPS_TOGETHER
        while (
            before - loss > LEAST_GAIN * loss
            and done < max_steps
            and time.monotonic() - started < seconds
        ):
            before, loss = loss, float(steps())
            done += STEPS_TOGETHER
        return done

    def _several_steps(
        self, texts: Sequence[str], labels: Sequence[int]
    ) -> Callable[[], tf.Tensor]:
        """Returns a function that takes some steps, and returns the last loss."""
        features, targets = self._sparse_features(texts), tf.constant(list(labels))
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        variables = self.trainable_variables
        optimizer.build(variables)

        @tf.function
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels=targets, logits=self.head(features)
                )
                loss = tf.reduce_mean(losses) + sum(self.head.losses)
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        return lambda: [step() for _ in range(STEPS_TOGETHER)][-1]

    def _features(self, texts: tf.Tensor) -> tf.Tensor:
        return self.to_unit(self.words(texts) * self.idf)

    def _sparse_features(self, texts: Sequence[str]) -> tf.SparseTensor:
        """Returns (B, F); a text has a few of the features alone."""
        parts = [tf.sparse.from_dense(self._features(c)) for c in _chunks(texts)]
        return tf.sparse.concat(0, parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("num_classes", "max_features", "max_words", "l2")
        found = self.words.get_vocabulary(include_special_tokens=False)
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "vocabulary": found or None,
        }


def _chunks(texts: Sequence[str]) -> Iterator[tf.Tensor]:
    for first in range(0, len(texts), CHUNK):
        yield tf.constant(list(texts[first : first + CHUNK]))
