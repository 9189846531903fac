"""Classes of code points against the regular expressions of `tokenizers`."""

import numpy as np
import tokenizers

from keras_gpt.tokenizer import unicode_classes
from keras_gpt.tokenizer.unicode_classes import LETTER, NUMBER, OTHER, SPACE

SURROGATES = range(0xD800, 0xE000)


def test_every_code_point_has_the_class_of_the_reference():
    text = "".join(chr(c) for c in range(0x110000) if c not in SURROGATES)
    expected = np.full(0x110000, OTHER, np.int8)
    patterns = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}
    for name, pattern in patterns.items():
        others = tokenizers.normalizers.Replace(
            tokenizers.Regex(f"[^{pattern}]+"), ""
        ).normalize_str(text)
        expected[[ord(character) for character in others]] = name
    actual = unicode_classes.class_of_code_points()
    valid = np.array([c for c in range(0x110000) if c not in SURROGATES])
    wrong = valid[actual[valid] != expected[valid]]
    assert [hex(c) for c in wrong] == []
    assert {LETTER, NUMBER, SPACE, OTHER} == set(actual.tolist())


def test_pages_hold_the_same_classes():
    page, pages = unicode_classes.class_pages()
    points = np.arange(0x110000)
    actual = pages[page[points >> 8] * 256 + points % 256]
    np.testing.assert_array_equal(actual, unicode_classes.class_of_code_points())
    assert pages.size < points.size // 20
