"""The classes of code points that GPT-2's pattern tells apart.

`unicode_classes.txt` holds them in runs; `make_unicode_classes` wrote it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

LETTER, NUMBER, SPACE, OTHER = range(4)
_CODES = {"letter": LETTER, "number": NUMBER, "space": SPACE, "other": OTHER}
_RUNS = Path(__file__).with_name("unicode_classes.txt")

NUM_CODE_POINTS = 0x110000
PAGE_BITS = 8
PAGE_SIZE = 2**PAGE_BITS


def class_of_code_points() -> np.ndarray:
    """Returns the class of every code point: int8 (0x110000,)."""
    lines = _RUNS.read_text().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    starts = np.array([int(start, 16) for start, _ in pairs])
    codes = np.array([_CODES[name] for _, name in pairs], np.int8)
    return np.repeat(codes, np.diff(np.append(starts, NUM_CODE_POINTS)))


@functools.cache
def class_pages() -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes as a two-level table, some 50 times smaller.

    Returns:
        page of each block of 256 code points, int32 (4352,); and the distinct
        pages one after another, int32 (256 * P,). The class of code point c is
        `pages[page[c >> 8] * 256 + c % 256]`.
    """
    blocks = class_of_code_points().reshape(-1, PAGE_SIZE)
    pages, page = np.unique(blocks, axis=0, return_inverse=True)
    return page.reshape(-1).astype(np.int32), pages.reshape(-1).astype(np.int32)
