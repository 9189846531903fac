"""GPT as a language model: trains on strings, generates strings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.generation import TextGenerator
from keras_gpt.losses import mean_cross_entropy
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.decoder_cache import SameObjects
from keras_gpt.models.fit_data import as_tensors, num_rows
from keras_gpt.models.generation_inputs import (
    conversations,
    message_table,
    string_batches,
    unpadded,
    with_prefixes,
)
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_results import details_of, id_rows, texts_of
from keras_gpt.models.generation_runner import (
    Batch,
    GenerationRunner,
    PromptPrefix,
    check_utf8,
)
from keras_gpt.models.kerashub_samplers import options_of_sampler
from keras_gpt.models.task import GPTTask
from keras_gpt.scoring import TextScore

TOKENS_PER_CALL = 4  # of a stream


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTCausalLM(GPTTask, keras_nlp.models.CausalLM):
    """A `keras_nlp.models.CausalLM` on a `GPTBackbone`.

    Args:
        backbone: `GPTBackbone`.
        preprocessor: `GPTCausalLMPreprocessor`, or `None` to work on token ids.

    Example:
        >>> lm = GPTCausalLM.from_preset("path/to/preset")
        >>> lm.generate("Once upon a time", max_new_tokens=100)
        >>> lm.generate(["To be", "or not"], temperature=0.8, top_k=40, seed=7)
        >>> lm.fit(["a text", "another text"], batch_size=2)
    """

    preprocessor_cls = GPTCausalLMPreprocessor

    def __init__(
        self,
        backbone: GPTBackbone,
        preprocessor: GPTCausalLMPreprocessor | None = None,
        **kwargs: Any,
    ) -> None:
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Model ===
        inputs = backbone.input
        outputs = self.outputs_of(self.hidden_of(inputs), inputs)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._traced: tuple[Any, GenerationRunner] | None = None

    def outputs_of(
        self, hidden: tf.Tensor, inputs: Any, training: bool | None = None
    ) -> tf.Tensor:
        """Returns float32 logits (B, T, V), from hidden states (B, T, D)."""
        return self.backbone.logits(hidden)

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        sampler: Any = "random",
        **kwargs: Any,
    ) -> None:
        """Configures training, and the settings that `generate` defaults to.

        Args:
            optimizer: as in `GPTTask.compile`.
            loss: mean cross-entropy of the next tokens that count, by default.
            sampler: `"random"`, `"greedy"`, `"top_k"`, `"top_p"`, `"beam"`,
                `"contrastive"`, or one of `keras_nlp.samplers` of these kinds.
                Defaults to `"random"`.
            **kwargs: further arguments of `GPTTask.compile`; `weighted_metrics` is
                next-token accuracy by default.

        Raises:
            ValueError: if the sampler is of another kind; and as there.
        """
        super().compile(optimizer=optimizer, loss=loss, sampler=sampler, **kwargs)
        self.sampler_options = options_of_sampler(self.sampler)

    def training_examples(self, x: Any, y: Any, sample_weight: Any) -> tf.data.Dataset:
        """Returns single examples; texts have no targets of their own."""
        if y is None and sample_weight is not None and self.preprocessor is not None:
            # Keras leaves weights out where there are no targets.
            y = tf.zeros([num_rows(as_tensors(x))])
        return super().training_examples(x, y, sample_weight)

    def _default_loss(self) -> keras.losses.Loss:
        return mean_cross_entropy()

    def _default_metrics(self) -> dict[str, Any]:
        return {"weighted_metrics": [keras.metrics.SparseCategoricalAccuracy()]}

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

    def prefill(
        self, inputs: Any, *, prefix: PromptPrefix | None = None
    ) -> PromptPrefix:
        """Computes the beginning that many texts share, once.

        `generate("...", prefix=lm.prefill("a long beginning"))` continues it, and
        gives what it would for the ids of both together; a token never spans the
        border. An empty string continues the beginning itself.

        Args:
            inputs: string or list of strings, as in `generate`.
            prefix: what `prefill` returned, for more to follow it. Optional.

        Returns:
            `PromptPrefix`. It holds the KV cache, and is good as long as the weights
            stay as they are.

        Raises:
            ValueError: if a text is not shorter than the context.
        """
        if isinstance(inputs, tf.data.Dataset):
            raise ValueError("inputs must be a string or a list, got a dataset.")
        (batch,), is_scalar = self._prompt_batches(inputs)
        options = GenerationOptions(prefix=prefix)
        texts, call = self._batch(batch, None, None, options)
        state = self._runner().prefill(call.token_ids, prefix=prefix)
        return PromptPrefix(
            texts=None if self.preprocessor is None else texts,
            is_single=is_scalar and (prefix is None or prefix.is_single),
            state=state,
            backbone=self.backbone,
        )

    def score(self, inputs: Any) -> Any:
        """Measures how likely texts are, in one forward pass a batch.

        Args:
            inputs: string, list or string tensor, or a `tf.data.Dataset` of batches
                of strings. Texts of no tokens have a total of 0.

        Returns:
            A `keras_gpt.scoring.TextScore` for a string, else a list of them in
            order: token ids and their log-probabilities in nats, of the first token
            after the end-of-text token.

        Raises:
            ValueError: if a text is not UTF-8 or longer than the context, or the
                model has no preprocessor.
        """
        batches, is_scalar = string_batches(inputs)
        scores = [score for batch in batches for score in self._score_batch(batch)]
        return scores[0] if is_scalar else scores

    def _score_batch(self, texts: tf.Tensor) -> list[TextScore]:
        runner = self._runner()
        rows = runner.tokenizer.tokenize(texts)
        lengths = rows.row_lengths().numpy()
        for row, length in enumerate(lengths):
            if length > runner.context:
                raise ValueError(
                    "a text must be no longer than the context of "
                    f"{runner.context} tokens, got {length} tokens in text {row}."
                )
        for row, data in enumerate(texts.numpy()):
            check_utf8(data, row)
        token_ids = rows.to_tensor()
        start_id = tf.constant(runner.tokenizer.start_id)
        log_probs = runner.decoder().score(token_ids, start_id).numpy()
        return [
            TextScore(ids[:length], found[:length], float(found[:length].sum()))
            for ids, found, length in zip(
                token_ids.numpy(), log_probs, lengths, strict=True
            )
        ]

    def _runner(self) -> GenerationRunner:
        """Returns what runs `generate`, made once per network."""
        # LoRA and quantization change the variables, hence the graph.
        key = (SameObjects(self.backbone.variables), id(self.preprocessor))
        if self._traced is None or self._traced[0] != key:
            runner = GenerationRunner(self.backbone, self.preprocessor)
            self._traced = (key, runner)
        return self._traced[1]

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
