"""What an exported model generates: the options fixed at export, and its defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.export import ops
from keras_gpt.export.signatures.knobs import (
    BEAM_SEARCH,
    CONTRASTIVE,
    LIMITS,
    SAMPLING,
    FixedSequences,
)
from keras_gpt.generation import SETTINGS, PromptLookup
from keras_gpt.models.causal_lm import GPTCausalLM
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.option_values import check_setting, is_string, pad_sequences
from keras_gpt.sampling import beam_search
from keras_gpt.sampling.beam_search import BeamSettings
from keras_gpt.sampling.history import History
from keras_gpt.sampling.logits_processors import TokenRules

# Options that a served row has no use for, and why.
_NOT_SERVED = {
    "prefix": "a request carries its whole prompt",
    "max_time": "clients have deadlines",
    "num_alternatives": "rows of a batch could not differ in it",
    "best_of": "a served row draws one text",
    "sliding_window": "a served text ends with the context",
}


class ServedOptions(NamedTuple):
    """Options of an exported model.

    Attributes:
        options: `GenerationOptions`.
        python_options: options by name with which `GPTCausalLM.generate` gives the
            same, whatever its sampler.
        stop_token_ids: likewise, of `GPTCausalLM.generate`.
        defaults: default of each knob, as `knob_inputs` takes them.
        fixed: `FixedSequences`.
    """

    options: GenerationOptions
    python_options: dict[str, Any]
    stop_token_ids: list[list[int]]
    defaults: dict[str, Any]
    fixed: FixedSequences

    @property
    def method(self) -> str:
        """`SAMPLING`, `BEAM_SEARCH` or `CONTRASTIVE`."""
        if self.options.searches:
            return BEAM_SEARCH
        return CONTRASTIVE if self.options.contrasts else SAMPLING

    @property
    def drafter(self) -> PromptLookup | None:
        """What drafts tokens, if anything does."""
        if self.options.draft is None:
            return None
        return PromptLookup(self.options.num_draft_tokens, is_steady=True)

    @property
    def early_stopping(self) -> int:
        """When a beam search ends, as in `BeamSettings`."""
        if self.method != BEAM_SEARCH:
            return beam_search.HEURISTIC
        settings: BeamSettings = self.options.beam_settings(1)[0]
        return int(settings.early_stopping.numpy()[0])

    @property
    def num_candidates(self) -> int:
        """Candidates of a contrastive search; 1 of other methods."""
        if self.method != CONTRASTIVE:
            return 1
        return int(self.options.contrastive_settings(1).top_k.numpy()[0])


def served_options(
    task: GPTCausalLM, given: dict[str, Any], *, stop_token_ids: Any
) -> ServedOptions:
    """Checks what is to be exported.

    Args:
        task: `GPTCausalLM` with a preprocessor.
        given: options of `GenerationOptions` by name.
        stop_token_ids: as in `GPTCausalLM.generate`.

    Raises:
        TypeError: if there is no option of that name.
        ValueError: if a value is out of range, or an option cannot be served.
    """
    sampler = task.sampler_options
    options = GenerationOptions.of({**sampler.method, **given})
    _check_served(options)
    stops = task.stop_sequences(stop_token_ids)
    settings = _settings(options, sampler.settings)
    rules = _rules(task, options, stops)
    words = _as_list(options.bad_words)
    by_ids = [word for word in words if not is_string(word)]
    words_by_ids = _rules(task, dataclasses.replace(options, bad_words=by_ids), stops)
    biases, is_single = _single_ids(rules.bias_sequences)
    values = rules.bias_values.numpy()
    of_method = {}
    if options.searches:
        beams, diversity = options.beam_settings(1)
        of_method["length_penalty"] = float(beams.length_penalty.numpy()[0])
        of_method["diversity_penalty"] = float(diversity.numpy()[0])
    if options.contrasts:
        alpha = options.contrastive_settings(1).penalty_alpha.numpy()[0]
        of_method["penalty_alpha"] = float(alpha)
    defaults = {
        **settings,
        **of_method,
        "truncate_prompt": options.truncate is not None,
        "stop_strings": _within_limit(
            "stop_strings", options.stop_strings_by_row(1).numpy()[0].tolist()
        ),
        "bad_words": _within_limit(
            "bad_words", [word for word in words if is_string(word)]
        ),
        "stop_token_ids": [stop[0] for stop in stops if len(stop) == 1],
        "allowed_token_ids": rules.allowed_tokens.numpy()[0].tolist(),
        "suppress_tokens": rules.suppressed_tokens.numpy()[0].tolist(),
        "begin_suppress_tokens": rules.begin_suppressed_tokens.numpy()[0].tolist(),
        "logit_bias": dict(zip(biases, values[0, is_single].tolist(), strict=True)),
    }
    long_stops = [stop for stop in stops if len(stop) > 1]
    fixed = FixedSequences(
        stops=pad_sequences([long_stops]).numpy(),
        stop_strings=(),
        bad_words=words_by_ids.bad_words.numpy(),
        bias_sequences=rules.bias_sequences.numpy()[:, ~is_single],
        bias_values=values[:, ~is_single],
    )
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    if not options.searches and not options.contrasts:
        given |= settings
    return ServedOptions(options, given, stops, defaults, fixed)


def _check_served(options: GenerationOptions) -> None:
    defaults = GenerationOptions()
    for name, reason in _NOT_SERVED.items():
        value = getattr(options, name)
        if value is not None and value != getattr(defaults, name):
            raise ValueError(f"{name} must not be given: {reason}; got {value!r:.80}.")
    if options.draft not in (None, "prompt_lookup"):
        raise ValueError(
            "draft must be None or 'prompt_lookup' in an exported model, "
            f"got {options.draft!r:.80}."
        )
    if options.num_return_sequences > 1 and not options.searches:
        raise ValueError(
            "num_return_sequences must be 1 unless num_beams is above 1, "
            f"got {options.num_return_sequences}."
        )
    for index, processor in enumerate(options.logits_processors):
        _check_processor(processor, f"logits_processors[{index}]")


def _check_processor(processor: Any, place: str) -> None:
    """Raises `ValueError` unless a user's function is graph code."""
    name = getattr(processor, "__name__", type(processor).__name__)
    history = History(
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.int32),
    )
    logits = tf.TensorSpec([None, None], tf.float32)
    try:
        traced = tf.function(
            lambda logits, history: processor(logits, history), autograph=False
        )
        graph = traced.get_concrete_function(logits, history).graph
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{place} must be graph code of TensorFlow, but {name} fails: {first}"
        ) from error
    held = _resources(module_of(processor))
    for tensor, _ in graph.captures:
        is_resource = tensor.dtype in (tf.resource, tf.variant)
        if is_resource and id(tensor) not in held:
            raise ValueError(
                f"{place} must be a tf.Module, or a method of one, that holds its "
                f"variables and tables to be exported, but {name} uses {tensor!r:.80}."
            )
    bad = ops.forbidden(ops.ops_of_graph(graph.as_graph_def()), may_load=False)
    if bad:
        raise ValueError(
            f"{place} must be graph code of TensorFlow, but {name} holds "
            f"{'; '.join(bad)}."
        )


