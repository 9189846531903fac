"""Questions with windows of their contexts, and answers from them, in graph code.

Axes: B questions, W windows, T tokens of a window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.models.segments import first_tokens, same_tokens
from keras_gpt.tokenizer import GPTTokenizer

NO_CHARACTER = -1
# Unicode's property of that name, in RE2's syntax.
WHITE_SPACE = r"[\s\v\x{85}\pZ]"


class Windows(NamedTuple):
    """Windows of the contexts of questions, in order of the questions.

    Attributes:
        token_ids: int32 (W, T): question, end token, a part of the context, end token.
        padding_mask: bool (W, T), true at tokens, which come first.
        owner: int32 (W,). Number of each window's question.
        first: int32 (W, T). Number, in the context, of the first character (code
            point) of each token, of those that the window holds whole; -1 where there
            is none.
        last: int32 (W, T). Likewise of its last character.
    """

    token_ids: tf.Tensor
    padding_mask: tf.Tensor
    owner: tf.Tensor
    first: tf.Tensor
    last: tf.Tensor

    @property
    def no_answer(self) -> tf.Tensor:
        """Int32 (W,), the last token: where both ends of no answer are.

        Under the causal mask it alone has seen the whole window.
        """
        return tf.reduce_sum(tf.cast(self.padding_mask, tf.int32), axis=1) - 1


class Spans(NamedTuple):
    """The best answers to questions.

    Attributes:
        start: int32 (B,). First character of the answer in the context.
        end: int32 (B,). The character after its last.
        score: float32 (B,). By how much the logits of the best answer, start and end,
            exceed those of no answer.
    """

    start: tf.Tensor
    end: tf.Tensor
    score: tf.Tensor


class CharacterCounts:
    """Which characters the tokens of a byte-level vocabulary begin.

    Args:
        tokenizer: `GPTTokenizer`.

    Raises:
        ValueError: if its tokens do not spell the bytes of every text.
    """

    def __init__(self, tokenizer: GPTTokenizer) -> None:
        if not tokenizer.spells_every_byte:
            raise ValueError(
                "tokenizer must be byte-level with all 256 bytes, so that answers have "
                f"places in the text, got {type(tokenizer).__name__}."
            )
        texts = tokenizer.token_text.numpy().tolist()
        begins = [[byte & 0xC0 != 0x80 for byte in text] for text in texts]
        self._begun = np.array([sum(flags) for flags in begins], np.int32)
        self._inside = np.array([bool(f) and not f[0] for f in begins], np.int32)

    def places(self, ids: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Returns the first and the last character of each token of texts.

        Args:
            ids: int32 (B, ragged).

        Returns:
            int32 (B, ragged), twice. Tokens that share a character both have it.
        """
        begun = tf.gather(tf.constant(self._begun), ids.flat_values)
        inside = tf.gather(tf.constant(self._inside), ids.flat_values)
        total = tf.cumsum(begun)
        starts = tf.gather(tf.concat([[0], total], axis=0), ids.row_starts())
        total -= tf.repeat(starts, ids.row_lengths())
        return (
            ids.with_flat_values(total - begun - inside),
            ids.with_flat_values(total - 1),
        )


def make_windows(
    question: tf.RaggedTensor,
    context: tf.RaggedTensor,
    *,
    characters: CharacterCounts,
    sequence_length: int,
    stride: int,
    question_length: int,
    end_id: int,
) -> Windows:
    """Lays windows over contexts, each with its question.

    Args:
        question: int32 (B, ragged). Cut at its end to `question_length`.
        context: int32 (B, ragged).
        characters: `CharacterCounts` of the tokenizer.
        sequence_length: int (T), more than `question_length` and two.
        stride: int, positive. Tokens from the beginning of a window to that of the
            next, at most as many as a window holds.
        question_length: int. Most tokens of a question.
        end_id: int, between the parts and at the end.
    """
    kept = tf.minimum(question.row_lengths(), question_length)
    question = first_tokens(question, kept)
    room = sequence_length - 2 - kept
    steps = tf.minimum(tf.constant(stride, tf.int64), room)
    lengths = context.row_lengths()
    numbers = 1 + (tf.maximum(lengths - room, 0) + steps - 1) // steps
    owner = tf.repeat(tf.range(tf.size(numbers)), numbers)
    begin = tf.ragged.range(numbers).flat_values * tf.gather(steps, owner)
    end = tf.minimum(begin + tf.gather(room, owner), tf.gather(lengths, owner))
    places = tf.ragged.range(begin, end)
    flat = places.flat_values + tf.repeat(
        tf.gather(context.row_starts(), owner), places.row_lengths()
    )
    question = tf.gather(question, owner)
    ends = same_tokens([end_id], question)

    def joined(
        values: tf.Tensor, around: tf.RaggedTensor, ends: tf.RaggedTensor
    ) -> tf.RaggedTensor:
        window = places.with_flat_values(tf.gather(values, flat))
        return tf.concat([around, ends, window, ends], axis=1)

    ids = joined(context.flat_values, question, ends)
    none = tf.ones_like(question) * NO_CHARACTER, tf.ones_like(ends) * NO_CHARACTER
    firsts, lasts = (part.flat_values for part in characters.places(context))
    first, last = (
        joined(part, *none).to_tensor(NO_CHARACTER, shape=[None, sequence_length])
        for part in (firsts, lasts)
    )
    # Of a character that an edge cuts, some tokens are outside.
    starts = tf.gather(context.row_starts(), owner)
    before = tf.gather(tf.concat([[NO_CHARACTER], lasts], axis=0), starts + begin)
    after = tf.gather(tf.concat([firsts, [NO_CHARACTER]], axis=0), starts + end)
    lowest = tf.where(begin > 0, before + 1, 0)[:, None]
    is_end = end == tf.gather(lengths, owner)
    highest = tf.where(is_end, tf.int32.max, after - 1)[:, None]
    is_held = (first != NO_CHARACTER) & (last >= lowest) & (first <= highest)
    return Windows(
        ids.to_tensor(shape=[None, sequence_length]),
        tf.sequence_mask(ids.row_lengths(), sequence_length),
        owner,
        tf.where(is_held, tf.maximum(first, lowest), NO_CHARACTER),
        tf.where(is_held, tf.minimum(last, highest), NO_CHARACTER),
    )


