"""The knobs of a served generation: numbers, strings and tokens of each row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.export.signatures.inputs import Input, spread
from keras_gpt.generation import SETTINGS, GenerationSettings, Request, Stops
from keras_gpt.sampling.logits_processors import TokenRules

SAMPLING, BEAM_SEARCH, CONTRASTIVE = "sampling", "beam_search", "contrastive_search"
NO_ID = -1


class Limit(NamedTuple):
    """How many different strings a row may have, and of how many bytes each."""

    most: int
    longest: int


# Each round looks for all of them: a row must not use up what its neighbours need.
LIMITS = {"stop_strings": Limit(16, 256), "bad_words": Limit(1024, 64)}
_TOKEN_LISTS = (
    *("stop_token_ids", "allowed_token_ids", "suppress_tokens"),
    "begin_suppress_tokens",
)
# What searches have no use for. The candidates of a contrastive search are as many in
# each row: they cost all rows alike.
_OF_SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff"),
    *("eta_cutoff", "seed"),
)
_OF_METHOD = {
    SAMPLING: {},
    BEAM_SEARCH: {"length_penalty": 1.0, "diversity_penalty": 0.0},
    CONTRASTIVE: {"penalty_alpha": 0.0},
}


_RANGES = {
    "length_penalty": lambda x: x == x,
    "diversity_penalty": lambda x: x >= 0.0,
    "penalty_alpha": lambda x: (x >= 0.0) & (x <= 1.0),
}


class FixedSequences(NamedTuple):
    """Sequences of several tokens, which hold for every request.

    Attributes:
        stops: int32 array (1, Q, L), padded in front with -1; of chats, single
            tokens, too.
        stop_strings: strings.
        bad_words: int32 array (1, W, L), likewise.
        bias_sequences: int32 array (1, W, L), likewise.
        bias_values: float32 array (1, W).
    """

    stops: np.ndarray
    stop_strings: tuple[str, ...]
    bad_words: np.ndarray
    bias_sequences: np.ndarray
    bias_values: np.ndarray


class ServedRequest(NamedTuple):
    """What the rows of a call ask for.

    Attributes:
        request: `Request` of B rows.
        are_valid: bool (B,). Whether what is not in `settings` is in range.
        truncates: bool (B,). Whether prompts that are too long are cut in front.
        of_method: float32 (B,) by name. Numbers of the method alone.
    """

    request: Request
    are_valid: tf.Tensor
    truncates: tf.Tensor
    of_method: dict[str, tf.Tensor]


def knob_inputs(defaults: dict[str, Any], *, method: str) -> dict[str, Input]:
    """Returns the knobs of a method, each with its exported default.

    Args:
        defaults: setting name to number; `stop_strings` and `bad_words` to lists of
            strings, the lists of tokens to lists of ids, and `logit_bias` to a dict of
            id to number.
        method: string. `SAMPLING`, `BEAM_SEARCH` or `CONTRASTIVE`.
    """
    knobs = {
        name: Input(setting.dtype, (), defaults.get(name, setting.default))
        for name, setting in SETTINGS.items()
        if method == SAMPLING or name not in _OF_SAMPLING
    }
    for name, default in _OF_METHOD[method].items():
        knobs[name] = Input(tf.float32, (), defaults.get(name, default))
    truncates = bool(defaults.get("truncate_prompt", False))
    knobs["truncate_prompt"] = Input(tf.bool, (), truncates)
    for name in ("stop_strings", "bad_words"):
        knobs[name] = Input(tf.string, (None,), defaults.get(name) or [""])
    for name in _TOKEN_LISTS:
        knobs[name] = Input(tf.int32, (None,), defaults.get(name) or [NO_ID])
    biases = defaults.get("logit_bias") or {NO_ID: 0.0}
    knobs["logit_bias_ids"] = Input(tf.int32, (None,), list(biases))
    knobs["logit_bias_values"] = Input(tf.float32, (None,), list(biases.values()))
    return knobs


class KnobReader:
    """Turns knobs into what the decoder takes, in graph code.

    Args:
        tokenizer: tokenizer of the model; for bad words.
        vocabulary_size: int (V). Ids must be below.
        fixed: `FixedSequences`.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        vocabulary_size: int,
        fixed: FixedSequences,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._fixed = fixed

    def with_stop(self, stop: int | str | None) -> KnobReader:
        """Returns a reader by which a token or a string ends each row, too."""
        fixed = self._fixed
        if isinstance(stop, str):
            fixed = fixed._replace(stop_strings=(*fixed.stop_strings, stop))
        elif stop is not None:
            length = max(fixed.stops.shape[2], 1)
            single = np.full([1, 1, length], NO_ID, np.int32)
            single[0, 0, -1] = stop
            stops = np.concatenate([fixed.stops, single], axis=1)
            fixed = fixed._replace(stops=stops)
        return KnobReader(
            tokenizer=self._tokenizer,
            vocabulary_size=self._vocabulary_size,
            fixed=fixed,
        )

    def read(self, knobs: dict[str, tf.Tensor], rows: tf.Tensor) -> ServedRequest:
        """Returns the request of B rows, given knobs of B rows or of 1."""
        knobs = {name: spread(value, rows) for name, value in knobs.items()}
        are_valid = self._are_valid(knobs)
        for name in [name for name in LIMITS if name in knobs]:
            knobs[name], is_within = _distinct(knobs[name], LIMITS[name])
            are_valid &= is_within
        settings = GenerationSettings(
            **{
                name: knobs[name]
                if name in knobs
                else tf.fill([rows], tf.constant(setting.default, setting.dtype))
                for name, setting in SETTINGS.items()
            }
        )
        request = Request.of(
            settings, stops=self._stops(knobs), rules=self._rules(knobs)
        )
        of_method = {
            name: knobs[name]
            for names in _OF_METHOD.values()
            for name in names
            if name in knobs
        }
        for name, value in of_method.items():
            are_valid &= tf.math.is_finite(value) & _RANGES[name](value)
        return ServedRequest(request, are_valid, knobs["truncate_prompt"], of_method)

    def _are_valid(self, knobs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Bool (B,). Whether ids are of the vocabulary, or none, and biases numbers."""
        in_range = [
            tf.reduce_all((ids >= NO_ID) & (ids < self._vocabulary_size), axis=1)
            for ids in (knobs[name] for name in (*_TOKEN_LISTS, "logit_bias_ids"))
        ]
        values, ids = knobs["logit_bias_values"], knobs["logit_bias_ids"]
        in_range.append(tf.reduce_all(tf.math.is_finite(values), axis=1))
        # Servers make each list as long as the longest beside it, by repeating what it
        # holds: an id without a value is a mistake unless it is there before.
        width = tf.shape(values)[1]
        rest = ids[:, width:]
        is_again = (rest == NO_ID) | self._are_in(ids[:, :width], rest)
        in_range.append(tf.reduce_all(is_again, axis=1))
        return tf.reduce_all(tf.stack(in_range), axis=0)

    def _are_in(self, ids: tf.Tensor, sought: tf.Tensor) -> tf.Tensor:
        """Bool (B, M). Which ids (B, M) are among others (B, K) of their row."""
        # One place for each id, and one for all that are none: no table of M times K.
        size = self._vocabulary_size
        ids, sought = (tf.where((x >= 0) & (x < size), x, size) for x in (ids, sought))
        rows = tf.shape(ids)[0]
        numbers = tf.broadcast_to(tf.range(rows)[:, None], tf.shape(ids))
        counts = tf.scatter_nd(
            tf.stack([numbers, ids], axis=-1), tf.ones_like(ids), [rows, size + 1]
        )
        return (tf.gather(counts, sought, batch_dims=1) > 0) & (sought < size)

    def _stops(self, knobs: dict[str, tf.Tensor]) -> Stops:
        single = _used(knobs["stop_token_ids"])[:, :, None]
        # XLA has no strings, hence no such knob.
        none = tf.zeros([tf.shape(single)[0], 0], tf.string)
        strings = knobs.get("stop_strings", none)
        if self._fixed.stop_strings:
            fixed = tf.constant([self._fixed.stop_strings])
            strings = tf.concat([strings, spread(fixed, tf.shape(strings)[0])], axis=1)
        return Stops(_beside(single, self._fixed.stops), strings)

    def _rules(self, knobs: dict[str, tf.Tensor]) -> TokenRules:
        words = self._sequences(knobs["bad_words"], knobs["stop_token_ids"])
        ids = knobs["logit_bias_ids"]
        values = _as_wide(knobs["logit_bias_values"], ids)
        # An id that comes twice counts once: servers pad lists with what they hold.
        order = tf.argsort(ids, axis=1, stable=True)
        ids, values = (tf.gather(x, order, batch_dims=1) for x in (ids, values))
        is_again = tf.pad(ids[:, 1:] == ids[:, :-1], [[0, 0], [1, 0]])
        width = tf.shape(ids)[1]
        values = tf.where(is_again[:, :width], 0.0, values)
        ids = tf.where(values != 0.0, ids, NO_ID)
        width = tf.shape(_used(ids))[1]
        return TokenRules(
            bias_sequences=_beside(ids[:, :width, None], self._fixed.bias_sequences),
            bias_values=_beside_values(values[:, :width], self._fixed.bias_values),
            bad_words=_beside(words, self._fixed.bad_words),
            allowed_tokens=_used(knobs["allowed_token_ids"]),
            suppressed_tokens=_used(knobs["suppress_tokens"]),
            begin_suppressed_tokens=_used(knobs["begin_suppress_tokens"]),
        )

    def _sequences(self, words: tf.Tensor, stop_ids: tf.Tensor) -> tf.Tensor:
        """Returns the tokens that words (B, K) may take: int32 (B, 2K, L).

        A word is meant both as it is and behind a space; a token that ends the text is
        no word.
        """
        behind_space = tf.where(words == "", "", tf.strings.join([" ", words]))
        forms = tf.concat([words, behind_space], axis=1)
        tokens = self._tokenizer.tokenize(tf.reshape(forms, [-1]))
        # Padded in front: reversed, padded behind, and reversed again.
        padded = tokens[:, ::-1].to_tensor(NO_ID)[:, ::-1]
        padded = tf.pad(padded, [[0, 0], [2, 0]], constant_values=NO_ID)
        shape = [*tf.unstack(tf.shape(forms)), tf.shape(padded)[1]]
        sequences = tf.reshape(padded, shape)
        is_single = sequences[:, :, -2] == NO_ID
        is_stop = self._are_in(stop_ids, sequences[:, :, -1])
        return tf.where((is_single & is_stop)[:, :, None], NO_ID, sequences)


def _used(table: tf.Tensor) -> tf.Tensor:
    """Returns the columns (B, K') up to the last that any row uses, perhaps none."""
    used = tf.reduce_any(table != NO_ID, axis=0)
    last = tf.reduce_max(
        tf.pad(tf.where(used, tf.range(tf.shape(table)[1]) + 1, 0), [[0, 1]])
    )
    return table[:, :last]


def _distinct(strings: tf.Tensor, limit: Limit) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the strings (B, K) that a row has, each once and none empty.

    Returns:
        string (B, K'), padded with "", in any order and within the limit; and bool
        (B,), whether all were.
    """
    is_short = tf.strings.length(strings) <= limit.longest
    flat = tf.reshape(tf.where(is_short, strings, ""), [-1])
    _, numbers = tf.unique(tf.concat([[""], flat], axis=0))  # 0 is of none
    numbers = tf.reshape(numbers[1:], tf.shape(strings))
    order = tf.argsort(numbers, axis=1, stable=True)
    numbers, strings = (tf.gather(x, order, batch_dims=1) for x in (numbers, strings))
    is_new = numbers != tf.pad(numbers, [[0, 0], [1, 0]])[:, :-1]
    found = tf.ragged.boolean_mask(strings, is_new)
    is_within = tf.reduce_all(is_short, axis=1) & (found.row_lengths() <= limit.most)
    return found[:, : limit.most].to_tensor(""), is_within


def _as_wide(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns values (B, K') as wide as another table (B, K)."""
    width = tf.shape(like)[1]
    return tf.pad(values, [[0, 0], [0, width]])[:, :width]


def _beside(sequences: tf.Tensor, fixed: np.ndarray) -> tf.Tensor:
    """Returns sequences (B, W, L) and those of all rows (1, W', L') in one table."""
    if not fixed.shape[1]:
        return sequences
    length = tf.maximum(tf.shape(sequences)[2], fixed.shape[2])
    both = [sequences, spread(tf.constant(fixed), tf.shape(sequences)[0])]
    return tf.concat(
        [
            tf.pad(
                table,
                [[0, 0], [0, 0], [length - tf.shape(table)[2], 0]],
                constant_values=NO_ID,
            )
            for table in both
        ],
        axis=1,
    )


def _beside_values(values: tf.Tensor, fixed: np.ndarray) -> tf.Tensor:
    if not fixed.shape[1]:
        return values
    return tf.concat([values, spread(tf.constant(fixed), tf.shape(values)[0])], axis=1)
