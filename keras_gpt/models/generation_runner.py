"""Runs generation for `GPTCausalLM`: from prompts and options to continuations."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.generation import (
    FINISH_REASONS,
    INVALID_LOGITS,
    UNFINISHED,
    Decoder,
    Prefix,
    Prompts,
    Request,
    Stops,
    TextGenerator,
)
from keras_gpt.models.debugging import first_invalid_layer
from keras_gpt.models.decoder_cache import DecoderCache
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import Continuation, continuations
from keras_gpt.models.option_values import check_setting, pad_sequences
from keras_gpt.models.text_stream import TextStream, num_tokens_held_back
from keras_gpt.models.traced_functions import TracedDecoder, TracedTokenizer
from keras_gpt.sampling import beam_search

# Odd, so that multiples are distinct: 2**64 over the golden ratio (Knuth 1998, 6.4).
SEED_STRIDE = 0x9E3779B97F4A7C15
STEPS_AT_ONCE = 4  # between two looks at the clock
UNLIMITED = int(np.iinfo(np.int32).max)


class PromptPrefix(NamedTuple):
    """A prompt that was computed, to be continued any number of times.

    Attributes:
        texts: the prompts, as bytes; None of a model without a tokenizer.
        is_single: bool. Whether it was one prompt, which any number may continue; of
            a list, each prompt is continued by the one in its place.
        state: `keras_gpt.generation.Prefix`.
        backbone: the network that computed it.
    """

    texts: list[bytes] | None
    is_single: bool
    state: Prefix
    backbone: Any


class Batch(NamedTuple):
    """Prompts that run together.

    Attributes:
        token_ids: ids of each prompt, int32 arrays, behind its prefix.
        stop_sequences: sequences of ids that end a text.
        max_length: int. Longest prompt and continuation, in tokens.
        options: `GenerationOptions`.
        defaults: settings for options that are not given.
    """

    token_ids: list[np.ndarray]
    stop_sequences: list[list[int]]
    max_length: int
    options: GenerationOptions
    defaults: Mapping[str, Any]


class BatchResult(NamedTuple):
    """Continuations of each prompt, and what the call has counted.

    Attributes:
        rows: a list of `Continuation` for each prompt, best first.
        num_drafted: int.
        num_accepted: int.
        first_token_seconds: float or None. From the call's start.
    """

    rows: list[list[Continuation]]
    num_drafted: int = 0
    num_accepted: int = 0
    first_token_seconds: float | None = None


class GenerationRunner:
    """The traced graphs of one network and tokenizer, and how calls use them.

    Args:
        backbone: `GPTBackbone`.
        preprocessor: `GPTCausalLMPreprocessor` or None.
    """

    def __init__(self, backbone: Any, preprocessor: Any) -> None:
        self.backbone = backbone
        self.context: int = backbone.config.max_sequence_length
        self._preprocessor = preprocessor
        self._decoders = DecoderCache(backbone, self._new_decoder)
        self._tokenizer = preprocessor and TracedTokenizer(self.text_generator())

    @property
    def tokenizer(self) -> TracedTokenizer:
        """The traced tokenizer.

        Raises:
            ValueError: if there is no preprocessor.
        """
        if self._tokenizer is None:
            raise ValueError("preprocessor must be set to work on strings, got None.")
        return self._tokenizer

    def text_generator(self, **kwargs: Any) -> TextGenerator:
        """Returns the graph code that exported models run too.

        Args:
            **kwargs: arguments of `TextGenerator`, in place of the model's own.
        """
        own = {
            "model": self.backbone,
            "tokenizer": self._preprocessor.tokenizer,
            "add_start_token": self._preprocessor.add_start_token,
        }
        return TextGenerator(**own | kwargs)

    def decoder(self, options: GenerationOptions | None = None) -> TracedDecoder:
        """Returns the traced decoder for the functions and the drafter of a call."""
        return self._decoders.get(options or GenerationOptions())

    def _new_decoder(self, **parts: Any) -> Any:
        return self._traced_decoder(Decoder, **parts)

    def _traced_decoder(self, decoder_class: Any, **parts: Any) -> TracedDecoder:
        if self._preprocessor is None:
            return TracedDecoder(decoder_class(self.backbone, **parts))
        generator = self.text_generator(decoder_class=decoder_class, **parts)
        return TracedDecoder(generator.decoder)

    def encode(self, texts: tf.Tensor, *, prefix: PromptPrefix | None) -> list[Any]:
        """Returns the ids that prompts, or what follows a prefix, become."""
        self.prefix_of(prefix, len(texts))  # or an error
        for row, data in enumerate(texts.numpy()):
            check_utf8(data, row)
        traced = self.tokenizer
        if not len(texts):
            return []
        tokens = (traced.prompt_tokens if prefix is None else traced.tokenize)(texts)
        return np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])

    def encode_chat(self, role: tf.Tensor, content: tf.Tensor) -> list[Any]:
        """Returns the ids that conversations, string (B, M) each, become."""
        if not len(role):
            return []
        tokens, _ = self.text_generator().chat_tokens(
            self._preprocessor.chat_template, role=role, content=content
        )
        return np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])

    def generate(self, batch: Batch, *, timed: bool = False) -> BatchResult:
        """Continues each prompt.

        Args:
            batch: `Batch`.
            timed: bool. Whether to take the time of the first token.
        """
        options = batch.options
        if not batch.token_ids:
            return BatchResult([])
        if options.searches:
            return self._search(batch)
        return self._draw(batch, timed=timed)

    def _search(self, batch: Batch) -> BatchResult:
        options, rows = batch.options, len(batch.token_ids)
        size = self.backbone.config.vocabulary_size
        if options.num_beams > size:
            raise ValueError(
                f"num_beams must be at most the vocabulary's {size} tokens, "
                f"got {options.num_beams}."
            )
        prompts, request = self._start(batch)
        settings, diversity = options.beam_settings(rows)
        search = self.decoder(options).search(
            options.num_beams, options.num_beam_groups
        )
        found = _as_arrays(search(prompts, request, settings, diversity))
        self._check_logits(
            batch,
            found._replace(
                finish_reason=found.finish_reason[:, 0],
                num_tokens=found.num_tokens[:, 0],
                token_ids=found.token_ids[:, 0],
            ),
        )
        # Places of beams that were never filled come last, and hold no tokens.
        is_there = found.scores > beam_search.LOWEST_SCORE
        found = found._replace(scores=np.where(is_there, found.scores, -np.inf))
        results = []
        for row in range(rows):
            reasons = [FINISH_REASONS[code] for code in found.finish_reason[row]]
            beams = type(found)(*(field[row] for field in found))
            texts = self._texts(beams.token_ids, beams.num_tokens, beams.text_lengths)
            each = continuations(beams, texts, reasons=reasons, scores=beams.scores)
            results.append(each[: options.num_return_sequences])
        return BatchResult(results)

    def _draw(self, batch: Batch, *, timed: bool) -> BatchResult:
        options, copies = batch.options, batch.options.num_draws
        started = time.monotonic()
        decoder = self.decoder(options)
        prompts, request = self._start(batch)
        first = None
        if options.contrasts:
            settings = options.contrastive_settings(len(batch.token_ids))
            tokens = decoder.contrast(prompts, request, settings)
        elif timed or options.max_time is not None:
            state = decoder.advance(decoder.begin(prompts, request), request, 1)
            first = time.monotonic() - started
            state = self._advance(state, request, options, started=started)
            tokens = decoder.new_tokens(state)
        else:
            tokens = decoder.generate(prompts, request)
        tokens = _as_arrays(tokens)
        self._check_logits(batch, tokens)
        reasons = [FINISH_REASONS[code] or "time" for code in tokens.finish_reason]
        texts = self._texts(tokens.token_ids, tokens.num_tokens, tokens.text_lengths)
        flat = continuations(tokens, texts, reasons=reasons)
        rows = [flat[i : i + copies] for i in range(0, len(flat), copies)]
        if options.best_of is not None:
            # A text of no tokens has no likelihood to speak of.
            rows = [
                sorted(row, key=lambda c: (not len(c.token_ids), -c.score))
                for row in rows
            ]
        return BatchResult(
            [row[: options.num_return_sequences] for row in rows],
            num_drafted=int(tokens.num_drafted.sum()),
            num_accepted=int(tokens.num_accepted.sum()),
            first_token_seconds=first,
        )

    def _advance(
        self,
        state: Any,
        request: Request,
        options: GenerationOptions,
        *,
        started: float,
    ) -> Any:
        """Goes on until all rows have ended or the time is over."""
        decoder = self.decoder(options)
        if options.max_time is None:
            return decoder.advance(state, request, UNLIMITED)
        while _has_time(options, started) and state.is_running.numpy().any():
            state = decoder.advance(state, request, STEPS_AT_ONCE)
        return state

    def stream(self, batch: Batch, *, tokens_per_call: int) -> Iterator[str]:
        """Returns the pieces of one prompt's continuation as they come."""
        decoder, options = self.decoder(batch.options), batch.options
        # Now, so that errors come before the first piece.
        prompts, request = self._start(batch)
        strings = options.stop_strings_by_row(1).numpy()[0].tolist()

        def pieces() -> Iterator[str]:
            started, text, is_running = time.monotonic(), TextStream(strings), True
            state = decoder.begin(prompts, request)
            while is_running:
                state = decoder.advance(state, request, tokens_per_call)
                tokens = _as_arrays(decoder.new_tokens(state))
                self._check_logits(batch, tokens)
                is_running = bool(tokens.finish_reason[0] == UNFINISHED)
                is_running &= _has_time(options, started)
                count = tokens.num_tokens
                if is_running:
                    ids = tokens.token_ids[0].tolist()
                    count = count - num_tokens_held_back(ids, batch.stop_sequences)
                (new,) = self._texts(tokens.token_ids, count, tokens.text_lengths) or []
                piece = text.grow(new, is_whole=not is_running)
                if piece:
                    yield piece

        return pieces()

    def prefill(
        self, token_ids: list[np.ndarray], *, prefix: PromptPrefix | None = None
    ) -> Prefix:
        """Computes prompts, each at most a token shorter than the context."""
        if not token_ids:
            raise ValueError("inputs must have a prompt to prefill, got none.")
        state, rows = self.prefix_of(prefix, len(token_ids))
        self._check_lengths(token_ids, state.lengths.numpy()[rows])
        return self.decoder().prefill(_prompts(token_ids, state, rows))

    def _start(self, batch: Batch) -> tuple[Prompts, Request]:
        """Returns what a decoder begins with."""
        options = batch.options
        prefix, prefix_rows = self.prefix_of(options.prefix, len(batch.token_ids))
        before = prefix.lengths.numpy()[prefix_rows]
        token_ids = batch.token_ids
        if options.truncate is not None:
            token_ids = self._truncated(batch)
        self._check_lengths(token_ids, before)
        lengths = before + np.array([len(ids) for ids in token_ids], np.int32)
        request = self._request(batch, lengths)
        prompts, copies = _prompts(token_ids, prefix, prefix_rows), options.num_draws
        if copies > 1:
            # What the draws of a prompt share is computed once.
            whole = self.decoder().prefill(prompts)
            rows = np.repeat(np.arange(len(token_ids), dtype=np.int32), copies)
            prompts = _prompts([np.zeros(0, np.int32)] * len(rows), whole, rows)
        return prompts, request

    def _truncated(self, batch: Batch) -> list[np.ndarray]:
        """Returns the last tokens of the prompts that are too long."""
        wanted = batch.options.max_new_tokens
        longest = min(self._longest(batch), self.context)
        half = max(longest // 2, 1)
        counts = check_setting(
            "max_new_tokens",
            half if wanted is None else wanted,
            rows=len(batch.token_ids),
        )
        kept = np.maximum(longest - np.clip(counts, 1, half), 1)
        return [
            ids if len(ids) < longest else ids[-count:]
            for ids, count in zip(batch.token_ids, kept, strict=True)
        ]

    def _longest(self, batch: Batch) -> int:
        """Returns how many tokens a prompt and its text may have together."""
        length, options = batch.max_length, batch.options
        if not isinstance(length, int | np.integer) or length < 1:
            raise ValueError(
                f"max_length must be an integer of at least 1, got {length!r}."
            )
        if not options.sliding_window:
            return min(length, self.context)
        return length if options.max_new_tokens is None else UNLIMITED

    def prefix_of(
        self, prefix: PromptPrefix | None, rows: int
    ) -> tuple[Prefix, np.ndarray]:
        """Returns the prefix and, for each prompt, its row of it.

        Raises:
            ValueError: if it is none, or does not fit the number of prompts.
        """
        if prefix is None:
            return self.decoder().empty_prefix, np.zeros(rows, np.int32)
        if not isinstance(prefix, PromptPrefix):
            raise ValueError(
                f"prefix must be what prefill returned, got {prefix!r:.80}."
            )
        if prefix.backbone is not self.backbone:
            raise ValueError(
                "prefix must be what this model's prefill returned, got another's."
            )
        if prefix.is_single:
            return prefix.state, np.zeros(rows, np.int32)
        count = len(prefix.state.lengths)
        if count != rows:
            raise ValueError(
                f"prefix must be of one prompt or of as many as inputs has, {rows}, "
                f"got {count}."
            )
        return prefix.state, np.arange(rows, dtype=np.int32)

    def _check_lengths(self, token_ids: list[np.ndarray], before: np.ndarray) -> None:
        for row, (ids, first) in enumerate(zip(token_ids, before, strict=True)):
            if len(ids) + first >= self.context:
                raise ValueError(
                    f"a prompt must be shorter than the context of {self.context} "
                    f"tokens, got {len(ids) + first} tokens in prompt {row} "
                    "(truncate='left' keeps the last ones)."
                )

    def _request(self, batch: Batch, lengths: np.ndarray) -> Request:
        """Checks the options and spreads them over the rows."""
        options, rows = batch.options, len(lengths)
        size = self.backbone.config.vocabulary_size
        if options.num_alternatives > size:
            raise ValueError(
                f"num_alternatives must be at most the vocabulary's {size} tokens, "
                f"got {options.num_alternatives}."
            )
        room = np.maximum(self._longest(batch) - lengths, 0)
        seeds = [secrets.randbits(63) for _ in range(rows)]
        defaults = {**batch.defaults, "max_new_tokens": room, "seed": seeds}
        settings = options.settings(rows=rows, room=room, defaults=defaults)
        strings = options.stop_strings_by_row(rows)
        if strings.shape[1] and self._preprocessor is None:
            raise ValueError(
                "stop_strings must be None for a model without a preprocessor, "
                f"got {options.stop_strings!r}."
            )
        rules = options.rules(
            rows=rows,
            vocabulary_size=size,
            stop_sequences=batch.stop_sequences,
            tokenize=self._preprocessor and self._ids_of,
        )
        request = Request(
            settings=settings,
            stops=Stops(pad_sequences([batch.stop_sequences]), strings),
            rules=rules,
            slides=tf.fill([rows], options.sliding_window),
            num_alternatives=tf.constant(options.num_alternatives),
        )
        return _copied(request, options.num_draws)

    def _ids_of(self, text: str) -> list[int]:
        return self.tokenizer.tokenize(tf.constant([text])).values.numpy().tolist()

    def _texts(
        self, token_ids: np.ndarray, counts: np.ndarray, kept: np.ndarray
    ) -> list[bytes] | None:
        """Returns new tokens as texts, of which so many bytes are kept."""
        if self._tokenizer is None:
            return None
        return self._tokenizer.detokenize(token_ids, counts, kept).numpy().tolist()

    def _check_logits(self, batch: Batch, tokens: Any) -> None:
        """Raises `ValueError` if the logits of a row were no numbers."""
        copies = batch.options.num_draws
        for row in np.flatnonzero(tokens.finish_reason == INVALID_LOGITS):
            count = tokens.num_tokens[row]
            prompt = batch.token_ids[row // copies]
            prefix, rows = self.prefix_of(batch.options.prefix, len(batch.token_ids))
            before = prefix.lengths.numpy()[rows[row // copies]]
            first = prefix.token_ids.numpy()[rows[row // copies], :before]
            ids = np.concatenate([first, prompt, tokens.token_ids[row, :count]])
            place = self._first_invalid_place(ids[-self.context :])
            raise ValueError(
                f"logits must be finite, got NaN or infinity in row {row} after "
                f"{count} new tokens: they began in {place}."
            )

    def _first_invalid_place(self, token_ids: np.ndarray) -> str:
        return first_invalid_layer(self.backbone, token_ids)


def _has_time(options: GenerationOptions, started: float) -> bool:
    limit = options.max_time
    return limit is None or time.monotonic() - started < limit


def check_utf8(data: bytes, row: int) -> None:
    """Raises `ValueError` unless the text number `row` is valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"inputs must be valid UTF-8, got {data!r} in text {row}."
        ) from error


def _as_arrays(tensors: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), tensors)


def _prompts(
    token_ids: Sequence[np.ndarray], prefix: Prefix, prefix_rows: np.ndarray
) -> Prompts:
    lengths = [len(ids) for ids in token_ids]
    table = np.zeros([len(token_ids), max(lengths, default=0)], np.int32)
    for row, ids in enumerate(token_ids):
        table[row, : len(ids)] = ids
    return Prompts(
        token_ids=tf.constant(table),
        lengths=tf.constant(lengths, tf.int32),
        finish_reason=tf.fill([len(lengths)], UNFINISHED),
        prefix=prefix,
        prefix_rows=tf.constant(prefix_rows),
    )


def _copied(request: Request, copies: int) -> Request:
    """Returns the request of so many draws for each row, each with its own seed."""
    if copies == 1:
        return request
    rows = len(request.slides)

    def repeat(field: tf.Tensor) -> tf.Tensor:
        is_shared = field.shape.rank == 0 or (field.shape[0] == 1 and rows != 1)
        return field if is_shared else tf.repeat(field, copies, axis=0)

    request = tf.nest.map_structure(repeat, request)
    strides = np.arange(copies, dtype=np.uint64) * np.uint64(SEED_STRIDE)
    seeds = request.settings.seed.numpy().view(np.uint64) + np.tile(strides, rows)
    seeds = tf.constant(seeds.view(np.int64))
    return request._replace(settings=request.settings._replace(seed=seeds))