def answer_tokens(
    windows: Windows, *, start: tf.Tensor, end: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first and last token of the answer in each window, int32 (W,).

    Both are that of no answer where the window does not hold the whole answer.

    Args:
        windows: `Windows`.
        start: int32 (B,). First character of the answer.
        end: int32 (B,). The character after its last; equal to `start` for no answer.
    """
    start, end = (tf.gather(place, windows.owner)[:, None] for place in (start, end))
    is_there = windows.first != NO_CHARACTER
    places = tf.range(tf.shape(windows.first)[1])[None]
    none, most = windows.no_answer, tf.shape(windows.first)[1]
    begins = is_there & (windows.first <= start) & (windows.last >= start)
    finishes = is_there & (windows.first <= end - 1) & (windows.last >= end - 1)
    first = tf.reduce_min(tf.where(begins, places, most), axis=1)
    last = tf.reduce_max(tf.where(finishes, places, -1), axis=1)
    is_whole = (first < most) & (last >= 0) & (end[:, 0] > start[:, 0])
    return tf.where(is_whole, first, none), tf.where(is_whole, last, none)


def best_spans(
    start_logits: tf.Tensor,
    end_logits: tf.Tensor,
    *,
    windows: Windows,
    num_questions: tf.Tensor,
    answer_length: int,
) -> Spans:
    """Finds the best answer of each question over all its windows.

    The best sum of the logits of a start and an end token, as for SQuAD (Devlin et al.
    2019, sections 4.2 and 4.3); equal sums go to the earlier.

    Args:
        start_logits: float32 (W, T).
        end_logits: float32 (W, T).
        windows: `Windows`.
        num_questions: int32 scalar (B).
        answer_length: int. Most tokens of an answer.
    """
    is_there = windows.first != NO_CHARACTER
    lowest = start_logits.dtype.min
    # (W, T, answer_length): the end so many tokens after the start.
    length = tf.shape(start_logits)[1]
    ends = tf.range(length)[:, None] + tf.range(answer_length)[None]
    possible = is_there[:, :, None] & tf.gather(
        tf.pad(is_there, [[0, 0], [0, answer_length]]), ends, axis=1
    )
    later = tf.gather(tf.pad(end_logits, [[0, 0], [0, answer_length]]), ends, axis=1)
    sums = tf.where(possible, start_logits[:, :, None] + later, lowest)
    flat = tf.reshape(sums, [-1, length * answer_length])
    best = tf.argmax(flat, axis=1, output_type=tf.int32)
    value = tf.gather(flat, best, batch_dims=1)
    first = best // answer_length
    last = first + best % answer_length

    owner = windows.owner
    highest = tf.math.unsorted_segment_max(value, owner, num_questions)
    count = tf.size(owner)
    is_best = value == tf.gather(highest, owner)
    chosen = tf.math.unsorted_segment_min(
        tf.where(is_best, tf.range(count), count), owner, num_questions
    )
    none = windows.no_answer
    of_none = tf.gather(start_logits, none, batch_dims=1)
    of_none += tf.gather(end_logits, none, batch_dims=1)
    least = tf.math.unsorted_segment_min(of_none, owner, num_questions)

    has_text = highest > lowest
    index = tf.stack([chosen, tf.gather(first, chosen)], axis=1)
    end_index = tf.stack([chosen, tf.gather(last, chosen)], axis=1)
    start = tf.where(has_text, tf.gather_nd(windows.first, index), 0)
    end = tf.where(has_text, tf.gather_nd(windows.last, end_index) + 1, 0)
    return Spans(start, end, tf.where(has_text, highest - least, lowest))


def span_texts(
    context: tf.Tensor, start: tf.Tensor, end: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts answers out of contexts, without the white space around them.

    Args:
        context: string (B,), UTF-8.
        start: int32 (B,). First character.
        end: int32 (B,). The character after the last.

    Returns:
        The texts, string (B,), and their own start and end, 0 where nothing is left.
    """
    text = tf.strings.substr(context, start, end - start, unit="UTF8_CHAR")
    begun = tf.strings.regex_replace(text, rf"^{WHITE_SPACE}+", "")
    start += _num_characters(text) - _num_characters(begun)
    text = tf.strings.regex_replace(begun, rf"{WHITE_SPACE}+$", "")
    start = tf.where(text == "", 0, start)
    return text, start, start + _num_characters(text)


def _num_characters(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(text, unit="UTF8_CHAR")
