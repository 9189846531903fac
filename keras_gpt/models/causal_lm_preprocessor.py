"""Strings to token ids and next-token targets, for causal language modelling."""

from __future__ import annotations

from typing import Any

import keras
import keras_nlp

from keras_gpt import presets
from keras_gpt.models.backbone import GPTBackbone
from keras_gpt.tokenizer import ChatTemplate, GPTTokenizer

# KerasHub finds the tokenizer of a preset by the backbone that it belongs to.
GPTTokenizer.backbone_cls = GPTBackbone


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTCausalLMPreprocessor(keras_nlp.models.CausalLMPreprocessor):
    """Tokenizes strings, ends them with the end token, and packs them.

    Args:
        tokenizer: `GPTTokenizer`.
        sequence_length: int. Length of the packed rows, in tokens. Defaults to
            1024.
        add_start_token: bool. Whether rows and prompts begin with the end-of-text
            token, as KerasHub's do. Defaults to False, as GPT-2 was trained.
        add_end_token: bool. Whether rows end with it. Defaults to True; without
            effect where the vocabulary has none.
        chat_template: `ChatTemplate`, its name or its `to_dict`, by which
            `GPTCausalLM.chat` and exported models put conversations together.
            Optional.

    Call arguments:
        x: strings (B,), or one string.

    Returns:
        `(x, y, sample_weight)`: x a dict of `token_ids` int32 and `padding_mask`
        bool (B, T), y the next tokens int32 (B, T), sample_weight bool (B, T).
    """

    backbone_cls = GPTBackbone
    tokenizer_cls = GPTTokenizer

    def __init__(
        self,
        tokenizer: GPTTokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = False,
        add_end_token: bool = True,
        chat_template: ChatTemplate | str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if sequence_length < 1:
            raise ValueError(
                f"sequence_length must be at least 1, got {sequence_length}."
            )
        # Eagerly, too, the tokenizer is a TensorFlow graph.
        kwargs.setdefault("_allow_python_workflow", False)
        super().__init__(
            tokenizer,
            sequence_length=sequence_length,
            add_start_token=add_start_token,
            add_end_token=add_end_token,
            **kwargs,
        )
        self.chat_template = ChatTemplate.of(chat_template)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template.to_dict()
        return config

    @classmethod
    def from_preset(cls, preset: Any, **kwargs: Any) -> GPTCausalLMPreprocessor:
        """Loads a preprocessor; see `GPTBackbone.from_preset` for what there is.

        Args:
            preset: string or path, as there.
            **kwargs: arguments of the constructor to change.

        Raises:
            ValueError: if the preset has no tokenizer; and as there.
        """
        found = presets.find(preset)
        if found.checkpoint is None:
            return super().from_preset(found.location, **kwargs)
        if found.checkpoint.tokenizer is None:
            raise ValueError(f"{found.location} must have tokenizer files, got none.")
        arguments = {**found.checkpoint.preprocessor_arguments, **kwargs}
        return cls(found.checkpoint.tokenizer, **arguments)

    def build(self, input_shape: Any) -> None:
        """Creates the packer, once the tokenizer has its files."""
        super().build(input_shape)
        self.packer._allow_python_workflow = False
