"""Strings to token ids and next-token targets, for causal language modelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.preprocessor import GPTPreprocessor
from keras_gpt.models.segments import first_tokens, last_tokens, same_tokens
from keras_gpt.models.text_preprocessor import as_texts
from keras_gpt.tokenizer import ChatTemplate, GPTTokenizer

# KerasHub finds the tokenizer of a preset by the backbone that it belongs to.
GPTTokenizer.backbone_cls = GPTBackbone


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTCausalLMPreprocessor(
    GPTPreprocessor, keras_nlp.models.CausalLMPreprocessor
):
    """Tokenizes strings, ends them with the end token, and packs them.

    What is too long is cut; `num_cut` counts.

    Args:
        tokenizer: `GPTTokenizer`.
        sequence_length: int. Length of the packed rows, in tokens. Defaults to
            1024.
        add_start_token: bool. Whether rows and prompts begin with the end-of-text
            token, as KerasHub's do. Defaults to False, as GPT-2 was trained.
        add_end_token: bool. Whether rows end with it. Defaults to True; without
            effect where the vocabulary has none.
        chat_template: `ChatTemplate`, its name or its `to_dict`, by which
            `GPTCausalLM.chat` and exported models put conversations together.
            Optional.

    Call arguments:
        x: what to train on, one of
            strings (B,), or one string;
            dict of `prompts` and `responses`, strings (B,): the loss is on the
            response and the end token alone. What is too long is cut at the
            beginning of the prompt, a response that fills the row at its end;
            dict of `role` and `content`, strings (B, M), conversations as in
            `ChatTemplate.transcript`: the loss is on the answers alone, with what
            ends them. What is too long is cut at its beginning.
        y: without effect.
        sample_weight: floats (B,), or one: what each text counts for. Optional.
        sequence_length: int. Another length of the rows. Optional.

    Returns:
        `(x, y, sample_weight)`: x a dict of `token_ids` int32 and `padding_mask`
        bool (B, T), y the next tokens int32 (B, T), sample_weight bool (B, T), true
        where the next token counts; with weights float32, the text's where it does.

    Raises:
        ValueError: if a dict has other keys, or conversations come without a
            `chat_template`.
    """

    backbone_cls = GPTBackbone
    tokenizer_cls = GPTTokenizer

    def __init__(
        self,
        tokenizer: GPTTokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = False,
        add_end_token: bool = True,
        chat_template: ChatTemplate | str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if sequence_length < 1:
            raise ValueError(
                f"sequence_length must be at least 1, got {sequence_length}."
            )
        # Eagerly, too, the tokenizer is a TensorFlow graph.
        kwargs.setdefault("_allow_python_workflow", False)
        super().__init__(
            tokenizer,
            sequence_length=sequence_length,
            add_start_token=add_start_token,
            add_end_token=add_end_token,
            **kwargs,
        )
        self.chat_template = ChatTemplate.of(chat_template)
        self.begin_to_count()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template.to_dict()
        return config

    def call(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """Tokenizes; see the class."""
        rows = self._rows(x, sequence_length)
        if sample_weight is None:
            return rows
        x, y, counts = rows
        weights = tf.cast(sample_weight, tf.float32)
        return x, y, tf.cast(counts, tf.float32) * weights[..., None]

    def _rows(self, x: Any, sequence_length: int | None) -> tuple[Any, ...]:
        length = sequence_length or self.sequence_length
        pack: Callable[..., tuple[Any, ...]] = self._texts
        rank = 1
        if not isinstance(x, dict):
            given = [as_texts(x)]
        elif set(x) == {"prompts", "responses"}:
            given = [as_texts(x["prompts"]), as_texts(x["responses"])]
            pack = self._pairs
        elif set(x) == {"role", "content"}:
            given = [_dense_strings(x["role"]), _dense_strings(x["content"])]
            pack, rank = self._transcripts, 2
        else:
            raise ValueError(
                "x must be strings, or a dict of prompts and responses, or of role "
                f"and content, got the keys {', '.join(map(str, x))}."
            )
        if given[0].shape.rank == rank:
            return pack(*given, length=length)
        rows = pack(*(part[None] for part in given), length=length)  # of one example
        return tf.nest.map_structure(lambda tensor: tensor[0], rows)

    def _texts(self, texts: tf.Tensor, *, length: int) -> tuple[Any, ...]:
        ids = self.tokenizer.tokenize(texts)
        start, end = self._ends()
        kept = tf.minimum(ids.row_lengths(), self._room(length))
        self.count_cut(texts, kept < ids.row_lengths())
        return _next_tokens(
            [
                (same_tokens(start, ids), False),
                (first_tokens(ids, kept), True),
                (same_tokens(end, ids), True),
            ],
            length,
        )

    def _room(self, length: int) -> int:
        """Returns how many tokens of a text a row holds, the last one's target too."""
        start, end = self._ends()
        return length + 1 - len(start) - len(end)

    def _pairs(
        self, prompts: tf.Tensor, responses: tf.Tensor, *, length: int
    ) -> tuple[Any, ...]:
        prompt, response = map(self.tokenizer.tokenize, (prompts, responses))
        start, end = self._ends()
        room = self._room(length)
        is_cut = prompt.row_lengths() + response.row_lengths() > room
        pairs = tf.strings.join((prompts, responses), separator="\0")
        self.count_cut(pairs, is_cut)
        response = first_tokens(response, tf.minimum(response.row_lengths(), room))
        left = room - response.row_lengths()
        prompt = last_tokens(prompt, tf.minimum(prompt.row_lengths(), left))
        return _next_tokens(
            [
                (same_tokens(start, response), False),
                (prompt, False),
                (response, True),
                (same_tokens(end, response), True),
            ],
            length,
        )

    def _transcripts(
        self, role: tf.Tensor, content: tf.Tensor, *, length: int
    ) -> tuple[Any, ...]:
        if self.chat_template is None:
            raise ValueError(
                "chat_template must be set to train on conversations, got None."
            )
        ids, is_answer = self.chat_template.transcript(
            self.tokenizer, role=role, content=content
        )
        start, end = self._ends()
        kept = tf.minimum(ids.row_lengths(), self._room(length))
        text = tf.strings.reduce_join(content, axis=1, separator="\0")
        self.count_cut(text, kept < ids.row_lengths())
        return _next_tokens(
            [
                (same_tokens(start, ids), False),
                (last_tokens(ids, kept), last_tokens(is_answer, kept)),
                (same_tokens(end, ids), True),
            ],
            length,
        )

    def _ends(self) -> tuple[list[int], list[int]]:
        """Returns the ids that a row begins and ends with."""
        end_id = self.tokenizer.end_token_id
        special = [] if end_id is None else [end_id]
        return (
            special if self.add_start_token else [],
            special if self.add_end_token else [],
        )

    def build(self, input_shape: Any) -> None:
        """Creates the packer, once the tokenizer has its files."""
        super().build(input_shape)
        self.packer._allow_python_workflow = False


def _next_tokens(
    columns: list[tuple[tf.RaggedTensor, tf.RaggedTensor | bool]], length: int
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Joins columns of tokens, each with whether it counts, into inputs and targets."""
    token_ids = tf.concat([ids for ids, _ in columns], axis=1)
    counts = tf.concat(
        [
            ids.with_flat_values(tf.fill(tf.shape(ids.flat_values), counts))
            if isinstance(counts, bool)
            else counts
            for ids, counts in columns
        ],
        axis=1,
    )
    mask = tf.sequence_mask(token_ids.row_lengths(), length + 1)
    dense = token_ids.to_tensor(shape=[None, length + 1])
    is_counted = counts.to_tensor(shape=[None, length + 1])
    x = {"token_ids": dense[:, :-1], "padding_mask": mask[:, :-1]}
    return x, dense[:, 1:], is_counted[:, 1:]


def _dense_strings(value: Any) -> tf.Tensor:
    """Returns (B, M) or (M,), "" where a row has fewer."""
    if isinstance(value, tf.RaggedTensor):
        return value.to_tensor("")
    if isinstance(value, tf.Tensor):
        return value
    value = tf.ragged.constant(value, tf.string)
    return value.to_tensor("") if isinstance(value, tf.RaggedTensor) else value
