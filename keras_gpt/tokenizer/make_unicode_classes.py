"""Writes unicode_classes.txt: the class of every code point, in runs.

The reference is the `tokenizers` library, whose regular expressions define GPT-2's
ids today: a code point is a letter, a number or other if GPT-2's pattern keeps it in
one piece with "a", "1" or "!", else a space.

Usage: python -m keras_gpt.tokenizer.make_unicode_classes
"""

from __future__ import annotations

from pathlib import Path

import tokenizers

OUTPUT = Path(__file__).with_name("unicode_classes.txt")
NUM_CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)


def main() -> None:
    """Probes every code point and writes the runs."""
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)

    def joins(companion: str, character: str) -> bool:
        return len(split.pre_tokenize_str(companion + character)) == 1

    lines = ["# first code point (hex), class: letter, number, space or other"]
    previous = None
    for code_point in range(NUM_CODE_POINTS):
        if code_point in SURROGATES:
            continue
        character = chr(code_point)
        if joins("a", character):
            name = "letter"
        elif joins("1", character):
            name = "number"
        elif joins("!", character):
            name = "other"
        else:
            name = "space"
        if name != previous:
            lines.append(f"{code_point:x} {name}")
            previous = name
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
