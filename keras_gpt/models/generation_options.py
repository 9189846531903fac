"""The options of `GPTCausalLM.generate`: their rules, and the tensors they become."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.generation import SETTINGS, ContrastiveSettings, GenerationSettings
from keras_gpt.models.option_values import (
    by_row,
    check_count,
    check_ids,
    check_setting,
    forms_of_word,
    is_id,
    is_string,
    is_word,
    numbers,
    pad_rows,
    pad_sequences,
)
from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import BeamSettings
from keras_gpt.sampling.logits_processors import LogitsProcessor, TokenRules

_EARLY_STOPPING: dict[bool | str, int] = {
    False: beam_search.HEURISTIC,
    True: beam_search.WHEN_FULL,
    "never": beam_search.NEVER,
}
# Where top_k is not given. The method's author takes 4 for GPT-2 in "Generating
# Human-level Text with Contrastive Search in Transformers", Su 2022.
CONTRASTIVE_TOP_K = 4
LARGEST = float(np.finfo(np.float32).max)
_SAMPLING = (
    *("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    "seed",
)
# What does not go with a method: it would be without effect.
_NOT_OF_BEAMS = (
    *(*_SAMPLING, "top_k", "penalty_alpha", "best_of", "draft", "sliding_window"),
    *("max_time", "num_alternatives"),
)
_ONLY_OF_BEAMS = ("length_penalty", "early_stopping", "diversity_penalty")
_NOT_OF_CONTRAST = (
    *(*_SAMPLING, "best_of", "draft", "sliding_window", "max_time"),
    "num_return_sequences",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of `GPTCausalLM.generate` and `stream`.

    Numbers that steer the choice of tokens are one value, or a list of one for each
    prompt. Lists of tokens are the same for all prompts, or a list of such lists, one
    for each. What the options do to the logits happens in transformers' order.

    Attributes:
        max_new_tokens: int, at least 0. Longest continuation. Defaults to as many as
            `max_length` allows.
        min_new_tokens: int, at least 0. The text does not stop before. Defaults to 0.
        temperature: float, at least 0; 0 is greedy. Defaults to the sampler given to
            `compile`, there 1.
        top_k: int, at least 0. Tokens to keep; 0 is off. Defaults likewise to 0.
        top_p: float in (0, 1]. Nucleus to keep (Holtzman et al. 2020); 1 is off.
            Defaults likewise to 1.
        min_p: float in [0, 1]. Least share of the likeliest token's probability; 0 is
            off. Defaults to 0.
        typical_p: float in (0, 1]. Probability to keep of the tokens whose surprise
            is nearest to the expected one (Meister et al. 2022); 1 is off. Defaults
            to 1.
        epsilon_cutoff: float in [0, 1). Least probability of a token (Hewitt et al.
            2022); 0 is off. Defaults to 0.
        eta_cutoff: float in [0, 1). As `epsilon_cutoff`, but lower where many tokens
            are likely; 0 is off. Defaults to 0.
        seed: int. The same seed gives the same text for the same prompt. Defaults to
            a fresh one for each prompt.
        repetition_penalty: float above 0. Makes tokens that the prompt or the text
            holds less likely where above 1 (Keskar et al. 2019); 1 is off. Defaults
            to 1.
        presence_penalty: float. Taken from the logits of tokens that the new text
            holds. Defaults to 0.
        frequency_penalty: float. Taken from them for each time that it holds them.
            Defaults to 0.
        no_repeat_ngram_size: int, at least 0. So many tokens in a row never occur
            twice, the prompt included; 0 is off. Defaults to 0.
        logit_bias: dict of token id, or tuple of ids, to float; or one dict for each
            prompt. Added to the token's logit; of a tuple, to that of its last token,
            where the text ends with the others.
        bad_words: list of strings or lists of ids that never come. A string is meant
            both as it is and behind a space, in the tokens that it becomes then. A
            token that ends the text is no bad word.
        allowed_token_ids: list of ids. The only ones that may come.
        suppress_tokens: list of ids that never come.
        begin_suppress_tokens: list of ids that do not come first.
        logits_processors: functions `(logits float32 (B, V), history) -> logits` in
            graph code, after all others; see `keras_gpt.sampling.History`. Each is
            traced once as long as it is the same object.
        stop_strings: list of strings. The text ends before the first of them.
        num_beams: int. Above 1, the continuation is found by beam search. Defaults
            to 1.
        length_penalty: float. Power of a beam's length that divides its
            log-probability: above 0 favours long texts. Defaults to 1.
        early_stopping: bool or string. Whether the search stops once `num_beams`
            texts have ended: False goes on while a better one looks likely,
            `"never"` while one is possible. Defaults to False.
        num_beam_groups: int that divides `num_beams`. Groups of beams that keep away
            from each other (Vijayakumar et al. 2018). Defaults to 1.
        diversity_penalty: float, at least 0. How strongly. Defaults to 0.
        num_return_sequences: int. Texts for each prompt: draws, in no order, or the
            best beams, and where there are too few, empty texts of score -inf.
            Defaults to 1.
        best_of: int, at least `num_return_sequences`. Draws of which the likeliest,
            by the mean of their tokens' log-probabilities, are returned, best first.
            Defaults to as many as are returned.
        penalty_alpha: float in [0, 1]. If given, contrastive search (Su et al. 2022):
            the weight against tokens that are like the text so far; `top_k` tokens
            are candidates, by default 4.
        draft: `"prompt_lookup"`, a `GPTCausalLM` of the same vocabulary, or a
            `keras_gpt.generation.Drafter`. Drafts tokens that are then checked
            several at a time. The text is the same, and sooner there where drafts are
            right.
        num_draft_tokens: int. Tokens of one draft. Defaults to 10 of a prompt lookup,
            fewer where many texts run, and 4 of a model.
        prefix: what `prefill` returned. The prompts continue it.
        truncate: `"left"`. Keeps the last tokens of a prompt that is too long: so many
            that `max_new_tokens` have room, but at least half of what may be used.
            Defaults to None, which raises an error.
        sliding_window: bool. Whether a text that fills the context goes on, with the
            last half of it as the context of what follows. Defaults to False: it ends.
        max_time: float above 0. Seconds after which texts end with what they have, a
            token or a few later. Defaults to no limit.
        num_alternatives: int, at least 0. How many of the likeliest tokens to report
            at each place, with `return_details`. Defaults to 0.

    Raises:
        ValueError: if a value is out of range, or values do not go together.
    """

    max_new_tokens: int | Sequence[int] | None = None
    min_new_tokens: int | Sequence[int] | None = None
    temperature: float | Sequence[float] | None = None
    top_k: int | Sequence[int] | None = None
    top_p: float | Sequence[float] | None = None
    min_p: float | Sequence[float] | None = None
    typical_p: float | Sequence[float] | None = None
    epsilon_cutoff: float | Sequence[float] | None = None
    eta_cutoff: float | Sequence[float] | None = None
    seed: int | Sequence[int] | None = None
    repetition_penalty: float | Sequence[float] | None = None
    presence_penalty: float | Sequence[float] | None = None
    frequency_penalty: float | Sequence[float] | None = None
    no_repeat_ngram_size: int | Sequence[int] | None = None
    logit_bias: Mapping[Any, float] | Sequence[Mapping[Any, float]] | None = None
    bad_words: Sequence[Any] | None = None
    allowed_token_ids: Sequence[Any] | None = None
    suppress_tokens: Sequence[Any] | None = None
    begin_suppress_tokens: Sequence[Any] | None = None
    logits_processors: Sequence[LogitsProcessor] = ()
    stop_strings: str | Sequence[Any] | None = None
    num_beams: int = 1
    length_penalty: float | Sequence[float] = 1.0
    early_stopping: bool | str = False
    num_beam_groups: int = 1
    diversity_penalty: float | Sequence[float] = 0.0
    num_return_sequences: int = 1
    best_of: int | None = None
    penalty_alpha: float | Sequence[float] | None = None
    draft: Any = None
    num_draft_tokens: int | None = None
    prefix: Any = None
    truncate: str | None = None
    sliding_window: bool = False
    max_time: float | None = None
    num_alternatives: int = 0

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
            check_count(name, getattr(self, name), least=1)
        check_count("num_alternatives", self.num_alternatives, least=0)
        for name in ("best_of", "num_draft_tokens"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=1)
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                "early_stopping must be True, False or 'never', "
                f"got {self.early_stopping!r}."
            )
        if self.truncate not in (None, "left"):
            raise ValueError(f"truncate must be None or 'left', got {self.truncate!r}.")
        if self.num_draft_tokens is not None and not _is_made_here(self.draft):
            raise ValueError(
                "num_draft_tokens must be None unless draft is 'prompt_lookup' or a "
                f"model, got {self.num_draft_tokens!r}."
            )
        is_time = isinstance(self.max_time, Real) and self.max_time > 0.0
        if self.max_time is not None and not is_time:
            raise ValueError(f"max_time must be above 0, got {self.max_time!r}.")
        for processor in self.logits_processors:
            if not callable(processor):
                raise ValueError(
                    f"logits_processors must be functions, got {processor!r}."
                )
        self._check_method()

    @classmethod
    def of(cls, options: dict[str, Any]) -> GenerationOptions:
        """Returns the options by name.

        Raises:
            TypeError: if there is none of that name.
            ValueError: as the class.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise TypeError(f"there is no option {name!r}{hint}")
        return cls(**options)

    @property
    def searches(self) -> bool:
        """Whether the method is beam search."""
        return self.num_beams > 1

    @property
    def contrasts(self) -> bool:
        """Whether the method is contrastive search."""
        return self.penalty_alpha is not None

    @property
    def num_draws(self) -> int:
        """Draws for each prompt."""
        return self.best_of or (1 if self.searches else self.num_return_sequences)

    def _check_method(self) -> None:
        """Raises `ValueError` for options that do not go together."""
        if self.searches:
            self._refuse(_NOT_OF_BEAMS, f"num_beams={self.num_beams}")
            if self.num_return_sequences > self.num_beams:
                raise ValueError(
                    "num_return_sequences must be at most num_beams, "
                    f"{self.num_beams}, got {self.num_return_sequences}."
                )
        else:
            self._refuse(_ONLY_OF_BEAMS, "num_beams=1")
        if self.contrasts:
            self._refuse(_NOT_OF_CONTRAST, "penalty_alpha")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"num_beam_groups must divide num_beams, {self.num_beams}, "
                f"got {self.num_beam_groups}."
            )
        if self.best_of is not None and self.best_of < self.num_return_sequences:
            raise ValueError(
                "best_of must be at least num_return_sequences, "
                f"{self.num_return_sequences}, got {self.best_of}."
            )
        if self.prefix is not None and self.truncate is not None:
            raise ValueError(
                f"truncate must be None with a prefix, got {self.truncate!r}."
            )

    def _refuse(self, names: Iterable[str], method: str) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = [
            name for name in names if not _equal(getattr(self, name), defaults[name])
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)} must not be given with {method}, which has no "
                "use for it."
            )

    def settings(
        self, *, rows: int, room: np.ndarray, defaults: Mapping[str, Any]
    ) -> GenerationSettings:
        """Returns the settings of each row.

        Args:
            rows: int (B).
            room: int (B,). Most new tokens.
            defaults: values of settings that are not given.
        """
        given = {
            name: default if getattr(self, name) is None else getattr(self, name)
            for name, default in (
                (name, defaults.get(name, setting.default))
                for name, setting in SETTINGS.items()
            )
        }
        values = {
            name: check_setting(name, value, rows=rows) for name, value in given.items()
        }
        values["max_new_tokens"] = np.minimum(values["max_new_tokens"], room)
        return GenerationSettings(
            **{
                name: tf.constant(value, SETTINGS[name].dtype)
                for name, value in values.items()
            }
        )

    def rules(
        self,
        *,
        rows: int,
        vocabulary_size: int,
        stop_sequences: list[list[int]],
        tokenize: Callable[[str], list[int]] | None,
    ) -> TokenRules:
        """Returns the rules about tokens.

        Args:
            rows: int (B).
            vocabulary_size: int (V). Ids must be below.
            stop_sequences: sequences of ids that end a text.
            tokenize: from a string to ids; None where there is no tokenizer.
        """
        biases = self._biases(rows)
        is_one = is_string(self.bad_words)
        given_words = [self.bad_words] if is_one else self.bad_words
        words = [
            [
                form
                for word in row
                for form in forms_of_word(word, tokenize)
                if len(form) > 1 or form not in stop_sequences
            ]
            for row in by_row("bad_words", given_words, rows, is_item=is_word)
        ]
        biased = [list(row) for row in biases]
        for name, table in (("logit_bias", biased), ("bad_words", words)):
            ids = (token for row in table for sequence in row for token in sequence)
            check_ids(name, ids, vocabulary_size)
        allowed, suppressed, begin_suppressed = (
            self._id_rows(name, rows, vocabulary_size)
            for name in (
                "allowed_token_ids",
                "suppress_tokens",
                "begin_suppress_tokens",
            )
        )
        return TokenRules(
            bias_sequences=pad_sequences(biased),
            bias_values=pad_rows([list(row.values()) for row in biases], np.float32),
            bad_words=pad_sequences(words),
            allowed_tokens=allowed,
            suppressed_tokens=suppressed,
            begin_suppressed_tokens=begin_suppressed,
        )

    def _id_rows(self, name: str, rows: int, vocabulary_size: int) -> tf.Tensor:
        """Returns lists of ids as int32 (1 or B, M), padded with -1."""
        table = by_row(name, getattr(self, name), rows, is_item=is_id)
        check_ids(name, (token for row in table for token in row), vocabulary_size)
        return pad_rows(table, np.int32)

    def _biases(self, rows: int) -> list[dict[tuple[int, ...], float]]:
        given = self.logit_bias
        if given is None:
            return [{}]
        tables = [given] if isinstance(given, Mapping) else list(given)
        if len(tables) not in (1, rows):
            raise ValueError(
                "logit_bias must be one dict or one per prompt "
                f"({rows}), got {given!r}."
            )
        for table in tables:
            if not isinstance(table, Mapping):
                raise ValueError(f"logit_bias must be a dict, got {table!r}.")
            for value in table.values():
                if not isinstance(value, Real) or not abs(value) <= LARGEST:
                    raise ValueError(f"logit_bias must be finite, got {value!r}.")
        return [
            {
                (int(key),) if np.ndim(key) == 0 else tuple(map(int, key)): value
                for key, value in table.items()
            }
            for table in tables
        ]

    def stop_strings_by_row(self, rows: int) -> tf.Tensor:
        """Returns the stop strings, string (1 or B, K)."""
        given = self.stop_strings
        given = [given] if isinstance(given, str) else given
        table = by_row("stop_strings", given, rows, is_item=is_string)
        for row in table:
            for string in row:
                if not string:
                    raise ValueError(f"stop_strings must not be empty, got {given!r}.")
        width = max(map(len, table))
        padded = [row + [""] * (width - len(row)) for row in table]
        return tf.constant(padded, tf.string, shape=[len(table), width])

    def with_stop_string(self, string: str) -> GenerationOptions:
        """Returns the options with one more stop string in each row."""
        given = [] if self.stop_strings is None else self.stop_strings
        given = [given] if isinstance(given, str) else list(given)
        is_one = all(map(is_string, given))
        more = [*given, string] if is_one else [[*row, string] for row in given]
        return dataclasses.replace(self, stop_strings=more)

    def beam_settings(self, rows: int) -> tuple[BeamSettings, tf.Tensor]:
        """Returns how each row searches, and its diversity penalty."""
        diversity = numbers("diversity_penalty", self.diversity_penalty, rows)
        if np.any(diversity < 0.0):
            raise ValueError(
                f"diversity_penalty must be at least 0, got {self.diversity_penalty!r}."
            )
        penalty = numbers("length_penalty", self.length_penalty, rows)
        early = tf.fill([rows], _EARLY_STOPPING[self.early_stopping])
        return BeamSettings(tf.constant(penalty), early), tf.constant(diversity)

    def contrastive_settings(self, rows: int) -> ContrastiveSettings:
        """Returns how each row weighs candidates."""
        alpha = numbers("penalty_alpha", self.penalty_alpha, rows)
        if np.any((alpha < 0.0) | (alpha > 1.0)):
            raise ValueError(
                f"penalty_alpha must be in [0, 1], got {self.penalty_alpha!r}."
            )
        top_k = CONTRASTIVE_TOP_K if self.top_k is None else self.top_k
        counts = check_setting("top_k", top_k, rows=rows)
        if np.any(counts < 1):
            raise ValueError(
                f"top_k must be at least 1 with penalty_alpha, got {self.top_k!r}."
            )
        return ContrastiveSettings(tf.constant(alpha), tf.constant(counts, tf.int32))


def _is_made_here(draft: Any) -> bool:
    return isinstance(draft, str) or hasattr(draft, "backbone")


def _equal(value: Any, default: Any) -> bool:
    return value is default or (np.ndim(value) == 0 and value == default)
