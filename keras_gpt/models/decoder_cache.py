"""The decoders of a model, kept with their traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keras_gpt.generation import DraftModel, PromptLookup
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.traced_functions import TracedDecoder

NUM_DECODERS = 4  # kept: they differ in user functions and drafters


class SameObjects:
    """A key that equals another of the very same objects.

    It keeps them: the `id` of one that is gone could become that of another.

    Args:
        objects: whatever there is, in order.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._objects = tuple(objects)
        self._ids = tuple(map(id, self._objects))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameObjects) and self._ids == other._ids


class DecoderCache:
    """Makes a traced decoder for each set of functions and drafter, once.

    Args:
        backbone: `GPTBackbone`.
        new_decoder: function of `processors` and `drafter` that returns a
            `TracedDecoder`.
    """

    def __init__(
        self, backbone: Any, new_decoder: Callable[..., TracedDecoder]
    ) -> None:
        self._backbone = backbone
        self._new_decoder = new_decoder
        self._decoders: dict[Any, TracedDecoder] = {}

    def get(self, options: GenerationOptions) -> TracedDecoder:
        """Returns the decoder for a call's `logits_processors` and `draft`.

        Raises:
            ValueError: if the draft is none, or of another vocabulary.
        """
        key = (
            tuple(map(id, options.logits_processors)),
            (_identity(options.draft), options.num_draft_tokens),
        )
        found = self._decoders.pop(key, None)
        if found is None:
            found = self._new_decoder(
                processors=options.logits_processors,
                drafter=_drafter(options, self._backbone),
            )
        self._decoders[key] = found  # used last, dropped last
        while len(self._decoders) > NUM_DECODERS:
            self._decoders.pop(next(iter(self._decoders)))
        return found


def _identity(draft: Any) -> Any:
    if draft is None or isinstance(draft, str):
        return draft
    if hasattr(draft, "backbone"):
        # LoRA and quantization change the variables, hence the graph.
        return SameObjects(draft.backbone.variables)
    return id(draft)


def _drafter(options: GenerationOptions, backbone: Any) -> Any:
    draft, count = options.draft, options.num_draft_tokens
    if draft is None or hasattr(draft, "propose"):
        return draft
    given: dict[str, Any] = {} if count is None else {"num_tokens": count}
    if isinstance(draft, str) and draft == "prompt_lookup":
        return PromptLookup(**given)
    if not hasattr(draft, "backbone"):
        raise ValueError(
            f"draft must be 'prompt_lookup', a model or a drafter, got {draft!r:.80}."
        )
    ours, its = (x.config.vocabulary_size for x in (backbone, draft.backbone))
    if ours != its:
        raise ValueError(
            f"draft must have the model's vocabulary of {ours} tokens, got {its}."
        )
    return DraftModel(draft.backbone, **given)
