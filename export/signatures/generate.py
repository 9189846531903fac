"""The signature `generate`: prompts and knobs in, texts and their tokens out."""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf

from keras_gpt.export.signatures.inputs import Outputs
from keras_gpt.export.signatures.knobs import (
    BEAM_SEARCH,
    CONTRASTIVE,
    KnobReader,
    ServedRequest,
)
from keras_gpt.generation import (
    FINISH_REASONS,
    CompiledDecoder,
    ContrastiveSettings,
    FoundTokens,
    GeneratedTokens,
    Prompts,
    TextGenerator,
    search_contrastively,
    search_tokens,
)
from keras_gpt.sampling.beam_search import LOWEST_SCORE, BeamSettings
from keras_gpt.tokenizer import ChatTemplate


class Generation:
    """How an exported model continues prompts.

    Args:
        generator: `TextGenerator`.
        knobs: `KnobReader`.
        method: string. `SAMPLING`, `BEAM_SEARCH` or `CONTRASTIVE`.
        num_beams: int (K). Of a beam search, like those below.
        num_beam_groups: int.
        num_return_sequences: int. Beams to return, at most K.
        early_stopping: int. As in `BeamSettings`.
        num_candidates: int. Of a contrastive search.
    """

    def __init__(
        self,
        generator: TextGenerator,
        knobs: KnobReader,
        *,
        method: str,
        num_beams: int = 1,
        num_beam_groups: int = 1,
        num_return_sequences: int = 1,
        early_stopping: int = 0,
        num_candidates: int = 1,
    ) -> None:
        self.generator = generator
        self.knobs = knobs
        self.method = method
        self._num_beams = num_beams
        self._num_beam_groups = num_beam_groups
        self._num_return_sequences = num_return_sequences
        self._early_stopping = early_stopping
        self._num_candidates = num_candidates
        self._draw = generator.decoder.generate

    def compiled(self) -> Generation:
        """Returns the same by sampling, as a computation of XLA."""
        other = copy.copy(self)
        other._draw = CompiledDecoder(self.generator.decoder).generate
        return other

    def from_text(self, text: tf.Tensor, **knobs: tf.Tensor) -> Outputs:
        """Continues prompts, string (B,)."""
        served = self.knobs.read(knobs, tf.shape(text)[0])
        prompts = self.generator.prompts(
            text,
            settings=served.request.settings,
            are_valid=served.are_valid,
            truncates=served.truncates,
        )
        return self.from_prompts(prompts, served)

    def from_chat(
        self,
        template: ChatTemplate,
        role: tf.Tensor,
        content: tf.Tensor,
        num_messages: tf.Tensor,
        **knobs: tf.Tensor,
    ) -> Outputs:
        """Answers conversations, string (B, M) each, that end as the template says.

        Only so many messages of a row count, int32 (B,): servers that join requests
        fill up the others' rows with what they hold.
        """
        generator, rows = self.generator, tf.shape(role)[0]
        reader = self.knobs.with_stop(template.stop_of(generator.tokenizer))
        served = reader.read(knobs, rows)
        width = tf.minimum(tf.shape(role)[1], tf.shape(content)[1])
        is_whole = (num_messages >= 0) & (num_messages <= width)
        is_there = tf.range(width) < num_messages[:, None]
        tokens, is_valid = generator.chat_tokens(
            template,
            role=tf.where(is_there, role[:, :width], ""),
            content=tf.where(is_there, content[:, :width], ""),
        )
        prompts = generator.prompts_of_tokens(
            tokens,
            settings=served.request.settings,
            are_valid=served.are_valid & is_valid & is_whole,
            truncates=served.truncates,
        )
        return self.from_prompts(prompts, served)

    def from_prompts(self, prompts: Prompts, served: ServedRequest) -> Outputs:
        """Continues prompts."""
        if self.method == BEAM_SEARCH:
            return self._search(prompts, served)
        decoder, request = self.generator.decoder, served.request
        if self.method == CONTRASTIVE:
            alpha = served.of_method["penalty_alpha"]
            settings = ContrastiveSettings(
                alpha, tf.fill(tf.shape(alpha), self._num_candidates)
            )
            tokens = search_contrastively(decoder, prompts, request, settings=settings)
        else:
            tokens = self._draw(prompts, request)
        return text_outputs(self.generator, tokens)

    def _search(self, prompts: Prompts, served: ServedRequest) -> Outputs:
        penalty = served.of_method["length_penalty"]
        early = tf.fill(tf.shape(penalty), self._early_stopping)
        found = search_tokens(
            self.generator.decoder,
            prompts,
            served.request,
            settings=BeamSettings(penalty, early),
            num_beams=self._num_beams,
            num_groups=self._num_beam_groups,
            diversity_penalty=served.of_method["diversity_penalty"],
        )
        return beam_outputs(
            self.generator,
            FoundTokens(*(field[:, : self._num_return_sequences] for field in found)),
        )


def text_outputs(generator: TextGenerator, tokens: GeneratedTokens) -> Outputs:
    """Returns the outputs for tokens of B rows."""
    generated_bytes = generator.text_of(tokens)
    return {
        "generated_text": valid_utf8(generated_bytes),
        "generated_bytes": generated_bytes,
        "token_ids": tokens.token_ids,
        "token_log_probs": tokens.log_probs,
        "num_tokens": tokens.num_tokens,
        "finish_reason": reason_names(tokens.finish_reason),
    }


def beam_outputs(generator: TextGenerator, found: FoundTokens) -> Outputs:
    """Returns the outputs for beams of B rows: the best one, and all of them."""
    shape, longest = tf.shape(found.num_tokens), tf.shape(found.token_ids)[2]
    flat = generator.detokenize(
        tf.reshape(found.token_ids, [-1, longest]),
        num_tokens=tf.reshape(found.num_tokens, [-1]),
        text_lengths=tf.reshape(found.text_lengths, [-1]),
    )
    texts = tf.reshape(flat, shape)
    # A place that no beam came to fill: so unlikely, and nothing JSON cannot say.
    scores = tf.maximum(found.scores, LOWEST_SCORE)
    return {
        "generated_text": valid_utf8(texts[:, 0]),
        "generated_bytes": texts[:, 0],
        "token_ids": found.token_ids[:, 0],
        "token_log_probs": found.log_probs[:, 0],
        "num_tokens": found.num_tokens[:, 0],
        "finish_reason": reason_names(found.finish_reason[:, 0]),
        "beam_texts": valid_utf8(texts),
        "beam_texts_bytes": texts,
        "beam_token_ids": found.token_ids,
        "beam_token_log_probs": found.log_probs,
        "beam_num_tokens": found.num_tokens,
        "beam_finish_reasons": reason_names(found.finish_reason),
        "beam_scores": scores,
    }


def valid_utf8(text: tf.Tensor) -> tf.Tensor:
    """Returns strings in which what is no character has become U+FFFD."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")


def reason_names(codes: tf.Tensor) -> tf.Tensor:
    """Returns the names of finish reasons, string, "" for none."""
    # A constant of the graph: a tensor from outside would be further state of it.
    return tf.gather(tf.constant(np.asarray(FINISH_REASONS)), codes)
