"""What BERT's normaliser and pre-tokenizer make of each code point.

GPT-1's text passes through both: control characters go, accents go, letters become
lower case, and white space, punctuation and Chinese characters split words. Nearly all
of that is a map from one code point to a few, so the `tokenizers` library is asked
once about each, and no data file can differ from it.

One step depends on neighbours: Unicode's decomposition (NFD, Unicode annex 15) sorts
the combining marks between two characters that are none by their combining class. Most
marks are dropped, but not all, so the classes are found, too.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from keras_gpt.tokenizer.page_table import NUM_CODE_POINTS, PageTable, make_pages

SPACE, ALONE, OTHER = range(3)

PLANE_BITS = 16
PLANE_SIZE = 2**PLANE_BITS
# Unicode has characters on these planes. Of the others, 15 and 16 are for private use
# and the rest is empty, so that each is alike up to its last two places, which are no
# characters on any plane.
PLANES = (0, 1, 2, 3, 14)
NUM_ALIKE = PLANE_SIZE - 2
SURROGATES = slice(0xD800, 0xE000)
# A character that each of the library's steps leaves as it is.
SEPARATOR = "\u2603"
# The only combining mark of the greatest class, 240.
GREATEST_MARK = "\u0345"


class BertRules(NamedTuple):
    """Code points that each code point becomes, as flat tables.

    Attributes:
        rules: `PageTable`: number of the rule (0 .. R-1) of each code point.
        lengths: int32 (R,). How many code points come out.
        starts: int32 (R,). Where they stand among the entries (0 .. E-1).
        num_starters: int32 (R,). How many characters that are no combining mark it
            decomposes to, whether they are kept or not.
        shifts: int32 (E,). Code point that comes out, minus the one that went in.
        classes: int32 (E,). `SPACE`, `ALONE` (a word by itself) or `OTHER`.
        mark_ranks: int32 (E,). Rank of the combining class; 0 for no combining mark.
    """

    rules: PageTable
    lengths: np.ndarray
    starts: np.ndarray
    num_starters: np.ndarray
    shifts: np.ndarray
    classes: np.ndarray
    mark_ranks: np.ndarray


class _Outputs(NamedTuple):
    """What a normaliser makes of code points, each taken by itself.

    Attributes:
        code_points: int32 (N,). All that come out, in order.
        owners: int64 (N,). Which of the code points each came from.
    """

    code_points: np.ndarray
    owners: np.ndarray


@functools.cache
def bert_rules() -> BertRules:
    """Returns the rules, made at the first call in about a second."""
    points = _points_to_ask()
    results = _normalize_each(normalizers.BertNormalizer(lowercase=True), points)
    cleaner = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=False,
        strip_accents=False,
        lowercase=False,
    )
    parts = _normalize_each(normalizers.Sequence([cleaner, normalizers.NFD()]), points)
    ranks = _mark_ranks(parts.code_points)
    classes = _classes(results.code_points)

    is_chinese = _between_spaces(results, len(points))
    classes = np.where(is_chinese[results.owners], ALONE, classes[results.code_points])
    kept = ~is_chinese[results.owners] | (results.code_points != ord(" "))
    owners, outputs = results.owners[kept], results.code_points[kept]
    starters = parts.owners[ranks[parts.code_points] == 0]
    return _distinct_rules(
        points,
        owners=owners,
        entries=np.stack(
            [outputs - points[owners], classes[kept], ranks[outputs]], axis=1
        ),
        num_starters=np.bincount(starters, minlength=len(points)),
    )


def _points_to_ask() -> np.ndarray:
    """int32 (P,). All of the planes in use; of the others one place, and the last."""
    points = np.arange(NUM_CODE_POINTS, dtype=np.int32)
    within = points % PLANE_SIZE
    is_asked = np.isin(points >> PLANE_BITS, PLANES)
    is_asked |= (within == 0) | (within >= NUM_ALIKE)
    is_asked[SURROGATES] = is_asked[ord(SEPARATOR)] = False
    return points[is_asked]


def _distinct_rules(
    points: np.ndarray,
    *,
    owners: np.ndarray,
    entries: np.ndarray,
    num_starters: np.ndarray,
) -> BertRules:
    """Numbers the rules.

    Args:
        points: int32 (P,). Code points.
        owners: int64 (N,). Which of them each entry belongs to, ascending.
        entries: int32 (N, 3). Shift, class and rank.
        num_starters: int64 (P,).
    """
    lengths = np.bincount(owners, minlength=len(points))
    starts = np.cumsum(lengths) - lengths
    entry_numbers = np.unique(entries, axis=0, return_inverse=True)[1].reshape(-1) + 1
    padded = np.append(entry_numbers, np.zeros(lengths.max(), np.int64))
    numbers = num_starters
    for column in range(lengths.max()):
        entry = np.where(lengths > column, padded[starts + column], 0)
        pair = numbers * (entry_numbers.max() + 1) + entry
        numbers = np.unique(pair, return_inverse=True)[1]
    _, examples = np.unique(numbers, return_index=True)
    rule_lengths = lengths[examples].astype(np.int32)
    rule_starts = np.cumsum(rule_lengths, dtype=np.int32) - rule_lengths
    places = np.repeat(starts[examples] - rule_starts, rule_lengths)
    chosen = entries[places + np.arange(len(places))].astype(np.int32)
    return BertRules(
        rules=make_pages(_spread(points, numbers)),
        lengths=rule_lengths,
        starts=rule_starts,
        num_starters=num_starters[examples].astype(np.int32),
        shifts=chosen[:, 0],
        classes=chosen[:, 1],
        mark_ranks=chosen[:, 2],
    )


def _spread(points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """int64 (0x110000,). The rule of every code point, those not asked about, too."""
    everywhere = np.zeros(NUM_CODE_POINTS, np.int64)
    everywhere[points] = numbers
    everywhere[ord(SEPARATOR)] = everywhere[ord("a")]
    planes = everywhere.reshape(-1, PLANE_SIZE)
    is_alike = ~np.isin(np.arange(len(planes)), PLANES)
    planes[is_alike, :NUM_ALIKE] = planes[is_alike, :1]
    return everywhere


def _normalize_each(normalizer: normalizers.Normalizer, points: np.ndarray) -> _Outputs:
    """Normalizes code points apart from each other in one call, which is faster."""
    mixed = np.full(2 * len(points), ord(SEPARATOR), np.int32)
    mixed[::2] = points
    results = _code_points(normalizer.normalize_str(_text(mixed)))
    ends = results == ord(SEPARATOR)
    return _Outputs(results[~ends], np.cumsum(ends)[~ends])


def _between_spaces(results: _Outputs, count: int) -> np.ndarray:
    """Bool (P,). Code points that come out between two spaces, as Chinese ones do."""
    spaces = results.owners[results.code_points == ord(" ")]
    return np.bincount(spaces, minlength=count) == 2


def _mark_ranks(code_points: np.ndarray) -> np.ndarray:
    """int32 (0x110000,). Rank from 1 of combining marks' classes, 0 for the others."""
    nfd = normalizers.NFD()
    points = np.unique(code_points)
    # What changes places with a mark is a mark of another class.
    rows = np.full((len(points), 3), ord(SEPARATOR), np.int32)
    rows[:, 0], rows[:, 1] = ord(GREATEST_MARK), points
    results = _code_points(nfd.normalize_str(_text(rows))).reshape(rows.shape)
    is_mark = results[:, 0] != ord(GREATEST_MARK)
    is_mark |= points == ord(GREATEST_MARK)
    # Sorting is stable: marks of one class stay in order, whichever that is.
    marks = points[is_mark]
    ascending = _code_points(nfd.normalize_str(_text(marks)))
    descending = _code_points(nfd.normalize_str(_text(marks[::-1])))
    places = np.zeros(NUM_CODE_POINTS, np.int64)
    places[descending] = np.arange(len(descending))
    # In order both times means that the class orders them: a new one begins.
    begins = np.append(True, np.diff(places[ascending]) > 0)
    ranks = np.zeros(NUM_CODE_POINTS, np.int32)
    ranks[ascending] = np.cumsum(begins)
    return ranks


def _classes(code_points: np.ndarray) -> np.ndarray:
    """int32 (0x110000,). Class of each code point for the pre-tokenizer."""
    split = pre_tokenizers.BertPreTokenizer()
    text = _text(np.unique(code_points))
    pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
    classes = np.full(NUM_CODE_POINTS, SPACE, np.int32)
    classes[_code_points("".join(pieces))] = OTHER
    # A piece of one character is alone, unless only its neighbours made it so.
    singles = [piece for piece in pieces if len(piece) == 1]
    again = split.pre_tokenize_str("a" + "a".join(singles) + "a")
    alone = {piece for piece, _ in again if len(piece) == 1} - {"a"}
    classes[_code_points("".join(alone))] = ALONE
    return classes


def _text(code_points: np.ndarray) -> str:
    return code_points.astype("<i4").tobytes().decode("utf-32-le")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<i4")
