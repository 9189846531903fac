"""GPT as a classifier of the words of a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout
from keras_gpt.losses import mean_cross_entropy
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.labels import LabelNames, labels_of
from keras_gpt.models.parts import linear_head
from keras_gpt.models.segments import first_tokens, same_tokens
from keras_gpt.models.task import GPTTask
from keras_gpt.models.text_preprocessor import GPTTextPreprocessor


class WordRows(NamedTuple):
    """Words as rows of tokens.

    Attributes:
        token_ids: int32 (B, T).
        padding_mask: bool (B, T), true at tokens, which come first.
        places: int32 (B, W). Place of the last token of each word; -1 of a word that
            is not there, that was cut, or that has no tokens.
    """

    token_ids: tf.Tensor
    padding_mask: tf.Tensor
    places: tf.Tensor


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTTokenClassifierPreprocessor(GPTTextPreprocessor):
    """What `GPTTokenClassifier` does to its inputs; arguments: `GPTTextPreprocessor`'s.

    Words are joined by spaces, as in the texts that the network was trained on.

    Call arguments:
        x: words, strings (B, W) in which "" is none, or ragged.
        y: int (B, W), numbers of the words' labels. Optional.
        sample_weight: (B,), weights. Optional.

    Returns:
        x a dict of `token_ids` int32 and `padding_mask` bool (B, T); with y, also the
        labels of tokens int32 (B, T), and float32 weights (B, T): that of the text at
        the last token of each word, which has seen the word whole, 0 elsewhere.
    """

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes; see the class."""
        words = as_words(x)
        packed = self.rows(words)
        rows = {"token_ids": packed.token_ids, "padding_mask": packed.padding_mask}
        if y is None:
            return keras.utils.pack_x_y_sample_weight(rows)
        labels = _dense_labels(y, x, words)
        is_there = packed.places >= 0
        index = tf.stack(
            [tf.where(is_there)[:, 0], tf.cast(packed.places[is_there], tf.int64)],
            axis=1,
        )
        shape = tf.shape(packed.token_ids, tf.int64)
        targets = tf.scatter_nd(index, tf.cast(labels, tf.int32)[is_there], shape)
        weights = tf.scatter_nd(index, tf.ones_like(index[:, 0], tf.float32), shape)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, tf.float32)[:, None]
        return rows, targets, weights

    def rows(self, words: tf.Tensor, *, count: bool = True) -> WordRows:
        """Returns rows of tokens, of strings (B, W); `count` as in `pack`."""
        separator = tf.constant(self.tokenizer.continuation_separator or " ")
        is_first = tf.cumsum(tf.cast(words != "", tf.int32), axis=1, exclusive=True) < 1
        spaced = tf.where(is_first | (words == ""), words, separator + words)
        by_word = self.tokenizer.tokenize(spaced)  # (B, W, ragged)
        lengths = tf.cast(by_word.row_lengths(axis=2).to_tensor(), tf.int64)
        ids = by_word.merge_dims(1, 2)
        end_id = self.tokenizer.end_token_id
        special = [] if end_id is None else [end_id]
        start = special if self.add_start_token else []
        end = special if self.add_end_token else []
        room = self._checked_length(1) - len(start) - len(end)
        kept = tf.minimum(ids.row_lengths(), room)
        if count:
            is_cut = kept < ids.row_lengths()
            self.count_cut(tf.strings.reduce_join(words, axis=1, separator=" "), is_cut)
        joined = tf.concat(
            [same_tokens(start, ids), first_tokens(ids, kept), same_tokens(end, ids)],
            axis=1,
        )
        last = tf.cumsum(lengths, axis=1) - 1
        is_there = (lengths > 0) & (last < room)
        return WordRows(
            joined.to_tensor(shape=[None, self.sequence_length]),
            tf.sequence_mask(joined.row_lengths(), self.sequence_length),
            tf.where(is_there, tf.cast(last, tf.int32) + len(start), -1),
        )


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTTokenClassifier(GPTTask, keras_nlp.models.Task):
    """Labels the words of texts.

    A linear layer reads every token; a word has the label of its last one, which has
    seen it whole.

    Args:
        backbone: `GPTBackbone`.
        num_classes: int, at least 2. Number of labels (L). May be left out with
            `label_names`.
        preprocessor: `GPTTokenClassifierPreprocessor`, or None to work on token ids.
        label_names: list of strings. Labels in order, which `fit` then takes, too.
            Defaults to "0", "1" and so on.
        head_dropout: float. Rate before the linear layer, in training. Defaults to 0.1.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> tagger = GPTTokenClassifier.from_preset(
        ...     "path/to/preset", label_names=["O", "NAME"]
        ... )
        >>> tagger.fit([["Ada", "wrote"]], [["NAME", "O"]])
        >>> tagger.tag([["Grace", "wrote"]])
    """

    preprocessor_cls = GPTTokenClassifierPreprocessor
    head_kind = "token_classifier"

    def __init__(
        self,
        backbone: GPTBackbone,
        num_classes: int | None = None,
        preprocessor: Any = None,
        *,
        label_names: Iterable[str] | None = None,
        head_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        labels = labels_of(num_classes, label_names)
        if labels is None:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        self.labels: LabelNames = labels
        self.head_dropout = head_dropout

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.dropout = Dropout(head_dropout, dtype="float32", name="head_dropout")
        self.head = linear_head(backbone, len(labels.names))

        # === Model ===
        inputs = self.symbolic_inputs()
        outputs = self.outputs_of(self.hidden_of(inputs), inputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> tf.Tensor:
        """Returns float32 logits (B, T, L), from hidden states (B, T, D)."""
        return self.head(self.dropout(hidden, training=training))

    @property
    def label_names(self) -> list[str]:
        """The labels, in order."""
        return list(self.labels.names)

    def _default_loss(self) -> keras.losses.Loss:
        return mean_cross_entropy()

    def _default_metrics(self) -> dict[str, Any]:
        return {"weighted_metrics": [keras.metrics.SparseCategoricalAccuracy()]}

    def encoded_labels(self, y: Any) -> Any:
        """Returns the numbers of labels; numbers and None as they are."""
        return self.labels.encoded(y)

    def tag(
        self, words: Sequence[Sequence[str]], batch_size: int = 32
    ) -> list[list[str | None]]:
        """Tells the label of each word.

        Args:
            words: lists of words, one for each text.
            batch_size: int. Texts at a time. Defaults to 32.

        Returns:
            For each text a list of labels; None for a word that the context has no
            room for.
        """
        dense = as_words(words)
        if not dense.shape[1]:
            return [[] for _ in words]
        places = self.preprocessor.rows(dense, count=False).places.numpy()
        logits = self.predict(dense, batch_size=batch_size, verbose=0)
        best = logits.argmax(axis=-1)
        return [
            [
                self.labels.names[numbers[place]] if place >= 0 else None
                for place in found[: len(row)]
            ]
            for row, found, numbers in zip(words, places, best, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": len(self.labels.names),
            "label_names": self.label_names,
            "head_dropout": self.head_dropout,
        }


def _dense_labels(y: Any, x: Any, words: tf.Tensor) -> tf.Tensor:
    """Returns labels (B, W), after a check that there is one for each of the words."""
    width = tf.shape(words, tf.int64)[1]
    rule = "y must have a label for each word, got"
    if not isinstance(y, tf.RaggedTensor):
        y = tf.convert_to_tensor(y)
        own = tf.shape(y, tf.int64)[1]
        texts = map(tf.strings.as_string, (own, width))
        found = tf.strings.join(list(texts), separator=" for ")
        check = tf.debugging.Assert(own >= width, [rule, found])
        with tf.control_dependencies([check]):
            return y[:, :width]
    if isinstance(x, tf.RaggedTensor):
        least = most = x.row_lengths()
    else:
        least, most = tf.math.count_nonzero(words != "", axis=1), width
    counts = y.row_lengths()
    is_right = (counts == least) | (counts == most)
    texts = map(tf.strings.as_string, (counts, least))
    found = tf.strings.join(list(texts), separator=" for ")
    wrong = tf.boolean_mask(found, ~is_right)[:1]
    check = tf.debugging.Assert(tf.reduce_all(is_right), [rule, wrong])
    with tf.control_dependencies([check]):
        dense = y.to_tensor(0)
        missing = width - tf.shape(dense, tf.int64)[1]
        return tf.pad(dense, [[0, 0], [0, missing]])


def as_words(given: Any) -> tf.Tensor:
    """Returns words as strings (B, W), "" where a text has fewer.

    Raises:
        ValueError: if they are not lists of words.
    """
    rule = "words must be lists of words, one for each text, got"
    if isinstance(given, str | bytes):
        raise ValueError(f"{rule} {given!r}.")
    if not isinstance(given, tf.Tensor | tf.RaggedTensor):
        for row in given:
            if isinstance(row, str | bytes):
                raise ValueError(f"{rule} {row!r}.")
        rows = [list(row) for row in given]
        given = tf.ragged.constant(rows, tf.string, ragged_rank=1)
    if given.shape.rank != 2:
        raise ValueError(f"{rule} the shape {given.shape}.")
    return given.to_tensor("") if isinstance(given, tf.RaggedTensor) else given
