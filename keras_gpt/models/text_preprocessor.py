"""Texts to rows of tokens, for the tasks that read whole texts."""

from __future__ import annotations

from typing import Any

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.preprocessor import GPTPreprocessor
from keras_gpt.models.segments import (
    ROUND_ROBIN,
    TRUNCATIONS,
    PackedRows,
    pack_segments,
)
from keras_gpt.tokenizer import GPTTokenizer

MOST_SPECIAL = 4  # tokens of a row of two texts: three special ones, one of a text


class GPTTextPreprocessor(GPTPreprocessor, keras_nlp.models.Preprocessor):
    """Tokenizes texts, joins pairs, ends them with the end token and pads them.

    A row is `start, first, end token, second, end token`, where the start and the
    second text are optional. What is too long is cut at the ends of the texts, never
    the special tokens; `num_cut` counts.

    Args:
        tokenizer: `GPTTokenizer`.
        sequence_length: int. Length of the rows, in tokens. Defaults to None: a task
            sets it to its context.
        truncate: `"round_robin"` or `"waterfall"`, which of two texts is cut, as in
            `keras_nlp.layers.MultiSegmentPacker`. Defaults to `"round_robin"`.
        add_start_token: bool. Whether rows begin with the end-of-text token. Defaults
            to False.
        add_end_token: bool. Whether rows end with it, which is then the token that the
            heads read (Radford et al. 2018, section 3.3). An empty text always gets
            it. Defaults to True; without effect where the vocabulary has none.

    Raises:
        ValueError: if an argument is out of its range.
    """

    backbone_cls = GPTBackbone
    tokenizer_cls = GPTTokenizer

    def __init__(
        self,
        tokenizer: GPTTokenizer,
        sequence_length: int | None = None,
        truncate: str = ROUND_ROBIN,
        add_start_token: bool = False,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        # Past KerasHub's preprocessor of a task, whose packer needs more than core ops.
        keras_nlp.models.Preprocessor.__init__(self, **kwargs)
        if truncate not in TRUNCATIONS:
            raise ValueError(
                f"truncate must be of {', '.join(TRUNCATIONS)}, got {truncate!r}."
            )
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.truncate = truncate
        self.add_start_token = add_start_token
        self.add_end_token = add_end_token
        self.begin_to_count()

    @classmethod
    def _arguments_of(cls, checkpoint: Any) -> dict[str, Any]:
        # A head of another library was trained on texts to which no token is added.
        return {"add_end_token": checkpoint.head is None}

    @property
    def sequence_length(self) -> int | None:
        """Length of the rows, in tokens."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int | None) -> None:
        if value is not None and value < 1:
            raise ValueError(f"sequence_length must be at least 1, got {value}.")
        self._sequence_length = value

    @property
    def joins_texts(self) -> bool:
        """Whether a row may hold two texts."""
        return self.tokenizer.end_token_id is not None and (
            self.sequence_length is None or self.sequence_length > MOST_SPECIAL
        )

    def build(self, input_shape: Any) -> None:
        """Has nothing to create."""
        self.built = True

    def pack(self, *texts: tf.Tensor, count: bool = True) -> PackedRows:
        """Turns texts into rows of tokens, in graph code of core ops.

        Args:
            *texts: one or two string (B,), the texts of each row.
            count: bool. Whether cut rows are counted, which needs a table. Defaults
                to True.

        Raises:
            ValueError: if there are two texts and the vocabulary has no end token to
                put between them, or the rows have no room.
        """
        end_id = self.tokenizer.end_token_id
        special = [] if end_id is None else [end_id]
        if len(texts) > 1 and not special:
            raise ValueError(
                "tokenizer must have an end token to put between two texts, got none."
            )
        tokens = self.tokenizer.tokenize(tf.concat(texts, axis=0))  # one graph for all
        rows = tf.size(texts[0])
        segments = [
            tokens[index * rows : (index + 1) * rows] for index in range(len(texts))
        ]
        if special and not self.add_end_token:
            is_empty = sum(segment.row_lengths() for segment in segments) == 0
            last = tf.RaggedTensor.from_row_lengths(
                tf.fill([tf.reduce_sum(tf.cast(is_empty, tf.int32))], end_id),
                tf.cast(is_empty, tf.int64),
            )
            segments[-1] = tf.concat([segments[-1], last], axis=1)
        packed = pack_segments(
            segments,
            sequence_length=self._checked_length(len(texts)),
            start=special if self.add_start_token else [],
            separator=special,
            end=special if self.add_end_token else [],
            truncate=self.truncate,
        )
        if count:
            self.count_cut(tf.strings.join(texts, separator="\0"), packed.is_cut)
        return packed

    def _checked_length(self, num_texts: int) -> int:
        """Returns the length of the rows, which must hold a token of each text."""
        length = self.sequence_length
        if length is None:
            raise ValueError("sequence_length must be set outside of a task, got None.")
        special = num_texts - 1 + self.add_start_token + self.add_end_token
        if length < special + num_texts:
            raise ValueError(
                f"sequence_length must be at least {special + num_texts} for "
                f"{num_texts} texts and {special} special tokens, got {length}."
            )
        return length

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "sequence_length": self.sequence_length,
            "truncate": self.truncate,
            "add_start_token": self.add_start_token,
            "add_end_token": self.add_end_token,
        }


def as_texts(given: Any) -> tf.Tensor:
    """Returns strings (B,), or one, as a tensor.

    Raises:
        ValueError: if they are of another form.
    """
    texts = tf.convert_to_tensor(given, tf.string)
    if texts.shape.rank is not None and texts.shape.rank > 1:
        raise ValueError(f"texts must be strings (B,), got the shape {texts.shape}.")
    return texts


def unpadded_batch(function: Any, *texts: tf.Tensor) -> dict[str, tf.Tensor]:
    """Calls a function of batches, also for one row without a batch dimension."""
    if texts[0].shape.rank:
        return function(*texts)
    rows = function(*(text[None] for text in texts))
    return {name: tensor[0] for name, tensor in rows.items()}


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTTextClassifierPreprocessor(
    GPTTextPreprocessor, keras_nlp.models.TextClassifierPreprocessor
):
    """What `GPTTextClassifier` does to its inputs; arguments: `GPTTextPreprocessor`'s.

    Call arguments:
        x: strings (B,), or one string; or a tuple of two for pairs of texts, of which
            one with an empty second text is a text alone.
        y: labels, as they are. Optional.
        sample_weight: weights, as they are. Optional.

    Returns:
        x a dict of `token_ids` int32 and `padding_mask` bool (B, T), with y and
        sample_weight if given.
    """

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes; see the class."""
        texts = [as_texts(text) for text in (x if isinstance(x, tuple) else (x,))]
        if not 1 <= len(texts) <= 2:
            raise ValueError(f"x must be one text or a pair, got {len(texts)} texts.")
        rows = unpadded_batch(self.rows, *texts)
        return keras.utils.pack_x_y_sample_weight(rows, y, sample_weight)

    def rows(self, *texts: tf.Tensor, count: bool = True) -> dict[str, tf.Tensor]:
        """Returns the inputs of the model, of strings (B,); `count` as in `pack`."""

        def rows_of(*texts: tf.Tensor, count: bool = False) -> dict[str, tf.Tensor]:
            packed = self.pack(*texts, count=count)
            return {"token_ids": packed.token_ids, "padding_mask": packed.padding_mask}

        rows = rows_of(*texts, count=count)
        if len(texts) == 1:
            return rows
        is_single = texts[1] == ""

        def with_single() -> dict[str, tf.Tensor]:
            single = rows_of(texts[0])
            return {
                name: tf.where(is_single[:, None], single[name], rows[name])
                for name in rows
            }

        return tf.cond(tf.reduce_any(is_single), with_single, lambda: rows)
