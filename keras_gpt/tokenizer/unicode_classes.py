"""The classes of code points that GPT-2's pattern tells apart.

`unicode_classes.txt` holds them in runs; `make_unicode_classes` wrote it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from keras_gpt.tokenizer.page_table import NUM_CODE_POINTS, PageTable, make_pages

LETTER, NUMBER, SPACE, OTHER = range(4)
_CODES = {"letter": LETTER, "number": NUMBER, "space": SPACE, "other": OTHER}
RUNS = Path(__file__).with_name("unicode_classes.txt")


def class_of_code_points() -> np.ndarray:
    """Returns the class of every code point: int8 (0x110000,)."""
    lines = RUNS.read_text().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    starts = np.array([int(start, 16) for start, _ in pairs])
    codes = np.array([_CODES[name] for _, name in pairs], np.int8)
    return np.repeat(codes, np.diff(np.append(starts, NUM_CODE_POINTS)))


@functools.cache
def class_pages() -> PageTable:
    """Returns the classes as a two-level table, some 50 times smaller."""
    return make_pages(class_of_code_points())