def module_of(processor: Any) -> tf.Module | None:
    """Returns the module whose state a processor may use, if there is one."""
    owner = getattr(processor, "__self__", processor)
    return owner if isinstance(owner, tf.Module) else None


def _resources(module: tf.Module | None) -> set[int]:
    """Returns the `id` of each handle of what a module holds, tables included."""
    if module is None:
        return set()
    parts = tf.train.TrackableView(module).descendants()
    names = ("handle", "resource_handle")
    return {id(getattr(part, name, None)) for part in parts for name in names}


def _rules(
    task: GPTCausalLM, options: GenerationOptions, stops: list[list[int]]
) -> TokenRules:
    tokenizer = task.text_generator().tokenizer
    return options.rules(
        rows=1,
        vocabulary_size=task.backbone.config.vocabulary_size,
        stop_sequences=stops,
        tokenize=lambda text: tokenizer.tokenize(text).numpy().tolist(),
    )


def _settings(options: GenerationOptions, of_sampler: dict[str, Any]) -> dict[str, Any]:
    """Returns the default of each number, of one row."""
    values = {}
    for name, setting in SETTINGS.items():
        given = getattr(options, name)
        value = of_sampler.get(name, setting.default) if given is None else given
        if np.ndim(value):
            raise ValueError(f"{name} must be one value to export, got {value!r}.")
        values[name] = check_setting(name, value, rows=1)[0].item()
    return values


def _single_ids(sequences: tf.Tensor) -> tuple[list[int], np.ndarray]:
    """Returns those of sequences (1, W, L) that are one id, and which they are."""
    table = sequences.numpy()[0]
    is_single = (table >= 0).sum(axis=-1) == 1
    return table[is_single, -1].tolist(), is_single


def _within_limit(name: str, strings: list[Any]) -> list[Any]:
    """Returns strings, if a served row may have as many and as long ones."""
    most, longest = LIMITS[name]
    found = {text.encode() if isinstance(text, str) else text for text in strings}
    if len(found) > most:
        raise ValueError(
            f"{name} must be {most} strings at most to export, got {len(found)}."
        )
    for text in found:
        if len(text) > longest:
            raise ValueError(
                f"{name} must be of {longest} bytes at most to export, got "
                f"{len(text)} in {text!r:.80}."
            )
    return strings


def _as_list(words: Any) -> list[Any]:
    if words is None:
        return []
    return [words] if is_string(words) else list(words)
