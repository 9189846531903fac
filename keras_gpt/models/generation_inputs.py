"""What `GPTCausalLM` is given to continue: strings, ids, conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_runner import PromptPrefix, check_utf8
from keras_gpt.tokenizer.chat_template import ChatTemplate


def string_batches(inputs: Any) -> tuple[Iterable[tf.Tensor], bool]:
    """Returns prompts as batches of string vectors, and whether it was one string."""
    if isinstance(inputs, tf.data.Dataset):
        return (tf.reshape(batch, [-1]) for batch in inputs), False
    prompts = tf.convert_to_tensor(inputs, tf.string)
    if prompts.shape.rank == 0:
        return [prompts[None]], True
    if prompts.shape.rank != 1:
        raise ValueError(
            f"inputs must be a string or a vector of strings, got {prompts.shape}."
        )
    return [prompts], False


def unpadded(
    batch: dict[str, Any], options: GenerationOptions, *, vocabulary_size: int
) -> list[np.ndarray]:
    """Returns the real ids of each row."""
    ids = np.asarray(batch["token_ids"], np.int32)
    mask = np.asarray(batch["padding_mask"], bool)
    lengths = mask.sum(axis=-1)
    least = 1 if options.prefix is None else 0
    if ids.ndim != 2 or np.min(lengths, initial=least) < least:
        raise ValueError(
            "token_ids must be (B, T) with at least one real token in each row, "
            f"got shape {ids.shape} and row lengths {lengths.tolist()}."
        )
    if mask.shape != ids.shape or np.any(
        mask != (np.arange(ids.shape[1]) < lengths[:, None])
    ):
        raise ValueError(
            "padding_mask must be of the shape of token_ids, true at the real tokens, "
            "which come first in their row."
        )
    wrong = ids[mask & ((ids < 0) | (ids >= vocabulary_size))]
    if wrong.size:
        raise ValueError(
            f"token_ids must be in [0, {vocabulary_size}), got {wrong[0]}."
        )
    return [row[:length] for row, length in zip(ids, lengths, strict=True)]


def with_prefixes(prompts: list[bytes], prefix: PromptPrefix | None) -> list[bytes]:
    """Returns prompts behind the texts of their prefixes."""
    if prefix is None or prefix.texts is None:
        return prompts
    before = prefix.texts * len(prompts) if prefix.is_single else prefix.texts
    return [first + text for first, text in zip(before, prompts, strict=True)]


def conversations(
    messages: Any, template: ChatTemplate
) -> tuple[list[Sequence[Mapping[str, str]]], bool]:
    """Returns conversations as a list, and whether it was a single one.

    Raises:
        ValueError: if what is given are no messages of the template's roles.
    """
    rows = list(messages)
    is_single = bool(rows) and isinstance(rows[0], Mapping)
    rows = [rows] if is_single else rows
    for row in rows:
        for message in row:
            is_message = isinstance(message, Mapping)
            if not is_message or set(message) != {"role", "content"}:
                raise ValueError(
                    "a message must be a dict of role and content, "
                    f"got {message!r:.200}."
                )
            if message["role"] not in list(template.roles):
                raise ValueError(
                    f"role must be of {', '.join(template.roles)}, "
                    f"got {message['role']!r}."
                )
            _check_content(message["content"], len(rows))
    return rows, is_single


def _check_content(content: Any, rows: int) -> None:
    if not isinstance(content, str | bytes):
        raise ValueError(f"content must be a string, got {content!r:.80}.")
    try:
        check_utf8(tf.compat.as_bytes(content), rows)
    except UnicodeEncodeError:  # of a lone surrogate
        raise ValueError(
            f"content must be a text that UTF-8 can write, got {content!r:.80}."
        ) from None


def message_table(rows: Sequence[Sequence[Mapping[str, str]]], field: str) -> tf.Tensor:
    """Returns a field of messages, string (B, M), "" where there is none."""
    width = max(map(len, rows), default=0)
    table = [
        [message[field] for message in row] + [""] * (width - len(row)) for row in rows
    ]
    return tf.constant(table, tf.string, shape=[len(rows), width])
