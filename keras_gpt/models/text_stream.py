"""Cutting a growing text into pieces that need never be taken back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of a text, as it grows, into pieces of whole characters.

    What may still become a stop string, or the rest of a character, is held back.

    Args:
        stop_strings: strings before which the text ends. Defaults to none.
    """

    def __init__(self, stop_strings: Sequence[bytes] = ()) -> None:
        self._stop_strings = [string for string in stop_strings if string]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_given = 0

    def grow(self, text: bytes, *, is_whole: bool) -> str:
        """Returns the piece that can be given now, which may be empty.

        Args:
            text: everything so far; it only ever grows, but for its end at last.
            is_whole: bool. Whether this is all; only then, bytes that are no
                character become U+FFFD.
        """
        safe = len(text) if is_whole else len(text) - self._num_held_back(text)
        new = text[self._num_given : max(safe, self._num_given)]
        self._num_given += len(new)
        return self._decoder.decode(new, final=is_whole)

    def _num_held_back(self, text: bytes) -> int:
        """Bytes at the text's end with which a stop string may begin."""
        longest = max(map(len, self._stop_strings), default=0)
        for count in range(min(longest - 1, len(text)), 0, -1):
            end = text[-count:]
            if any(string.startswith(end) for string in self._stop_strings):
                return count
        return 0


def num_tokens_held_back(token_ids: list[int], stop_sequences: list[list[int]]) -> int:
    """Returns with how many of its last tokens a stop sequence may begin."""
    longest = max(map(len, stop_sequences), default=0)
    for count in range(min(longest - 1, len(token_ids)), 0, -1):
        if any(sequence[:count] == token_ids[-count:] for sequence in stop_sequences):
            return count
    return 0
