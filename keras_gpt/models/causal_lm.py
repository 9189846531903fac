"""GPT as a language model: trains on strings, generates strings."""

from __future__ import annotations

from typing import Any

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt.losses import mean_cross_entropy
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.decoder_cache import SameObjects
from keras_gpt.models.fit_data import as_tensors, num_rows
from keras_gpt.models.generation_inputs import string_batches
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_runner import (
    GenerationRunner,
    PromptPrefix,
    check_utf8,
)
from keras_gpt.models.kerashub_samplers import options_of_sampler
from keras_gpt.models.task import GPTTask
from keras_gpt.models.text_generation import TextGeneration
from keras_gpt.scoring import TextScore


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTCausalLM(TextGeneration, GPTTask, keras_nlp.models.CausalLM):
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
