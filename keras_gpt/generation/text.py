"""Strings in, strings out: tokenizer, decode loop and detokenizer as graph code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.generation.decoder import Decoder
from keras_gpt.generation.drafts import Drafter
from keras_gpt.generation.settings import GenerationSettings
from keras_gpt.generation.state import (
    INVALID_INPUT,
    PROMPT_TOO_LONG,
    UNFINISHED,
    GeneratedTokens,
    LanguageModel,
    Prompts,
    Request,
)
from keras_gpt.sampling.logits_processors import BANNED_LOGIT, LogitsProcessor


class GeneratedText(NamedTuple):
    """Result of generation from strings.

    Attributes:
        generated_bytes: string (B,). The new text, exactly; it may end or begin
            inside a character.
        tokens: `GeneratedTokens`.
    """

    generated_bytes: tf.Tensor
    tokens: GeneratedTokens


class TextGenerator:
    """A `Decoder` with the tokenizer of its model.

    Args:
        model: a `LanguageModel`.
        tokenizer: a `GPTTokenizer` of the same vocabulary size or smaller: ids that
            it lacks (models are often padded with some) are never generated.
        add_start_token: bool. Whether prompts begin with the end-of-text token, as
            they do in training when the preprocessor adds it. An empty prompt
            always does. Defaults to False.
        processors: `LogitsProcessor`s, as for `Decoder`. Defaults to none.
        drafter: `Drafter`, as for `Decoder`. Optional.
        decoder_class: class of the decoder. Defaults to `Decoder`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        tokenizer: Any,
        add_start_token: bool = False,
        processors: Sequence[LogitsProcessor] = (),
        drafter: Drafter | None = None,
        decoder_class: type[Decoder] = Decoder,
    ) -> None:
        self.tokenizer = tokenizer
        num_ids = tokenizer.vocabulary_size()
        if num_ids < model.config.vocabulary_size:
            model = _WithinVocabulary(model, num_ids=num_ids)
        self.model = model
        self.add_start_token = add_start_token
        self.start_id: int = tokenizer.end_token_id or 0
        self.decoder = decoder_class(
            model,
            token_text=tokenizer.token_text,
            text_start=tokenizer.continuation_separator,
            processors=processors,
            drafter=drafter,
        )

    def prompt_tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids (B, ragged) that the prompts `text` (B,) become."""
        return self._with_start(self.tokenizer.tokenize(text))

    def chat_tokens(
        self, template: Any, *, role: tf.Tensor, content: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """Returns the ids that conversations become, by a `ChatTemplate`; see there."""
        tokens, is_valid = template.tokens(self.tokenizer, role=role, content=content)
        return self._with_start(tokens), is_valid

    def _with_start(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        """Puts the end-of-text token before prompts that begin with it."""
        start = tf.fill([tokens.nrows(), 1], self.start_id)
        if not self.add_start_token:
            needed = tf.cast(tokens.row_lengths() == 0, tf.int64)
            start = tf.RaggedTensor.from_row_lengths(
                tf.fill([tf.reduce_sum(needed)], self.start_id), needed
            )
        else:
            start = tf.RaggedTensor.from_tensor(start)
        return tf.concat([tf.cast(start, tf.int32), tokens], axis=1)

    def __call__(self, text: tf.Tensor, request: Request) -> GeneratedText:
        """Generates one continuation per prompt; a bad row never fails the others.

        Args:
            text: string (B,). UTF-8 prompts. An empty prompt starts from the
                end-of-text token.
            request: `Request` of B rows. Rows whose settings are out of range end
                with `INVALID_INPUT`.

        Returns:
            `GeneratedText`. Prompts that leave no room end with `PROMPT_TOO_LONG`,
            invalid UTF-8 with `INVALID_INPUT`; both with an empty text.
        """
        prompts = self.prompts(text, settings=request.settings)
        tokens = self.decoder.generate(prompts, request)
        return GeneratedText(self.text_of(tokens), tokens)

    def text_of(self, tokens: GeneratedTokens) -> tf.Tensor:
        """Returns what new tokens add to their prompts: string (B,)."""
        return self.detokenize(
            tokens.token_ids,
            num_tokens=tokens.num_tokens,
            text_lengths=tokens.text_lengths,
        )

    def detokenize(
        self, token_ids: tf.Tensor, *, num_tokens: tf.Tensor, text_lengths: tf.Tensor
    ) -> tf.Tensor:
        """Turns tokens (B, N) that continue a text into strings (B,).

        Args:
            token_ids: int32 (B, N).
            num_tokens: int32 (B,).
            text_lengths: int32 (B,). Bytes to keep of each; -1 for all.
        """
        ragged = tf.RaggedTensor.from_tensor(token_ids, num_tokens)
        text = self.tokenizer.detokenize(ragged)
        separator = self.tokenizer.continuation_separator
        if separator:
            joined = tf.strings.join([separator, text])
            text = tf.where(num_tokens > 0, joined, text)
        whole = tf.strings.length(text)
        kept = tf.where(text_lengths < 0, whole, tf.minimum(text_lengths, whole))
        return tf.strings.substr(text, tf.zeros_like(kept), kept)

    def prompts(
        self,
        text: tf.Tensor,
        *,
        settings: GenerationSettings,
        are_valid: tf.Tensor | bool = True,
        truncates: tf.Tensor | bool = False,
    ) -> Prompts:
        """Tokenizes prompts (B,), and finds the rows that cannot be continued.

        Args:
            text: string (B,).
            settings: `GenerationSettings` of B rows.
            are_valid: bool (B,). Whether what else a row asks for is in range.
                Defaults to True.
            truncates: bool (B,). Whether the last tokens of a prompt that is too long
                are kept: so many that its new tokens have room, but at least half of
                the context. Defaults to False.
        """
        transcoded = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        return self.prompts_of_tokens(
            self.prompt_tokens(text),
            settings=settings,
            are_valid=are_valid & (transcoded == text),
            truncates=truncates,
        )

    def prompts_of_tokens(
        self,
        tokens: tf.RaggedTensor,
        *,
        settings: GenerationSettings,
        are_valid: tf.Tensor | bool = True,
        truncates: tf.Tensor | bool = False,
    ) -> Prompts:
        """As `prompts`, of tokens int32 (B, ragged)."""
        lengths = tf.cast(tokens.row_lengths(), tf.int32)
        context = self.model.config.max_sequence_length
        is_long = lengths >= context
        half = max(context // 2, 1)
        room = tf.clip_by_value(settings.max_new_tokens, 1, half)
        cut = tf.where(is_long & truncates, tf.maximum(context - room, 1), lengths)
        finish_reason = tf.where(cut >= context, PROMPT_TOO_LONG, UNFINISHED)
        is_valid = settings.are_valid & are_valid
        finish_reason = tf.where(is_valid, finish_reason, INVALID_INPUT)
        usable = finish_reason == UNFINISHED
        # A bad row runs as one token, so that it costs its neighbours nothing.
        cut = tf.where(usable, cut, 1)
        longest = tf.reduce_max(tf.concat([cut, [1]], axis=0))
        places = (lengths - cut)[:, None] + tf.range(longest)
        is_there = usable[:, None] & (tf.range(longest) < cut[:, None])
        first = tf.cast(tokens.row_starts(), tf.int32)[:, None]
        values = tf.pad(tokens.values, [[1, 0]])
        token_ids = tf.gather(values, tf.where(is_there, first + places + 1, 0))
        return Prompts.of(self.model, token_ids, cut, finish_reason)


class _WithinVocabulary:
    """A `LanguageModel` that never chooses an id of `num_ids` or above."""

    def __init__(self, model: LanguageModel, *, num_ids: int) -> None:
        self.config = model.config
        self.empty_cache = model.empty_cache
        self._model = model
        self._num_ids = num_ids

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._model.forward(*args, **kwargs)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        logits = self._model.logits(hidden)
        ids = tf.range(tf.shape(logits)[-1])
        return tf.where(ids < self._num_ids, logits, BANNED_LOGIT)
