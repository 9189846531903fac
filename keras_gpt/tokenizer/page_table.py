"""Two-level tables: one integer for each code point, in little room.

Code points come in blocks of 256. Most blocks hold the same values as another, so the
distinct ones are stored once, and a first table says which one each block is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

NUM_CODE_POINTS = 0x110000
PAGE_BITS = 8
PAGE_SIZE = 2**PAGE_BITS


class PageTable(NamedTuple):
    """A two-level table. The value at place p is `pages[page[p >> 8] * 256 + p % 256]`.

    Attributes:
        page: int32 (N / 256,). Page of each block of 256 places.
        pages: int32 (256 * P,). The distinct pages, one after another.
    """

    page: np.ndarray | tf.Tensor
    pages: np.ndarray | tf.Tensor

    def look_up(self, places: tf.Tensor) -> tf.Tensor:
        """Returns the values at `places`, int32 in [0, N), of any shape."""
        block = tf.gather(tf.convert_to_tensor(self.page), places // PAGE_SIZE)
        within = places % PAGE_SIZE
        return tf.gather(tf.convert_to_tensor(self.pages), block * PAGE_SIZE + within)


def make_pages(values: np.ndarray) -> PageTable:
    """Makes the table of `values`, int (N,), of which N is a multiple of 256."""
    blocks = np.ascontiguousarray(values, np.int32).reshape(-1, PAGE_SIZE)
    number_of: dict[bytes, int] = {}
    page = [number_of.setdefault(block.tobytes(), len(number_of)) for block in blocks]
    pages = np.frombuffer(b"".join(number_of), np.int32)
    return PageTable(np.array(page, np.int32), pages)
