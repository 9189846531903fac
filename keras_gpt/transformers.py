"""Code written for transformers' TensorFlow GPT-2, with one changed import.

    from keras_gpt.transformers import GPT2Tokenizer, TFGPT2LMHeadModel

in place of `from transformers import ...`, which has no TensorFlow models any more.
The classes take transformers' arguments, with its defaults and results; an argument
that they do not have is refused. New code is better served by `GPTCausalLM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.models import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.tokenizer import GPTTokenizer

# Defaults of transformers' GenerationConfig.
MAX_LENGTH = 20
TOP_K = 50
IGNORED_LABEL = -100


class Output(dict[str, Any]):
    """A result whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class GPT2Tokenizer:
    """A `GPTTokenizer` with transformers' interface.

    As there, special tokens in a text are read as such.

    Args:
        tokenizer: `GPTTokenizer`.
        model_max_length: int. Context of the model, in tokens.

    Attributes:
        pad_token: string or None. Set it, as to `eos_token`, to pad batches.
        padding_side: string. `"right"` or `"left"`.
    """

    def __init__(self, tokenizer: GPTTokenizer, *, model_max_length: int) -> None:
        self.tokenizer = tokenizer
        self.model_max_length = model_max_length
        self.eos_token_id = self.bos_token_id = tokenizer.end_token_id
        has_end = tokenizer.end_token_id is not None
        self.eos_token = self.bos_token = tokenizer.end_token if has_end else None
        self.pad_token: str | None = None
        self.padding_side = "right"

    @classmethod
    def from_pretrained(cls, name: Any) -> GPT2Tokenizer:
        """Loads a tokenizer; see `GPTBackbone.from_preset` for names and errors."""
        preprocessor = GPTCausalLMPreprocessor.from_preset(name)
        return cls(
            preprocessor.tokenizer, model_max_length=preprocessor.sequence_length
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids (V)."""
        return self.tokenizer.vocabulary_size()

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def pad_token_id(self) -> int | None:
        """Id of `pad_token`."""
        return None if self.pad_token is None else self._id(self.pad_token)

    def encode(
        self,
        text: str,
        *,
        return_tensors: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> Any:
        """Turns a text into ids.

        Args:
            text: string.
            return_tensors: string. `"tf"` for an int32 tensor (1, T), `"np"` for an
                array; by default a list of T ids.
            truncation: bool. Whether to keep the first `max_length` ids alone.
            max_length: int. Defaults to `model_max_length`.

        Raises:
            ValueError: if `return_tensors` is something else.
        """
        options: dict[str, Any] = {"truncation": truncation, "max_length": max_length}
        if return_tensors is None:
            return self(text, **options)["input_ids"]
        return self([text], return_tensors=return_tensors, **options)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        return_tensors: str | None = None,
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> Output:
        """Turns texts into `input_ids` and `attention_mask`.

        Args:
            text: string or list of strings.
            return_tensors: string. As in `encode`.
            padding: bool. Whether to fill rows with `pad_token` to equal length.
            truncation: bool. As in `encode`.
            max_length: int. As in `encode`.

        Raises:
            ValueError: if an argument is out of range, or padding is needed and
                `pad_token` not set.
        """
        texts = [text] if isinstance(text, str) else list(text)
        rows = self.tokenizer.tokenize(texts, parse_special=True).to_list()
        if truncation:
            limit = self.model_max_length if max_length is None else max_length
            rows = [row[:limit] for row in rows]
        masks = [[1] * len(row) for row in rows]
        width = max(map(len, rows), default=0)
        if padding:
            rows, masks = self._padded(rows, masks, width)
        elif return_tensors and any(len(row) != width for row in rows):
            raise ValueError(
                "padding must be True for a tensor of texts of several lengths, "
                "got False."
            )
        if isinstance(text, str) and return_tensors is None:
            return Output(input_ids=rows[0], attention_mask=masks[0])
        return Output(
            input_ids=_in_form(rows, return_tensors),
            attention_mask=_in_form(masks, return_tensors),
        )

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Turns ids (T,) into a text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: if an id is out of range, or the clean-up is asked for.
        """
        if clean_up_tokenization_spaces:
            raise ValueError(
                "clean_up_tokenization_spaces must be False, as for GPT-2, got True."
            )
        ids = np.asarray(token_ids).reshape(-1)
        if skip_special_tokens:
            ids = ids[~np.isin(ids, self.tokenizer.special_token_ids)]
        text = self.tokenizer.detokenize(ids.astype(np.int32)).numpy()
        return text.decode("utf-8", errors="replace")

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Turns rows of ids into texts; the options are those of `decode`."""
        return [self.decode(row, **options) for row in sequences]

    def _padded(
        self, rows: list[list[int]], masks: list[list[int]], width: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        if self.pad_token_id is None:
            raise ValueError(
                "pad_token must be set to pad, such as tokenizer.pad_token = "
                "tokenizer.eos_token, got None."
            )
        if self.padding_side not in ("left", "right"):
            raise ValueError(
                f"padding_side must be 'left' or 'right', got {self.padding_side!r}."
            )

        def fill(row: list[int], value: int) -> list[int]:
            padding = [value] * (width - len(row))
            return row + padding if self.padding_side == "right" else padding + row

        pad_id = self.pad_token_id
        return [fill(row, pad_id) for row in rows], [fill(mask, 0) for mask in masks]

    def _id(self, token: str) -> int:
        return self.tokenizer.token_to_id(token)


class TFGPT2LMHeadModel:
    """A `GPTBackbone` with transformers' interface.

    Args:
        backbone: `GPTBackbone`.
        eos_token_id: int or None. Default of `generate`.

    Attributes:
        backbone: as given.
    """

    def __init__(
        self, backbone: GPTBackbone, *, eos_token_id: int | None = None
    ) -> None:
        self.backbone = backbone
        self._lm = GPTCausalLM(backbone)
        self._eos_token_id = eos_token_id

    @classmethod
    def from_pretrained(cls, name: Any) -> TFGPT2LMHeadModel:
        """Loads a model; see `GPTBackbone.from_preset` for names and errors."""
        lm = GPTCausalLM.from_preset(name)
        tokenizer = lm.preprocessor and lm.preprocessor.tokenizer
        return cls(lm.backbone, eos_token_id=tokenizer and tokenizer.end_token_id)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        training: bool = False,
    ) -> Output:
        """Computes logits, and the loss where labels are given.

        Args:
            input_ids: int (B, T). Padded rows are padded on the right.
            attention_mask: int (B, T). 1 at real tokens. Optional.
            labels: int (B, T). As `input_ids`; -100 counts for nothing. Optional.
            training: bool. Whether dropout is active.

        Returns:
            `logits` float32 (B, T, V) and, with labels, `loss`: the mean next-token
            cross-entropy.
        """
        ids = tf.convert_to_tensor(input_ids, tf.int32)
        hidden = self.backbone.forward(ids, attention_mask, training=training).hidden
        logits = self.backbone.logits(hidden)
        if labels is None:
            return Output(logits=logits)
        targets = tf.convert_to_tensor(labels, tf.int32)[:, 1:]
        counted = targets != IGNORED_LABEL
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.where(counted, targets, 0), logits[:, :-1]
        )
        loss = tf.reduce_mean(tf.boolean_mask(losses, counted))
        return Output(loss=loss, logits=logits)

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = TOP_K,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        num_return_sequences: int = 1,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        min_new_tokens: int = 0,
        bad_words_ids: Sequence[Sequence[int]] | None = None,
        suppress_tokens: Sequence[int] | None = None,
        begin_suppress_tokens: Sequence[int] | None = None,
        penalty_alpha: float | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        seed: int | None = None,
    ) -> tf.Tensor:
        """Continues prompts, by greedy search unless told otherwise.

        Args:
            input_ids: int (B, T).
            attention_mask: int (B, T). 1 at real tokens; needed where rows are
                padded, on either side.
            max_length: int. Prompt and new tokens together. Defaults to 20.
            max_new_tokens: int. In place of `max_length`.
            do_sample: bool. Whether to draw.
            temperature: float. Divides the logits of a draw.
            top_k: int. Likeliest tokens to draw from; 0 for all.
            top_p: float. Share of probability to draw from.
            num_beams: int. Above 1, beam search.
            length_penalty: float. As in `GPTCausalLM.generate`.
            early_stopping: bool or string. As in `GPTCausalLM.generate`.
            num_return_sequences: int. Results for each prompt: best beams, or
                independent draws.
            repetition_penalty: float. As in `keras_gpt.GenerationOptions`, like those
                that follow.
            no_repeat_ngram_size: int.
            min_new_tokens: int.
            bad_words_ids: lists of ids that never come in a row.
            suppress_tokens: ids.
            begin_suppress_tokens: ids.
            penalty_alpha: float. Above 0, contrastive search among `top_k` tokens.
            eos_token_id: int. Ends a text. Defaults to the tokenizer's.
            pad_token_id: int. Fills rows. Defaults to `eos_token_id`, or 0.
            seed: int. Of the draws; not in transformers. Defaults to a fresh one.

        Returns:
            int32 (B * num_return_sequences, T + N): each prompt as it came, its new
            tokens with the end token, and padding.

        Raises:
            ValueError: if an argument is out of range, or arguments do not go
                together.
        """
        ids, mask = _checked_inputs(input_ids, attention_mask)
        end_id = self._eos_token_id if eos_token_id is None else eos_token_id
        if max_new_tokens is None:
            max_new_tokens = (max_length or MAX_LENGTH) - ids.shape[1]
        if max_new_tokens < 1:
            raise ValueError(
                f"max_length must be above the prompts' {ids.shape[1]} tokens, "
                f"got {max_new_tokens + ids.shape[1]}."
            )
        method: dict[str, Any] = {"temperature": 0.0}
        if num_beams > 1:
            _check_method(do_sample, "do_sample must be False for num_beams above 1.")
            method = {
                "num_beams": num_beams,
                "length_penalty": length_penalty,
                "early_stopping": early_stopping,
            }
        elif penalty_alpha and top_k > 1 and not do_sample:
            method = {"penalty_alpha": penalty_alpha, "top_k": top_k}
        elif do_sample:
            method = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
            method["seed"] = seed
        _check_method(
            num_return_sequences > 1 and not do_sample and num_beams == 1,
            "num_return_sequences must be 1, unless num_beams is above 1 or do_sample "
            f"True, got {num_return_sequences}.",
        )
        new = self._lm.generate(
            _right_padded(ids, mask),
            max_new_tokens=max_new_tokens,
            max_length=self.backbone.config.max_sequence_length,
            stop_token_ids=None if end_id is None else [end_id],
            strip_prompt=True,
            num_return_sequences=num_return_sequences,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            min_new_tokens=min_new_tokens,
            bad_words=bad_words_ids,
            suppress_tokens=suppress_tokens,
            begin_suppress_tokens=begin_suppress_tokens,
            **method,
        )
        copies = len(new["token_ids"]) // len(ids)
        ids, mask = (np.repeat(each, copies, axis=0) for each in (ids, mask))
        room = self.backbone.config.max_sequence_length - mask.sum(axis=1)
        pad_id = (end_id or 0) if pad_token_id is None else pad_token_id
        rows = _with_end(
            new, limits=np.minimum(room, max_new_tokens), end_id=end_id, pad_id=pad_id
        )
        return tf.constant(np.concatenate([ids, rows], axis=1), tf.int32)


def _check_method(is_wrong: bool, message: str) -> None:
    if is_wrong:
        raise ValueError(message)


def _with_end(
    new: dict[str, np.ndarray], *, limits: np.ndarray, end_id: int | None, pad_id: int
) -> np.ndarray:
    """Returns the new tokens with the end token, padded: int32 (B, N)."""
    rows = []
    for row, is_real, limit in zip(
        new["token_ids"], new["padding_mask"], limits, strict=True
    ):
        tokens = row[is_real].tolist()
        # A row that ended early met the end token, which is left out there.
        rows.append(tokens + [end_id] * int(len(tokens) < limit))
    width = max(map(len, rows))
    return np.array([row + [pad_id] * (width - len(row)) for row in rows], np.int32)


def _checked_inputs(
    input_ids: Any, attention_mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    ids = np.asarray(input_ids, np.int32)
    mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
    if ids.ndim != 2 or ids.shape != mask.shape:
        raise ValueError(
            "input_ids and attention_mask must be of one shape (B, T), got "
            f"{ids.shape} and {mask.shape}."
        )
    return ids, mask.astype(bool)


def _right_padded(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Moves the real tokens of each row to its beginning, in order."""
    order = np.argsort(~mask, axis=1, kind="stable")
    return {
        "token_ids": np.take_along_axis(ids, order, axis=1),
        "padding_mask": np.take_along_axis(mask, order, axis=1),
    }


def _in_form(rows: list[list[int]], return_tensors: str | None) -> Any:
    if return_tensors is None:
        return rows
    if return_tensors == "tf":
        return tf.constant(rows, tf.int32)
    if return_tensors == "np":
        return np.array(rows)
    raise ValueError(
        f"return_tensors must be 'tf', 'np' or None, got {return_tensors!r}."
    )


AutoTokenizer = GPT2Tokenizer
TFAutoModelForCausalLM = TFGPT2LMHeadModel
