"""Text generation: prefill, decode loop, and the ways of choosing tokens."""

from keras_gpt.generation.beams import FoundTokens, search_tokens
from keras_gpt.generation.compiled import CompiledDecoder
from keras_gpt.generation.contrastive import ContrastiveSettings, search_contrastively
from keras_gpt.generation.decoder import Decoder, new_tokens
from keras_gpt.generation.drafts import Drafter, DraftModel, PromptLookup
from keras_gpt.generation.settings import SETTINGS, GenerationSettings, Setting
from keras_gpt.generation.state import (
    FINISH_REASONS,
    INVALID_INPUT,
    INVALID_LOGITS,
    LENGTH,
    PROMPT_TOO_LONG,
    STOP,
    UNFINISHED,
    Alternatives,
    DecodeState,
    GeneratedTokens,
    LanguageModel,
    Prefix,
    Prompts,
    Request,
    Stops,
)
from keras_gpt.generation.text import GeneratedText, TextGenerator

__all__ = [
    "FINISH_REASONS",
    "INVALID_INPUT",
    "INVALID_LOGITS",
    "LENGTH",
    "PROMPT_TOO_LONG",
    "SETTINGS",
    "STOP",
    "UNFINISHED",
    "Alternatives",
    "CompiledDecoder",
    "ContrastiveSettings",
    "DecodeState",
    "Decoder",
    "DraftModel",
    "Drafter",
    "FoundTokens",
    "GeneratedText",
    "GeneratedTokens",
    "GenerationSettings",
    "LanguageModel",
    "Prefix",
    "PromptLookup",
    "Prompts",
    "Request",
    "Setting",
    "Stops",
    "TextGenerator",
    "new_tokens",
    "search_contrastively",
    "search_tokens",
]
