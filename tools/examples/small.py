"""What the examples share: a small model to start from, and asking exported ones."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from typing import Any, TypeVar

import keras

from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor, train_tokenizer
from keras_gpt.export import verify

CONTEXT = 64

Example = TypeVar("Example")


def small_preset(texts: Sequence[str], *, vocabulary_size: int = 310) -> str:
    """Makes a preset directory with a vocabulary learnt from texts and a tiny network.

    It stands in for a pretrained model, so that an example needs no download; its
    weights are random, always the same.

    Args:
        texts: strings.
        vocabulary_size: int. Tokens to learn, at most as many as the texts can fill.
            Defaults to 310.

    Returns:
        The directory, a temporary one.
    """
    keras.utils.set_random_seed(0)
    tokenizer = train_tokenizer(texts, vocabulary_size=vocabulary_size)
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        vocabulary_size=tokenizer.vocabulary_size(),
        hidden_dim=64,
        num_heads=4,
        intermediate_dim=256,
        max_sequence_length=CONTEXT,
        initializer_stddev=0.06,
    )
    preprocessor = GPTCausalLMPreprocessor(tokenizer, sequence_length=CONTEXT)
    folder = tempfile.mkdtemp(prefix="keras_gpt_example_")
    GPTCausalLM(backbone, preprocessor).save_to_preset(folder)
    return folder


def split(
    examples: Sequence[Example], *, held_out: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Returns examples to train on and some that are held out, in random order."""
    order = random.Random(seed).sample(examples, len(examples))
    return order[held_out:], order[:held_out]


def columns(examples: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Returns what stands first in all examples, what stands second, and so on."""
    return [list(column) for column in zip(*examples, strict=True)]


def ask(folder: str, signature: str, **inputs: Any) -> dict[str, list[Any]]:
    """Asks an exported model, in a process of its own that imports only TensorFlow.

    Args:
        folder: what `export_saved_model` returned.
        signature: string, such as `"classify"`.
        **inputs: lists, one entry a row. Those left out have the exported defaults.

    Returns:
        The outputs by name, as lists.

    Raises:
        RuntimeError: if the process fails.
    """
    call = {"signature": signature, "inputs": inputs}
    return verify.run_in_fresh_process(folder, [call])[0]
