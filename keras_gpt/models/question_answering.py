"""GPT as a reader that answers questions by spans of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.layers.dropout import Dropout
from keras_gpt.losses import mean_cross_entropy
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.fit_checks import CutTexts, plain_errors
from keras_gpt.models.fit_data import examples
from keras_gpt.models.parts import linear_head
from keras_gpt.models.question_windows import (
    CharacterCounts,
    Spans,
    Windows,
    answer_tokens,
    best_spans,
    make_windows,
    span_texts,
)
from keras_gpt.models.task import GPTTask
from keras_gpt.models.text_preprocessor import GPTTextPreprocessor, as_texts
from keras_gpt.tokenizer import GPTTokenizer

MASKED_LOGIT = -1e9
QUESTIONS_AT_A_TIME = 64  # that are cut into windows


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        text: string, "" for no answer.
        start: int. First character (code point) of it in the context; 0 for none.
        end: int. The character after its last; 0 for none.
        score: float. By how much the logits of the best span, of its start and its
            end, exceed those of no answer.
    """

    text: str
    start: int
    end: int
    score: float


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTQuestionAnsweringPreprocessor(GPTTextPreprocessor):
    """What `GPTQuestionAnswering` does to its inputs.

    A context that is too long for a row is read in windows that overlap; each is
    `question, end token, part of the context, end token`. The last token stands for
    no answer in this window.

    Args:
        tokenizer: `GPTTokenizer`, byte-level with all 256 bytes and an end token.
        sequence_length: int (T). Length of the rows, in tokens. Defaults to None: the
            task sets it to its context.
        stride: int, positive. Tokens from the beginning of a window to that of the
            next. Defaults to 128.
        question_length: int. Most tokens of a question, which is cut at its end; at
            most half a row. Defaults to 64.
        answer_length: int. Most tokens of an answer that is found. Defaults to 30.

    Call arguments:
        x: dict of `question` and `context`, strings (B,).
        y: dict of `answer_start`, int (B,), the first character (code point) of the
            answer in its context, and `answer_text`, strings (B,), "" for no answer.
            Optional.
        sample_weight: (B,), of the questions. Optional.

    Returns:
        Of W windows, x a dict of `token_ids` int32 and `padding_mask` bool (W, T);
        with y a dict of `start` and `end`, int32 (W,), the first and last token of the
        answer, or twice the last token of a window that does not hold it whole.

    Raises:
        ValueError: if an argument is out of its range.
        tf.errors.InvalidArgumentError: if an answer is not in its context at its
            place.
    """

    cut_by = "question_length"  # contexts are read whole

    def __init__(
        self,
        tokenizer: GPTTokenizer,
        sequence_length: int | None = None,
        stride: int = 128,
        question_length: int = 64,
        answer_length: int = 30,
        **kwargs: Any,
    ) -> None:
        for name in ("truncate", "add_start_token", "add_end_token"):
            kwargs.pop(name, None)  # these rows have one form
        super().__init__(tokenizer, sequence_length, **kwargs)
        sizes = {
            "stride": stride,
            "question_length": question_length,
            "answer_length": answer_length,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
            setattr(self, name, value)
        self._characters: CharacterCounts | None = None

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes; see the class."""
        _check_keys(x, ("question", "context"), "x")
        question, context = as_texts(x["question"]), as_texts(x["context"])
        windows = self.windows(question, context)
        rows = {"token_ids": windows.token_ids, "padding_mask": windows.padding_mask}
        if y is None:
            return keras.utils.pack_x_y_sample_weight(rows)
        _check_keys(y, ("answer_start", "answer_text"), "y")
        start = tf.cast(y["answer_start"], tf.int32)
        text = as_texts(y["answer_text"])
        start = tf.where(text == "", 0, start)  # there is none
        end = start + tf.strings.length(text, unit="UTF8_CHAR")
        with tf.control_dependencies([_check_answers(context, start, text)]):
            first, last = answer_tokens(windows, start=start, end=end)
        if sample_weight is not None:
            sample_weight = tf.gather(sample_weight, windows.owner)
        return keras.utils.pack_x_y_sample_weight(
            rows, {"start": first, "end": last}, sample_weight
        )

    def windows(
        self, question: tf.Tensor, context: tf.Tensor, *, count: bool = True
    ) -> Windows:
        """Returns the windows of questions and contexts, strings (B,).

        Args:
            question: what to answer.
            context: what to answer it from.
            count: bool. Whether questions that are cut are counted, which needs a
                table. Defaults to True.
        """
        end_id = self.tokenizer.end_token_id
        if end_id is None:
            raise ValueError("tokenizer must have an end token, got none.")
        length = self._checked_length(2)
        if self._characters is None:
            with tf.init_scope():
                self._characters = CharacterCounts(self.tokenizer)
        question_length = min(self.question_length, (length - 2) // 2)
        asked = self.tokenizer.tokenize(question)
        if count:
            self.count_cut(question, asked.row_lengths() > question_length)
        return make_windows(
            asked,
            self.tokenizer.tokenize(context),
            characters=self._characters,
            sequence_length=length,
            stride=self.stride,
            question_length=question_length,
            end_id=end_id,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        for name in ("truncate", "add_start_token", "add_end_token"):
            del config[name]
        names = ("stride", "question_length", "answer_length")
        return {**config, **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTQuestionAnswering(GPTTask, keras_nlp.models.Task):
    """Finds the answer to a question in a context, or that there is none.

    A linear layer gives each token two logits, of being the first and the last of the
    answer (Devlin et al. 2019, section 4.2). The question stands before the context,
    for tokens see only what is before them.

    Args:
        backbone: `GPTBackbone`.
        preprocessor: `GPTQuestionAnsweringPreprocessor`, or None to work on ids.
        null_threshold: float. There is an answer where its score is above this.
            `-inf` always gives one. Defaults to 0.
        head_dropout: float. Rate before the linear layer, in training. Defaults to 0.

    Example:
        >>> reader = GPTQuestionAnswering.from_preset("path/to/preset")
        >>> reader.fit(
        ...     {"question": ["Who?"], "context": ["Ada wrote it."]},
        ...     {"answer_start": [0], "answer_text": ["Ada"]},
        ... )
        >>> reader.answer("Who?", "Grace wrote it.").text
    """

    preprocessor_cls = GPTQuestionAnsweringPreprocessor
    head_kind = "question_answering"

    def __init__(
        self,
        backbone: GPTBackbone,
        preprocessor: Any = None,
        *,
        null_threshold: float = 0.0,
        head_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.null_threshold = null_threshold
        self.head_dropout = head_dropout

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.dropout = Dropout(head_dropout, dtype="float32", name="head_dropout")
        self.head = linear_head(backbone, 2)

        # === Model ===
        inputs = self.symbolic_inputs()
        outputs = self.outputs_of(self.hidden_of(inputs), inputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `start` and `end`, float32 logits (B, T); padding has -1e9."""
        logits = self.head(self.dropout(hidden, training=training))
        mask = keras.ops.cast(inputs["padding_mask"], "bool")
        return {
            name: keras.ops.where(mask, logits[..., index], MASKED_LOGIT)
            for index, name in enumerate(("start", "end"))
        }

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", **kwargs: Any
    ) -> None:
        """Configures training; see `GPTTask.compile`.

        The loss is by default the mean of the cross-entropies of start and end.
        """
        if loss == "auto":
            kwargs.setdefault("loss_weights", {"start": 0.5, "end": 0.5})
        super().compile(optimizer, loss, **kwargs)

    def _default_loss(self) -> dict[str, keras.losses.Loss]:
        return {name: mean_cross_entropy() for name in ("start", "end")}

    def _default_metrics(self) -> dict[str, Any]:
        return {
            "metrics": {
                name: [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
                for name in ("start", "end")
            }
        }

    def training_examples(self, x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
        """Returns the windows of questions, one after the other."""
        if isinstance(x, Mapping) and "token_ids" in x:
            return super().training_examples(x, y, sample_weight)
        questions = examples(x, y, sample_weight).batch(QUESTIONS_AT_A_TIME)
        with plain_errors():
            windows = questions.map(self.preprocess_samples, tf.data.AUTOTUNE).unbatch()
            # Keras wants to know how many there are.
            count = windows.reduce(np.int64(0), lambda count, *_: count + 1)
        return windows.apply(tf.data.experimental.assert_cardinality(count))

    def preprocess_samples(
        self, x: Any, y: Any = None, sample_weight: Any = None
    ) -> Any:
        """Makes windows of questions and contexts; windows are left as they are."""
        if isinstance(x, Mapping) and "token_ids" in x:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return super().preprocess_samples(x, y, sample_weight)

    def answer(self, question: Any, context: Any, batch_size: int = 32) -> Any:
        """Answers questions.

        Args:
            question: string, or strings (B,).
            context: string, or strings (B,), one for each question.
            batch_size: int. Windows at a time. Defaults to 32.

        Returns:
            `Answer`, or a list of them.

        Raises:
            ValueError: if there is no preprocessor.
        """
        if self.preprocessor is None:
            raise ValueError("preprocessor must be set to answer, got None.")
        texts = (as_texts(question), as_texts(context))
        if texts[0].shape != texts[1].shape:
            raise ValueError(
                "question and context must be a text each, or as many, got the shapes "
                f"{texts[0].shape} and {texts[1].shape}."
            )
        cut_questions = CutTexts(self.preprocessor)
        is_one = not texts[0].shape.rank
        if is_one:
            texts = (texts[0][None], texts[1][None])
        answers: list[Answer] = []
        for part in tf.data.Dataset.from_tensor_slices(texts).batch(
            QUESTIONS_AT_A_TIME
        ):
            windows = self.preprocessor.windows(*part)
            rows = {
                "token_ids": windows.token_ids,
                "padding_mask": windows.padding_mask,
            }
            logits = self.predict(rows, batch_size=batch_size, verbose=0)
            spans = self.spans(logits, windows, num_questions=tf.size(part[0]))
            answers += _answers(part[1], spans)
        cut_questions.warn()
        return answers[0] if is_one else answers

    def spans(
        self,
        logits: dict[str, tf.Tensor],
        windows: Windows,
        *,
        num_questions: tf.Tensor,
    ) -> Spans:
        """Returns the best spans, empty where there is no answer, in graph code."""
        spans = best_spans(
            tf.convert_to_tensor(logits["start"]),
            tf.convert_to_tensor(logits["end"]),
            windows=windows,
            num_questions=num_questions,
            answer_length=self.preprocessor.answer_length,
        )
        is_answer = spans.score > self.null_threshold
        return Spans(
            tf.where(is_answer, spans.start, 0),
            tf.where(is_answer, spans.end, 0),
            spans.score,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "null_threshold": self.null_threshold,
            "head_dropout": self.head_dropout,
        }


def _answers(context: tf.Tensor, spans: Spans) -> list[Answer]:
    texts, start, end = span_texts(context, spans.start, spans.end)
    columns = (texts, start, end, spans.score)
    return [
        Answer(text.decode(), int(first), int(after), float(score))
        for text, first, after, score in zip(
            *(column.numpy() for column in columns), strict=True
        )
    ]


def _check_keys(given: Any, names: tuple[str, ...], argument: str) -> None:
    if not isinstance(given, dict) or set(given) != set(names):
        found = ", ".join(map(str, given)) if isinstance(given, dict) else type(given)
        raise ValueError(
            f"{argument} must be a dict of {' and '.join(names)}, got {found}."
        )


def _check_answers(context: tf.Tensor, start: tf.Tensor, text: tf.Tensor) -> Any:
    """Returns a check that answers are in their contexts."""
    length = tf.strings.length(text, unit="UTF8_CHAR")
    fits = (start >= 0) & (
        start + length <= tf.strings.length(context, unit="UTF8_CHAR")
    )
    found = tf.strings.substr(
        context, tf.where(fits, start, 0), tf.where(fits, length, 0), unit="UTF8_CHAR"
    )
    is_right = fits & (found == text)
    rule = "answer_text must be in its context at answer_start, got"
    wrong = tf.boolean_mask(text, ~is_right)
    return tf.debugging.Assert(tf.reduce_all(is_right), [rule, wrong[:1]])
