"""Conversations as prompts: what stands around the messages of each role."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

# Stands around special tokens while a prompt is put together. No UTF-8 text holds it
# (RFC 3629, 1), so a message can never make a special token.
_MARK = b"\xff"
# Where an answer begins, and after what ends it, by the same rule.
_ANSWER_MARK = b"\xfe"
_REST_MARK = b"\xfd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    r"""How the messages of a conversation become one prompt.

    Names of the tokenizer's special tokens in a template are those tokens; in a message
    they are text.

    Args:
        roles: dict of role to what stands before and after a message of it.
        answer_role: string. Role whose message is generated: the prompt ends with what
            stands before it, and the answer where what stands after it would begin.
            Defaults to `"assistant"`.
        beginning: string. Stands before the first message. Defaults to none.

    Raises:
        ValueError: if `answer_role` is none of `roles`, a role has no two strings, or
            something is no text.

    Example:
        >>> ChatTemplate(roles={"user": ("Q: ", "\n"), "assistant": ("A: ", "\n")})
        >>> ChatTemplate.named("chatml")
    """

    roles: Mapping[str, tuple[str, str]]
    answer_role: str = "assistant"
    beginning: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.roles, Mapping):
            raise ValueError(f"roles must be a dict, got {self.roles!r:.80}.")
        pairs = {}
        for role, pair in self.roles.items():
            is_pair = isinstance(pair, list | tuple) and len(pair) == 2
            if not role or not is_pair or not all(map(_is_text, (role, *pair))):
                raise ValueError(
                    "roles must be names, each with the strings before and after a "
                    f"message, that UTF-8 can write, got {role!r}: {pair!r:.80}."
                )
            pairs[role] = tuple(pair)
        for name in ("answer_role", "beginning"):
            if not _is_text(getattr(self, name)):
                raise ValueError(
                    f"{name} must be a string that UTF-8 can write, "
                    f"got {getattr(self, name)!r:.80}."
                )
        object.__setattr__(self, "roles", pairs)
        if self.answer_role not in pairs:
            raise ValueError(
                f"answer_role must be of {', '.join(pairs)}, got {self.answer_role!r}."
            )

    @classmethod
    def named(cls, name: str) -> ChatTemplate:
        """Returns a template that is in wide use.

        Args:
            name: string. `"chatml"` (`<|im_start|>role`, `<|im_end|>`), which wants
                these special tokens, or `"plain"` (`User:` and `Assistant:`, a blank
                line after each message).

        Raises:
            ValueError: if there is none of that name.
        """
        if name not in _NAMED:
            raise ValueError(f"name must be of {', '.join(_NAMED)}, got {name!r}.")
        return cls(roles=_NAMED[name])

    @classmethod
    def of(cls, given: ChatTemplate | Mapping[str, Any] | str | None) -> Any:
        """Returns a template, given one, its `to_dict`, its name, or None."""
        if given is None or isinstance(given, cls):
            return given
        return cls.named(given) if isinstance(given, str) else cls(**given)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain data."""
        return {**dataclasses.asdict(self), "roles": dict(self.roles)}

    def stop_of(self, tokenizer: Any) -> int | str | None:
        """Returns what ends an answer: a special token's id, a string, or None."""
        text = self.roles[self.answer_role][1]
        first = min(
            ((text.find(t), -len(t), t) for t in tokenizer.special_tokens if t in text),
            default=None,
        )
        if first is not None and not text[: first[0]].strip():
            return tokenizer.token_to_id(first[2])
        return (text if first is None else text[: first[0]]) or None

    def tokens(
        self, tokenizer: Any, *, role: tf.Tensor, content: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """Turns conversations into the ids of prompts, in graph code.

        Args:
            tokenizer: `GPTTokenizer`.
            role: string (B, M). Of each message; "" for no message.
            content: string (B, M). The messages.

        Returns:
            int32 (B, ragged), and bool (B,): whether all roles are known and all
            messages are UTF-8. Rows where they are not have ids of no meaning.
        """
        special = [token.encode() for token in tokenizer.special_tokens]
        is_text = tf.strings.unicode_transcode(content, "UTF-8", "UTF-8") == content
        safe = tf.where(tf.reduce_all(is_text, axis=1)[:, None], content, "")
        turns, is_known = self._turns(role, safe, special)
        is_valid = tf.reduce_all(is_known & is_text, axis=1)
        first = _marked(self.beginning, special)
        last = _marked(self.roles[self.answer_role][0], special)
        prompts = tf.strings.join([first, turns, last])
        return _parsed(tokenizer, prompts, special), is_valid

    def transcript(
        self, tokenizer: Any, *, role: tf.Tensor, content: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Turns whole conversations into ids to train on, in graph code.

        What comes before an answer has the ids that `tokens` gives it, unless one of
        them would span the beginning of an earlier answer: there, as in generation, a
        new token always begins.

        Args:
            tokenizer: `GPTTokenizer`.
            role: string (B, M). Of each message; "" for no message.
            content: string (B, M). The messages.

        Returns:
            int32 (B, ragged), the ids, and bool (B, ragged), true for those that
            begin in answers or in what stands after them.

        Raises:
            tf.errors.InvalidArgumentError: if a role is unknown.
        """
        special = [token.encode() for token in tokenizer.special_tokens]
        content = tf.strings.unicode_transcode(content, "UTF-8", "UTF-8")
        turns, is_known = self._turns(role, content, special, mark_answers=True)
        check = tf.debugging.Assert(
            tf.reduce_all(is_known),
            [f"role must be of {', '.join(self.roles)}, got", role],
        )
        with tf.control_dependencies([check]):
            texts = tf.strings.join([_marked(self.beginning, special), turns])
        parts = tf.strings.split(texts, sep=_ANSWER_MARK)
        ids, is_answer = _answers_and_rest(tokenizer, parts.flat_values, special)
        return tuple(
            parts.with_flat_values(by_part).merge_dims(1, 2)
            for by_part in (ids, is_answer)
        )

    def _turns(
        self,
        role: tf.Tensor,
        content: tf.Tensor,
        special: list[bytes],
        *,
        mark_answers: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns all messages (B,) with what stands around them, and known roles."""
        is_known = role == ""
        before, after = tf.zeros_like(role), tf.zeros_like(role)
        for name, pair in self.roles.items():
            is_role = role == name
            is_known |= is_role
            texts = [_marked(text, special) for text in pair]
            if mark_answers and name == self.answer_role:
                texts = [texts[0] + _ANSWER_MARK, texts[1] + _REST_MARK]
            before, after = (
                tf.where(is_role, text, old)
                for text, old in zip(texts, (before, after), strict=True)
            )
        messages = tf.strings.join([before, tf.where(role != "", content, ""), after])
        return tf.strings.reduce_join(messages, axis=1), is_known


_ROLES = ("system", "user", "assistant")
_NAMED: dict[str, dict[str, tuple[str, str]]] = {
    # OpenAI 2023, "Chat Markup Language".
    "chatml": {r: (f"<|im_start|>{r}\n", "<|im_end|>\n") for r in _ROLES},
    "plain": {
        "system": ("", "\n\n"),
        "user": ("User:\n", "\n\n"),
        "assistant": ("Assistant:\n", "\n\n"),
    },
}


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # of a lone surrogate
        return False
    return True


def _marked(text: str, special: Iterable[bytes]) -> bytes:
    """Returns a template's text with marks around the special tokens in it."""
    parts = [text.encode()]
    # The longest first; what is marked is not looked at again.
    for token in sorted(special, key=len, reverse=True):
        found: list[bytes] = []
        for index, part in enumerate(parts):
            if index % 2:
                found.append(part)
                continue
            for place, piece in enumerate(part.split(token)):
                found += [token, piece] if place else [piece]
        parts = found
    return _MARK.join(parts)


def _answers_and_rest(
    tokenizer: Any, parts: tf.Tensor, special: list[bytes]
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns ids (B, ragged) of parts (B,), and which of them begin in an answer.

    Args:
        tokenizer: `GPTTokenizer`.
        parts: string (B,). Answer, mark and rest; or the rest alone.
        special: the special tokens.
    """
    pieces = tf.strings.split(parts, sep=_REST_MARK)
    has_answer = pieces.row_lengths() > 1
    if not tokenizer.spells_every_byte:
        by_piece = _parsed(tokenizer, pieces.flat_values, special)
        is_answer = tf.ragged.range(pieces.row_lengths()).flat_values == 0
        is_answer &= tf.repeat(has_answer, pieces.row_lengths())
        of_ids = by_piece.with_flat_values(tf.repeat(is_answer, by_piece.row_lengths()))
        return tuple(
            pieces.with_flat_values(by_token).merge_dims(1, 2)
            for by_token in (by_piece, of_ids)
        )
    ids = _parsed(tokenizer, tf.strings.reduce_join(pieces, axis=1), special)
    marks = tf.strings.split(pieces[:, :1].flat_values, sep=_MARK)
    answer_bytes = tf.reduce_sum(tf.strings.length(marks), axis=1)
    answer_bytes = tf.where(has_answer, answer_bytes, 0)
    texts = tf.gather(tokenizer.token_text, ids.flat_values)
    ends = tf.cumsum(tf.concat([[0], tf.strings.length(texts)], axis=0))
    before = ends[:-1] - tf.repeat(
        tf.gather(ends, ids.row_starts()), ids.row_lengths()
    )
    is_answer = before < tf.repeat(answer_bytes, ids.row_lengths())
    return ids, ids.with_flat_values(is_answer)


def _parsed(
    tokenizer: Any, prompts: tf.Tensor, special: list[bytes]
) -> tf.RaggedTensor:
    """Turns marked prompts (B,) into ids, int32 (B, ragged)."""
    segments = tf.strings.split(prompts, sep=_MARK)
    # Between marks, each second segment is a special token.
    is_special = tf.ragged.range(segments.row_lengths()).flat_values % 2 == 1
    flat = segments.flat_values
    ids = tf.zeros_like(flat, tf.int32)
    for token in special:
        token_id = tokenizer.token_to_id(token.decode())
        ids = tf.where(flat == token, token_id, ids)
    of_text = tokenizer.tokenize(tf.where(is_special, "", flat))
    of_special = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(ids, is_special), tf.cast(is_special, tf.int64)
    )
    by_segment = tf.concat([of_text, of_special], axis=1)
    return segments.with_flat_values(by_segment).merge_dims(1, 2)
