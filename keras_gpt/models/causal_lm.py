"""GPT as a language model: trains on strings, generates strings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt import generation, presets
from keras_gpt.generation import SETTINGS, GenerationSettings, TextGenerator
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.generate_arguments import (
    BeamArguments,
    check_setting,
    check_utf8,
    settings_of_sampler,
    string_batches,
)
from keras_gpt.models.traced_functions import TracedFunctions
from keras_gpt.scoring import TextScore


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTCausalLM(keras_nlp.models.CausalLM):
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

    backbone_cls = GPTBackbone
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
        outputs = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._traced: tuple[Any, TracedFunctions] | None = None

    @classmethod
    def from_preset(
        cls, preset: Any, load_weights: bool = True, **kwargs: Any
    ) -> GPTCausalLM:
        """Loads a model; see `GPTBackbone.from_preset` for what there is.

        Args:
            preset: string or path, as there.
            load_weights: bool. Whether to load the weights rather than to draw new
                ones. Defaults to True.
            **kwargs: `dtype` and fields of `GPTConfig` to change, for the backbone;
                and arguments of the constructor, such as `preprocessor`. A
                checkpoint without tokenizer files gives a model without one.

        Raises:
            FileNotFoundError, ConnectionError, ValueError: as there.
        """
        found = presets.find(preset)
        if found.checkpoint is None:
            return super().from_preset(
                found.location, load_weights=load_weights, **kwargs
            )
        return cls(
            **presets.task_arguments(
                cls, found.checkpoint, load_weights=load_weights, kwargs=kwargs
            )
        )

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        weighted_metrics: Any = "auto",
        sampler: Any = "random",
        **kwargs: Any,
    ) -> None:
        """Configures training, and the settings that `generate` defaults to.

        Args:
            optimizer: as in `keras_nlp.models.CausalLM.compile`, like the others.
            loss: mean next-token cross-entropy by default.
            weighted_metrics: next-token accuracy by default.
            sampler: `"random"`, `"greedy"`, `"top_k"`, `"top_p"`, or one of
                `keras_nlp.samplers` of these kinds. Defaults to `"random"`.
            **kwargs: further arguments of `keras.Model.compile`.

        Raises:
            ValueError: if the sampler is of another kind.
        """
        super().compile(
            optimizer=optimizer,
            loss=loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )
        self._sampler_settings = settings_of_sampler(self.sampler)

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: str | Sequence[int] | None = "auto",
        strip_prompt: bool = False,
        *,
        max_new_tokens: int | Sequence[int] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        min_p: float | Sequence[float] | None = None,
        typical_p: float | Sequence[float] | None = None,
        epsilon_cutoff: float | Sequence[float] | None = None,
        eta_cutoff: float | Sequence[float] | None = None,
        min_new_tokens: int | Sequence[int] | None = None,
        repetition_penalty: float | Sequence[float] | None = None,
        presence_penalty: float | Sequence[float] | None = None,
        frequency_penalty: float | Sequence[float] | None = None,
        no_repeat_ngram_size: int | Sequence[int] | None = None,
        seed: int | Sequence[int] | None = None,
        num_beams: int = 1,
        length_penalty: float | Sequence[float] = 1.0,
        early_stopping: bool | str = False,
        num_return_sequences: int = 1,
    ) -> Any:
        """Continues prompts. Each setting is one value, or one per prompt.

        Args:
            inputs: string, list or string tensor, or a `tf.data.Dataset` of batches
                of strings. Without a preprocessor: a dict of `token_ids` and
                `padding_mask`, int (B, T), right-padded.
            max_length: int. Longest prompt and continuation together, in tokens.
                Defaults to the preprocessor's `sequence_length`, at most the
                model's context.
            stop_token_ids: ids that end a text, `None` for none, or `"auto"` for
                the tokenizer's end token. Defaults to `"auto"`.
            strip_prompt: bool. Whether to leave the prompt out of the result.
                Defaults to False.
            max_new_tokens: int, at least 0. Longest continuation. Defaults to as
                many as `max_length` allows.
            temperature: float, at least 0; 0 is greedy. Defaults to the sampler
                given to `compile`, there 1.
            top_k: int, at least 0. Tokens to keep; 0 is off. Defaults likewise to 0.
            top_p: float in (0, 1]. Nucleus to keep; 1 is off. Defaults likewise to 1.
            min_p: float in [0, 1]. Least share of the likeliest token's probability;
                0 is off. Defaults to 0.
            typical_p: float in (0, 1]. Probability to keep of the tokens whose
                surprise is nearest to the expected one; 1 is off. Defaults to 1.
            epsilon_cutoff: float in [0, 1). Least probability of a token; 0 is off.
                Defaults to 0.
            eta_cutoff: float in [0, 1). As `epsilon_cutoff`, but lower where many
                tokens are likely; 0 is off. Defaults to 0.
            min_new_tokens: int, at least 0. The text does not stop before. Defaults
                to 0.
            repetition_penalty: float above 0. Makes tokens that the prompt or the
                text holds less likely where above 1; 1 is off. Defaults to 1.
            presence_penalty: float. Taken from the logits of tokens that the new text
                holds. Defaults to 0.
            frequency_penalty: float. Taken from them for each time that it holds
                them. Defaults to 0.
            no_repeat_ngram_size: int, at least 0. So many tokens in a row never occur
                twice, the prompt included; 0 is off. Defaults to 0.
            seed: int. The same seed gives the same text for the same prompt.
                Defaults to a fresh one for each prompt.
            num_beams: int. Above 1, the continuation is found by beam search, with
                transformers' rules, in place of drawing. Defaults to 1.
            length_penalty: float. Power of a beam's length that divides its
                log-probability: above 0 favours long texts. Defaults to 1.
            early_stopping: bool or string. Whether the search stops once `num_beams`
                texts have ended: False goes on while a better one looks likely,
                `"never"` while one is possible. Defaults to False.
            num_return_sequences: int, at most `num_beams`. How many of the best beams
                to return. Defaults to 1.

        Returns:
            A string for a string, else a list of strings in order. Without a
            preprocessor, a dict of int32 `token_ids` and bool `padding_mask`, new
            tokens after each prompt. With `num_return_sequences` above 1, in place
            of each string a list of strings, best first; of each row, that many.

        Raises:
            ValueError: if a setting is out of range, or a prompt leaves no room in
                the context.
        """
        knobs = {
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_new_tokens,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "epsilon_cutoff": epsilon_cutoff,
            "eta_cutoff": eta_cutoff,
            "seed": seed,
        }
        beams = BeamArguments(
            num_beams, length_penalty, early_stopping, num_return_sequences
        )
        beams.check(knobs)
        if self.preprocessor is None and not isinstance(inputs, dict):
            raise ValueError(
                "inputs must be a dict of token_ids and padding_mask for a model "
                "without a preprocessor (its preset had no tokenizer), got "
                f"{type(inputs).__name__}."
            )
        stop_ids = self._stop_token_ids(stop_token_ids)
        if self.preprocessor is None:
            return self._generate_ids(
                inputs, max_length, stop_ids, strip_prompt, knobs, beams
            )
        batches, is_scalar = string_batches(inputs)
        texts = [
            text
            for batch in batches
            for text in self._generate_text(
                batch, max_length, stop_ids, strip_prompt, knobs, beams
            )
        ]
        return texts[0] if is_scalar else texts

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
        traced = self._traced_functions()
        rows = traced.tokenize(texts)
        lengths = rows.row_lengths().numpy()
        context = self.backbone.config.max_sequence_length
        for row, length in enumerate(lengths):
            if length > context:
                raise ValueError(
                    f"a text must be no longer than the context of {context} tokens, "
                    f"got {length} tokens in text {row}."
                )
        for row, data in enumerate(texts.numpy()):
            check_utf8(data, row)
        token_ids = rows.to_tensor()
        log_probs = traced.score(token_ids).numpy()
        return [
            TextScore(ids[:length], found[:length], float(found[:length].sum()))
            for ids, found, length in zip(
                token_ids.numpy(), log_probs, lengths, strict=True
            )
        ]

    def _generate_text(
        self,
        prompts: tf.Tensor,
        max_length: int | None,
        stop_ids: tf.Tensor,
        strip_prompt: bool,
        knobs: dict[str, Any],
        beams: BeamArguments,
    ) -> list[Any]:
        traced = self._traced_functions()
        lengths = traced.count(prompts).numpy()
        self._check_prompts(lengths)
        settings = self._settings(knobs, lengths, max_length)
        if beams.num_beams > 1:
            result = traced.search(beams.num_beams)(
                prompts,
                settings.max_new_tokens,
                beams.settings(len(lengths)),
                stop_ids,
            )
        else:
            result = traced.generate(prompts, settings, stop_ids)
        reasons = result.tokens.finish_reason.numpy().reshape([len(lengths), -1])
        invalid = np.flatnonzero(reasons[:, 0] == generation.INVALID_INPUT)
        if invalid.size:
            raise ValueError(
                f"inputs must be valid UTF-8, got {prompts[invalid[0]].numpy()!r}."
            )
        found = result.generated_bytes.numpy().reshape([len(lengths), -1])
        texts = [
            [
                (new if strip_prompt else old + new).decode("utf-8", errors="replace")
                for new in row[: beams.num_return_sequences]
            ]
            for old, row in zip(prompts.numpy(), found, strict=True)
        ]
        return texts if beams.num_return_sequences > 1 else [row[0] for row in texts]

    def _generate_ids(
        self,
        inputs: dict[str, Any],
        max_length: int | None,
        stop_ids: tf.Tensor,
        strip_prompt: bool,
        knobs: dict[str, Any],
        beams: BeamArguments,
    ) -> dict[str, np.ndarray]:
        ids = np.asarray(inputs["token_ids"], np.int32)
        lengths = np.asarray(inputs["padding_mask"], bool).sum(axis=-1)
        if ids.ndim != 2 or np.min(lengths, initial=1) < 1:
            raise ValueError(
                "token_ids must be (B, T) with at least one real token in each row, "
                f"got shape {ids.shape} and row lengths {lengths.tolist()}."
            )
        self._check_prompts(lengths)
        # As in KerasHub, the padded length is the default longest result.
        settings = self._settings(knobs, lengths, max_length or ids.shape[1])
        prompts = {
            "prompt_ids": tf.constant(ids),
            "prompt_lengths": tf.constant(lengths, tf.int32),
            "stop_token_ids": stop_ids,
        }
        result: Any
        if beams.num_beams > 1:
            result = generation.search_tokens(
                self.backbone,
                max_new_tokens=settings.max_new_tokens,
                settings=beams.settings(len(ids)),
                num_beams=beams.num_beams,
                **prompts,
            )
        else:
            result = generation.generate_tokens(
                self.backbone, settings=settings, **prompts
            )
        new_ids = result.token_ids.numpy().reshape(
            [len(ids), -1, result.token_ids.shape[-1]]
        )
        counts = result.num_tokens.numpy().reshape([len(ids), -1])
        rows = [
            np.concatenate([[] if strip_prompt else row[:length], new[:count]])
            for row, length, found, found_counts in zip(
                ids, lengths, new_ids, counts, strict=True
            )
            for new, count in zip(
                found[: beams.num_return_sequences], found_counts, strict=False
            )
        ]
        width = max([ids.shape[1], *(len(row) for row in rows)])
        outputs = {
            "token_ids": np.zeros([len(rows), width], np.int32),
            "padding_mask": np.zeros([len(rows), width], bool),
        }
        for index, row in enumerate(rows):
            outputs["token_ids"][index, : len(row)] = row
            outputs["padding_mask"][index, : len(row)] = True
        return outputs

    def _traced_functions(self) -> TracedFunctions:
        """Returns the traced functions of `generate`, made once per network."""
        # LoRA and quantization change the variables, hence the graph.
        variables = tuple(id(variable) for variable in self.backbone.variables)
        key = (variables, id(self.preprocessor))
        if self._traced is None or self._traced[0] != key:
            self._traced = (key, TracedFunctions(self.text_generator()))
        return self._traced[1]

    def text_generator(self) -> TextGenerator:
        """Returns the graph code that `generate` and exported models run.

        Raises:
            ValueError: if the model has no preprocessor.
        """
        if self.preprocessor is None:
            raise ValueError(
                "preprocessor must be set to generate from strings, got None."
            )
        return TextGenerator(
            self.backbone,
            tokenizer=self.preprocessor.tokenizer,
            add_start_token=self.preprocessor.add_start_token,
        )

    def _stop_token_ids(self, stop_token_ids: Any) -> tf.Tensor:
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
        return tf.constant(list(stop_token_ids or []), tf.int32)

    def _check_prompts(self, lengths: np.ndarray) -> None:
        context = self.backbone.config.max_sequence_length
        for row, length in enumerate(lengths):
            if length >= context:
                raise ValueError(
                    "a prompt must be shorter than the context of "
                    f"{context} tokens, got {length} tokens in prompt {row}."
                )

    def _settings(
        self, knobs: dict[str, Any], lengths: np.ndarray, max_length: int | None
    ) -> GenerationSettings:
        """Checks the knobs and spreads them over the rows."""
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}.")
        context = self.backbone.config.max_sequence_length
        if max_length is None and self.preprocessor is not None:
            max_length = self.preprocessor.sequence_length
        room = np.maximum(min(max_length or context, context) - lengths, 0)
        rows = len(lengths)
        defaults = {
            **{name: setting.default for name, setting in SETTINGS.items()},
            **self._sampler_settings,
            "max_new_tokens": room,
            "seed": [secrets.randbits(63) for _ in range(rows)],
        }
        values = {
            name: check_setting(
                name, defaults[name] if knobs[name] is None else knobs[name], rows=rows
            )
            for name in SETTINGS
        }
        values["max_new_tokens"] = np.minimum(values["max_new_tokens"], room)
        return GenerationSettings(
            **{
                name: tf.constant(value, SETTINGS[name].dtype)
                for name, value in values.items()
            }
        )
