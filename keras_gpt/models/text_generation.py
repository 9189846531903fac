"""Strings in, strings out: what a user calls to generate text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_gpt.generation import TextGenerator
from keras_gpt.models.generation_inputs import (
    conversations,
    message_table,
    string_batches,
    unpadded,
    with_prefixes,
)
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import details_of, id_rows, texts_of
from keras_gpt.models.generation_runner import Batch, GenerationRunner

TOKENS_PER_CALL = 4  # of a stream


class TextGeneration:
    """`generate`, `chat` and `stream`, whatever runs the network.

    Attributes:
        backbone: the network, or what stands for it, with its `config`.
        preprocessor: `GPTCausalLMPreprocessor` or None.
        sampler_options: `SamplerOptions`: what calls do by default.
    """

    backbone: Any
    preprocessor: Any
    sampler_options: Any
    _runner: Callable[[], GenerationRunner]  # what runs the network, made once

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: str | Sequence[Any] | None = "auto",
        strip_prompt: bool = False,
        *,
        return_details: bool = False,
        **options: Any,
    ) -> Any:
        """Continues prompts.

        Args:
            inputs: string, list or string tensor, or a `tf.data.Dataset` of batches
                of strings; an empty one starts from the end-of-text token. Without a
                preprocessor: a dict of `token_ids` and `padding_mask`, int (B, T),
                right-padded.
            max_length: int. Longest prompt and continuation together, in tokens.
                Defaults to the preprocessor's `sequence_length`, at most the
                model's context.
            stop_token_ids: ids, and lists of ids that come in a row, that end a text
                and are left out of it; `None` for none, or `"auto"` for the
                tokenizer's end token. Defaults to `"auto"`.
            strip_prompt: bool. Whether to leave the prompt out of the result.
                Defaults to False.
            return_details: bool. Whether to return `GenerationDetails`: ids,
                log-probabilities, alternatives, finish reasons and timings.
                Defaults to False.
            **options: `max_new_tokens`, `temperature`, `top_k`, `seed`,
                `repetition_penalty`, `stop_strings`, `num_beams`, and all the others
                of `keras_gpt.GenerationOptions`.

        Returns:
            A string for a string, else a list of strings in order. Without a
            preprocessor, a dict of int32 `token_ids` and bool `padding_mask`, new
            tokens after each prompt (a prefix is left out). With
            `num_return_sequences` above 1, in place of each string a list of strings,
            beams and the best of draws best first; of each row, that many.

        Raises:
            TypeError: if an option is unknown.
            ValueError: if an option is out of range, a prompt leaves no room in the
                context, or the model's logits are no numbers.
        """
        started = time.monotonic()
        chosen = GenerationOptions.of({**self.sampler_options.method, **options})
        batches, is_scalar = self._prompt_batches(inputs)
        results, prompts = [], []
        for batch in batches:
            before, call = self._batch(batch, max_length, stop_token_ids, chosen)
            results.append(self._runner().generate(call, timed=return_details))
            prompts += [b"" if strip_prompt else text for text in before]
        rows = [row for result in results for row in result.rows]
        texts: Any
        if self.preprocessor is None:
            texts = id_rows(inputs, rows, strip_prompt=strip_prompt)
        else:
            texts = texts_of(prompts, rows, is_scalar=is_scalar, options=chosen)
        if not return_details:
            return texts
        return details_of(
            results,
            text=None if self.preprocessor is None else texts,
            total_seconds=time.monotonic() - started,
            is_scalar=is_scalar,
            is_single=chosen.num_return_sequences == 1,
        )

    def chat(
        self,
        messages: Any,
        max_length: int | None = None,
        stop_token_ids: str | Sequence[Any] | None = "auto",
        **options: Any,
    ) -> Any:
        """Answers conversations, by the preprocessor's `chat_template`.

        Args:
            messages: list of messages, dicts of `role` and `content`, or a list of
                such lists.
            max_length: as in `generate`, like the others.
            stop_token_ids: as in `generate`; what ends a message of the template does
                so, too.
            **options: as in `generate`, of `keras_gpt.GenerationOptions`; one answer
                each.

        Returns:
            The answer, a string, or a list of them.

        Raises:
            TypeError, ValueError: as in `generate`; and if there is no template, or a
                message is none of it.
        """
        preprocessor = self.preprocessor
        template = None if preprocessor is None else preprocessor.chat_template
        if preprocessor is None or template is None:
            raise ValueError(
                "chat_template of the preprocessor must be set to chat, got None."
            )
        rows, is_single = conversations(messages, template)
        chosen = GenerationOptions.of({**self.sampler_options.method, **options})
        if chosen.prefix is not None or chosen.num_return_sequences > 1:
            raise ValueError(
                "prefix and num_return_sequences must not be given to chat."
            )
        runner, stops = self._runner(), self.stop_sequences(stop_token_ids)
        stop = template.stop_of(preprocessor.tokenizer)
        if isinstance(stop, int):
            stops = [*stops, [stop]]
        elif stop is not None:
            chosen = chosen.with_stop_string(stop)
        token_ids = runner.encode_chat(
            message_table(rows, "role"), message_table(rows, "content")
        )
        length = preprocessor.sequence_length if max_length is None else max_length
        call = Batch(token_ids, stops, length, chosen, self.sampler_options.settings)
        found, none = runner.generate(call).rows, [b""] * len(rows)
        return texts_of(none, found, is_scalar=is_single, options=chosen)

    def stream(
        self,
        prompt: str,
        max_length: int | None = None,
        stop_token_ids: str | Sequence[Any] | None = "auto",
        *,
        tokens_per_call: int = TOKENS_PER_CALL,
        **options: Any,
    ) -> Iterator[str]:
        """Continues a prompt, and gives the new text piece by piece as it comes.

        The pieces are whole characters, and together what `generate` returns with
        `strip_prompt=True`.

        Args:
            prompt: string.
            max_length: as in `generate`, like the others.
            stop_token_ids: as in `generate`.
            tokens_per_call: int. Tokens between two pieces, at least: fewer come
                sooner, more cost less. Defaults to 4.
            **options: as in `generate`, of `keras_gpt.GenerationOptions`; for one
                text, by drawing.

        Returns:
            An iterator of strings that are not empty. Arguments are checked before
            it is returned.

        Raises:
            TypeError, ValueError: as in `generate`.
        """
        chosen = GenerationOptions.of({**self.sampler_options.method, **options})
        if not isinstance(prompt, str):
            raise ValueError(f"prompt must be one string, got {type(prompt).__name__}.")
        if tokens_per_call < 1:
            raise ValueError(
                f"tokens_per_call must be at least 1, got {tokens_per_call}."
            )
        is_drawn = not chosen.searches and not chosen.contrasts
        if not is_drawn or chosen.num_draws > 1:
            raise ValueError(
                "stream draws one text: num_beams, best_of and num_return_sequences "
                "must be 1 and penalty_alpha None."
            )
        (batch,), _ = self._prompt_batches(prompt)
        _, call = self._batch(batch, max_length, stop_token_ids, chosen)
        return self._runner().stream(call, tokens_per_call=tokens_per_call)

    def stop_sequences(self, stop_token_ids: Any) -> list[list[int]]:
        """Returns the sequences of ids that the argument of `generate` stands for."""
        if isinstance(stop_token_ids, str):
            if stop_token_ids != "auto":
                raise ValueError(
                    "stop_token_ids must be 'auto', None or ids, "
                    f"got {stop_token_ids!r}."
                )
            if self.preprocessor is None:
                raise ValueError(
                    "stop_token_ids must be None or ids when preprocessor is None, "
                    "got 'auto'."
                )
            end_id = self.preprocessor.tokenizer.end_token_id
            stop_token_ids = [] if end_id is None else [end_id]
        given = [] if stop_token_ids is None else list(stop_token_ids)
        sequences = [[int(i) for i in np.atleast_1d(item)] for item in given]
        if any(not sequence for sequence in sequences):
            raise ValueError(
                f"stop_token_ids must not hold an empty list, got {stop_token_ids!r}."
            )
        # Others than ids of the vocabulary never come.
        return [sequence for sequence in sequences if min(sequence) >= 0]

    def text_generator(self, **kwargs: Any) -> TextGenerator:
        """Returns the graph code that `generate` and exported models run.

        Args:
            **kwargs: arguments of `TextGenerator`, in place of the model's own.

        Raises:
            ValueError: if the model has no preprocessor.
        """
        if self.preprocessor is None:
            raise ValueError(
                "preprocessor must be set to generate from strings, got None."
            )
        return self._runner().text_generator(**kwargs)

    def _prompt_batches(self, inputs: Any) -> tuple[Iterable[Any], bool]:
        """Returns batches of strings, or of ids, and whether it was one string."""
        if self.preprocessor is not None:
            return string_batches(inputs)
        if not isinstance(inputs, dict):
            raise ValueError(
                "inputs must be a dict of token_ids and padding_mask for a model "
                "without a preprocessor (its preset had no tokenizer), got "
                f"{type(inputs).__name__}."
            )
        return [inputs], False

    def _batch(
        self,
        batch: Any,
        max_length: int | None,
        stop_token_ids: Any,
        options: GenerationOptions,
    ) -> tuple[list[bytes], Batch]:
        """Returns a batch's prompts, prefixes included, and what to run for them."""
        if self.preprocessor is None:
            size = self.backbone.config.vocabulary_size
            token_ids = unpadded(batch, options, vocabulary_size=size)
            prompts = []
            # As in KerasHub, the padded length is the default longest result.
            default_length = np.shape(batch["token_ids"])[1]
            if options.prefix is not None:
                default_length = self.backbone.config.max_sequence_length
        else:
            token_ids = self._runner().encode(batch, prefix=options.prefix)
            prompts = with_prefixes(batch.numpy().tolist(), options.prefix)
            default_length = self.preprocessor.sequence_length
        return prompts, Batch(
            token_ids=token_ids,
            stop_sequences=self.stop_sequences(stop_token_ids),
            max_length=default_length if max_length is None else max_length,
            options=options,
            defaults=self.sampler_options.settings,
        )
