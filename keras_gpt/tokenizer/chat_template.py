"""Conversations as prompts: what stands around the messages of each role."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

# Stands around special tokens while a prompt is put together. No UTF-8 text holds it
# (RFC 3629, 1), so a message can never make a special token.
_MARK = b"\xff"


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
        is_known = role == ""
        before, after = tf.zeros_like(role), tf.zeros_like(role)
        for name, pair in self.roles.items():
            is_role = role == name
            is_known |= is_role
            before, after = (
                tf.where(is_role, _marked(text, special), old)
                for text, old in zip(pair, (before, after), strict=True)
            )
        is_text = tf.strings.unicode_transcode(content, "UTF-8", "UTF-8") == content
        is_valid = tf.reduce_all(is_known & is_text, axis=1)
        content = tf.where(is_valid[:, None] & (role != ""), content, "")
        turns = tf.strings.reduce_join(
            tf.strings.join([before, content, after]), axis=1
        )
        first = _marked(self.beginning, special)
        last = _marked(self.roles[self.answer_role][0], special)
        prompts = tf.strings.join([first, turns, last])
        return _parsed(tokenizer, prompts, special), is_valid


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
