"""What a text holds so far, and how it ends."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

OUTSIDE = -2  # stands for tokens before a text's beginning; -1 is padding


class History(NamedTuple):
    """The tokens of each row so far.

    Attributes:
        token_ids: int32 (B, S). The prompt and the new tokens, without a gap; after
            a row's end, anything.
        lengths: int32 (B,). Tokens of prompt and continuation.
        prompt_lengths: int32 (B,).
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    prompt_lengths: tf.Tensor

    @property
    def num_new_tokens(self) -> tf.Tensor:
        """int32 (B,). Tokens of the continuation."""
        return self.lengths - self.prompt_lengths

    def ends(self, width: tf.Tensor, *, in_new_text: bool = False) -> tf.Tensor:
        """Returns the last tokens of each text.

        Args:
            width: int32 scalar.
            in_new_text: bool. Whether to look only behind the prompt.

        Returns:
            int32 (B, width). `OUTSIDE` before the beginning.
        """
        places = self.lengths[:, None] - width + tf.range(width)
        tokens = tf.gather(self.token_ids, tf.maximum(places, 0), batch_dims=1)
        first = self.prompt_lengths[:, None] if in_new_text else 0
        return tf.where(places >= first, tokens, OUTSIDE)


def join(
    first: tf.Tensor,
    first_lengths: tf.Tensor,
    second: tf.Tensor,
    second_lengths: tf.Tensor,
    *,
    size: tf.Tensor,
) -> tf.Tensor:
    """Puts one row of tokens behind another, without a gap.

    Args:
        first: int32 (B, T1), right-padded.
        first_lengths: int32 (B,).
        second: int32 (B, T2), right-padded.
        second_lengths: int32 (B,) or scalar.
        size: int32 scalar (S).

    Returns:
        int32 (B, S). 0 behind both.
    """
    width = tf.shape(first)[1]
    both = tf.pad(tf.concat([first, second], axis=1), [[0, 0], [0, 1]])
    places = tf.range(size)[None, :]
    beyond = places - first_lengths[:, None]
    source = tf.where(beyond < 0, places, width + beyond)
    is_there = beyond < tf.reshape(second_lengths, [-1, 1])
    zero = tf.shape(both)[1] - 1
    return tf.gather(both, tf.where(is_there, source, zero), batch_dims=1)


def completed_by(
    history: History, sequences: tf.Tensor, *, in_new_text: bool = False
) -> tf.Tensor:
    """Tells which sequences a single further token may complete.

    Args:
        history: `History` of B rows.
        sequences: int32 (B', W, L), padded in front with -1.
        in_new_text: bool. Whether to look only behind the prompt.

    Returns:
        bool (B, W). Whether the text ends with all but the sequence's last token.
    """
    beginnings = sequences[:, :, :-1]
    ends = history.ends(tf.shape(beginnings)[2], in_new_text=in_new_text)
    return _match(beginnings, ends)


def completed_length(history: History, sequences: tf.Tensor) -> tf.Tensor:
    """Tells how long a sequence each new text ends with.

    Args:
        history: `History` of B rows.
        sequences: int32 (B', W, L), padded in front with -1.

    Returns:
        int32 (B,). Tokens of the longest of them; 0 for none.
    """
    ends = history.ends(tf.shape(sequences)[2], in_new_text=True)
    lengths = tf.reduce_sum(tf.cast(sequences >= 0, tf.int32), axis=-1)
    found = tf.where(_match(sequences, ends), lengths, 0)
    return tf.reduce_max(tf.pad(found, [[0, 0], [0, 1]]), axis=-1)


def _match(sequences: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Bool (B, W). Whether sequences (B', W, L) equal the tokens (B, L)."""
    return tf.reduce_all((sequences == -1) | (sequences == ends[:, None]), axis=-1)
