"""BERT's splitting of text into words, as GPT-1 uses it, in the graph.

Devlin et al. 2018, tokenization.py of the release: text is cleaned, lower-cased and
stripped of accents, split at white space, and each punctuation mark and each Chinese
character is a word of its own. `bert_rules` says what each code point becomes.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_gpt.tokenizer.bert_rules import ALONE, SPACE, bert_rules
from keras_gpt.tokenizer.page_table import PageTable
from keras_gpt.tokenizer.pretokenize import Words, row_starts
from keras_gpt.tokenizer.special_tokens import FoundTokens, SpecialTokenFinder

# More than there are combining classes.
MAX_MARK_RANKS = 256


class _Characters(NamedTuple):
    """Characters of the normalised texts.

    Attributes:
        code_points: int32 (N,).
        classes: int32 (N,). `SPACE`, `ALONE` or `OTHER`.
        sources: int32 (N,). Number of the original character of each.
    """

    code_points: tf.Tensor
    classes: tf.Tensor
    sources: tf.Tensor


class BertWordSplitter:
    """Splits texts into BERT's words; holds the static tables for it."""

    def __init__(self) -> None:
        tables = bert_rules()
        with tf.init_scope():
            self._rules = PageTable(*map(tf.constant, tables.rules))
            self._lengths = tf.constant(tables.lengths)
            self._starts = tf.constant(tables.starts)
            self._num_starters = tf.constant(tables.num_starters)
            self._shifts = tf.constant(tables.shifts)
            self._classes = tf.constant(tables.classes)
            self._mark_ranks = tf.constant(tables.mark_ranks)

    def split(
        self, texts: tf.Tensor, *, special_tokens: SpecialTokenFinder | None = None
    ) -> Words:
        """Splits texts.

        Args:
            texts: string (B,). Bytes that are not UTF-8 become U+FFFD, which BERT
                drops.
            special_tokens: finder of strings to cut out whole wherever they stand,
                before anything else. Defaults to none.

        Returns:
            `Words`.
        """
        code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        is_first = row_starts(code_points)
        found = None
        if special_tokens is not None:
            found = special_tokens.find(code_points.flat_values, is_first=is_first)
        characters = self._normalize(code_points.flat_values, is_first, found)
        rows = tf.gather(code_points.value_rowids(), characters.sources)
        is_space = characters.classes == SPACE
        is_alone = characters.classes == ALONE
        follows = (rows[1:] == rows[:-1]) & ~is_space[:-1] & ~is_alone[:-1]
        follows = tf.concat([tf.zeros_like(is_space[:1]), follows], axis=0) & ~is_alone
        starts = ~is_space & ~follows
        kept = tf.where(~is_space)[:, 0]
        words = tf.RaggedTensor.from_row_starts(
            tf.gather(characters.code_points, kept),
            tf.where(tf.gather(starts, kept))[:, 0],
            validate=False,
        )
        first_sources = tf.boolean_mask(characters.sources, starts)
        return Words(
            words=tf.strings.unicode_encode(words, "UTF-8"),
            counts=tf.math.unsorted_segment_sum(
                tf.cast(starts, tf.int64), rows, code_points.nrows()
            ),
            special=None if found is None else tf.gather(found.opens, first_sources),
        )

    def _normalize(
        self, code_points: tf.Tensor, is_first: tf.Tensor, found: FoundTokens | None
    ) -> _Characters:
        """Cleans, decomposes and lower-cases; special tokens become one character."""
        rules = self._rules.look_up(code_points)
        if found is not None:
            alone = self._rules.look_up(tf.constant([ord("!")]))
            nothing = self._rules.look_up(tf.constant([0]))
            rules = tf.where(found.opens >= 0, alone, rules)
            rules = tf.where(found.inside, nothing, rules)
        lengths = tf.gather(self._lengths, rules)
        sources = tf.repeat(tf.range(tf.size(code_points)), lengths)
        entries = tf.gather(
            tf.gather(self._starts, rules) - tf.cumsum(lengths, exclusive=True), sources
        )
        entries += tf.range(tf.size(sources))
        starters = tf.gather(self._num_starters, rules) + tf.cast(is_first, tf.int32)
        entries, sources = self._sort_marks(entries, sources, tf.cumsum(starters))
        return _Characters(
            code_points=tf.gather(code_points, sources)
            + tf.gather(self._shifts, entries),
            classes=tf.gather(self._classes, entries),
            sources=sources,
        )

    def _sort_marks(
        self, entries: tf.Tensor, sources: tf.Tensor, runs: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sorts the combining marks of each run by their class, as NFD does.

        Args:
            entries: int32 (N,). Entry of `bert_rules` of each character.
            sources: int32 (N,). Its original character.
            runs: int32 (C,). Number of the run that each original character is in.

        Returns:
            the first two, with the marks in their order.
        """
        ranks = tf.gather(self._mark_ranks, entries)
        places = tf.where(ranks > 0)
        marks = places[:, 0]
        run = tf.cast(tf.gather(runs, tf.gather(sources, marks)), tf.int64)
        rank = tf.cast(tf.gather(ranks, marks), tf.int64)
        order = tf.argsort(run * MAX_MARK_RANKS + rank, stable=True)
        ordered = tf.gather(marks, order)
        return (
            tf.tensor_scatter_nd_update(entries, places, tf.gather(entries, ordered)),
            tf.tensor_scatter_nd_update(sources, places, tf.gather(sources, ordered)),
        )
