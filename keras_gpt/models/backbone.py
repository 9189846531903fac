"""The GPT network without a head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import keras_nlp
import tensorflow as tf

from keras_gpt import presets
from keras_gpt.config import GPTConfig
from keras_gpt.layers import kv_cache
from keras_gpt.layers.block import TransformerBlock, layer_norm
from keras_gpt.layers.dropout import Dropout
from keras_gpt.layers.embeddings import PositionEmbedding, TokenEmbedding
from keras_gpt.layers.initializers import normal
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.layers.masks import AttentionMask
from keras_gpt.layers.remat import rematerialized
from keras_gpt.models import lora, lora_files


class ForwardOutput(NamedTuple):
    """What a forward pass returns.

    Attributes:
        hidden: (B, T, D), after the final norm.
        cache: `KVCache` after the new tokens, or () when there is none.
    """

    hidden: tf.Tensor
    cache: KVCache | tuple[()]


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTBackbone(keras_nlp.models.Backbone):
    """Embeddings, transformer blocks and the final norm.

    A `keras_nlp.models.Backbone` over inputs `token_ids` and `padding_mask`, both
    int (B, T), right-padded. `forward` is the same computation for direct use,
    with or without a KV cache: the functional model is built from it.

    Args:
        **kwargs: the fields of `GPTConfig`: `vocabulary_size`, `num_layers`,
            `num_heads`, `hidden_dim` and those with defaults.
        dtype: string or `keras.DTypePolicy`. Such as `"mixed_bfloat16"`. Defaults
            to Keras' global policy.

    Raises:
        ValueError: if a field is out of its range.

    Example:
        >>> backbone = GPTBackbone.from_size("gpt2_small", dropout=0.0)
        >>> backbone({"token_ids": ids, "padding_mask": mask})  # (B, T, 768)

    Reference: Radford et al. 2019; Radford et al. 2018 with
    `normalize_first=False`.
    """

    def __init__(self, *, dtype: Any = None, **kwargs: Any) -> None:
        model_kwargs = {
            name: kwargs.pop(name) for name in ("name", "trainable") if name in kwargs
        }
        config = GPTConfig.from_dict(kwargs)
        dtype = keras.dtype_policies.get(dtype)

        # === Layers ===
        self.token_embedding = TokenEmbedding(
            config.vocabulary_size,
            config.hidden_dim,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=normal(
                config.initializer_stddev, path="token_embedding/embeddings"
            ),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = PositionEmbedding(
            config.max_sequence_length,
            config.hidden_dim,
            embeddings_initializer=normal(
                config.initializer_stddev, path="position_embedding/embeddings"
            ),
            dtype=dtype,
            name="position_embedding",
        )
        self.embeddings_add = keras.layers.Add(dtype=dtype, name="embeddings_add")
        self.embeddings_dropout = Dropout(
            config.dropout_of("embedding"), dtype=dtype, name="embeddings_dropout"
        )
        self.attention_mask = AttentionMask(name="attention_mask")
        self.transformer_layers = [
            TransformerBlock(config, index=index, dtype=dtype)
            for index in range(config.num_layers)
        ]
        self.layer_norm = (
            layer_norm(config, dtype, "layer_norm") if config.normalize_first else None
        )
        self._head_dim = config.head_dim

        # === Model ===
        inputs = {
            name: keras.Input(shape=(None,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        super().__init__(
            inputs=inputs,
            outputs=self.forward(**inputs).hidden,
            dtype=dtype,
            **model_kwargs,
        )

        # === Config ===
        self.config = config
        for name, value in config.to_dict().items():
            setattr(self, name, value)
        self.adapters = lora.Adapters()

    @classmethod
    def from_size(cls, size: str, *, dtype: Any = None, **overrides: Any) -> Any:
        """Builds a randomly initialised model of a published size.

        Args:
            size: string. A key of `keras_gpt.config.NAMED_SIZES`.
            dtype: string or policy. As in the constructor.
            **overrides: `GPTConfig` fields to change.
        """
        return cls(dtype=dtype, **GPTConfig.named(size, **overrides).to_dict())

    @classmethod
    def from_preset(
        cls, preset: Any, load_weights: bool = True, **kwargs: Any
    ) -> GPTBackbone:
        """Loads a network.

        Args:
            preset: string or path. A preset directory of this library or of
                KerasHub's GPT-2; a checkpoint directory of Hugging Face transformers
                (GPT-2, GPT-1) or of OpenAI's GPT-2 release; a nanoGPT file (`.pt`);
                or a name to fetch: `"hf://owner/name"`, `"kaggle://..."`, a name of
                KerasHub's, or `"gpt2"` and the like. Pickles are never executed.
            load_weights: bool. Whether to load the weights rather than to draw new
                ones. Defaults to True.
            **kwargs: `dtype`, and fields of `GPTConfig` to change, such as
                `dropout=0.0`.

        Raises:
            FileNotFoundError: if there is no such preset, or a file is missing.
            ConnectionError: if it cannot be fetched.
            ValueError: if a file is broken or the network is not supported; the
                message names file, tensor or option, and what was expected.
        """
        found = presets.find(preset)
        if found.checkpoint is None:
            return super().from_preset(
                found.location, load_weights=load_weights, **kwargs
            )
        return found.checkpoint.build_backbone(cls, load_weights=load_weights, **kwargs)

    def forward(
        self,
        token_ids: tf.Tensor,
        padding_mask: tf.Tensor | None = None,
        *,
        positions: tf.Tensor | None = None,
        slots: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        cache: KVCache | tuple[()] = (),
        training: bool | None = None,
        remat: bool = False,
    ) -> ForwardOutput:
        """Runs the network: the one path of training, prefill and decoding.

        Args:
            token_ids: int32 (B, T).
            padding_mask: int or bool (B, T), true at real tokens, which come first
                in their row. Optional: causality alone keeps later padding out.
            positions: int32 (B, T). Position of each token in its text. Required
                with a cache; defaults to 0 .. T-1.
            slots: int32 (B, T). Slot of the cache that each token takes. Defaults to
                its position.
            mask: bool (B or 1, 1, T, S). True where attention is allowed; or float32,
                what to add to the logits. Defaults to the causal mask: slots up to the
                token's own.
            cache: `KVCache` of the tokens before, or () for none.
            training: bool. Whether dropout is active.
            remat: bool. Whether the backward pass computes the insides of each block
                again instead of keeping them. Not with a cache. Defaults to False.

        Returns:
            `ForwardOutput`.
        """
        hidden = self.embeddings_add(
            (
                self.token_embedding(token_ids),
                self.position_embedding(token_ids, **_given(positions=positions)),
            )
        )
        hidden = self.embeddings_dropout(hidden, training=training)
        cached = {}
        if cache:
            slots = positions if slots is None else slots
            cached["cache_rows"] = kv_cache.cache_rows(
                slots, num_heads=self.config.num_heads, num_slots=cache.num_slots
            )
        if mask is None:
            keys = {"slots": slots, "num_keys": cache.num_slots} if cache else {}
            mask = self.attention_mask(token_ids, padding_mask, **keys)
        layer_caches = []
        for index, block in enumerate(self.transformer_layers):
            if remat:
                hidden = rematerialized(block, hidden, mask=mask, training=training)
                continue
            layer_cache = cache.layers[index] if cache else ()
            hidden, layer_cache = block(
                hidden, mask, cache=layer_cache, training=training, **cached
            )
            layer_caches.append(layer_cache)
        if self.layer_norm is not None:
            hidden = self.layer_norm(hidden)
        return ForwardOutput(hidden, KVCache(tuple(layer_caches)) if cache else ())

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Projects hidden states (..., D) to float32 logits (..., V)."""
        return self.token_embedding(hidden, reverse=True)

    def empty_cache(
        self, batch_size: int | tf.Tensor, *, num_slots: int | tf.Tensor
    ) -> KVCache:
        """Returns a cache for `batch_size` rows of up to `num_slots` tokens."""
        return kv_cache.empty_cache(
            num_layers=len(self.transformer_layers),
            batch_size=batch_size,
            num_heads=self.config.num_heads,
            num_slots=num_slots,
            head_dim=self._head_dim,  # type: ignore[arg-type]
            dtype=self.compute_dtype,
        )

    def default_lora_layer_names(self) -> list[str]:
        """Names of the layers that `enable_lora` adapts: the attention's input."""
        return list(lora.DEFAULT_TARGETS)

    def enable_lora(
        self,
        rank: int,
        target_layer_names: Sequence[str] | None = None,
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
        name: str = lora.DEFAULT_NAME,
    ) -> None:
        """Adds an adapter that changes nothing yet, and makes it the active one.

        The network's own weights are frozen. See `keras_gpt.models.lora.enable_lora`
        for the arguments and errors; `adapters.held` has all, `adapters.active` the
        name of the active one.
        """
        lora.enable_lora(
            self, rank, target_layer_names, alpha=alpha, dropout=dropout, name=name
        )

    def activate_adapter(self, name: str | None) -> None:
        """Switches to an adapter, or to none; see `keras_gpt.models.lora`."""
        lora.activate_adapter(self, name)

    def remove_adapter(self, name: str) -> None:
        """Forgets an adapter; see `keras_gpt.models.lora`."""
        lora.remove_adapter(self, name)

    def merge_lora(self) -> None:
        """Folds the active adapter into the weights; see `keras_gpt.models.lora`."""
        lora.merge_lora(self)

    def save_adapter(
        self, path: str | os.PathLike[str], *, name: str | None = None
    ) -> None:
        """Writes one adapter alone; see `keras_gpt.models.lora_files`."""
        lora_files.save_adapter(self, path, name=name)

    def load_adapter(
        self, path: str | os.PathLike[str], *, name: str = lora.DEFAULT_NAME
    ) -> None:
        """Adds an adapter from a file; see `keras_gpt.models.lora_files`."""
        lora_files.load_adapter(self, path, name=name)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self.config.to_dict()}


def _given(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not None: Keras layers do not like that."""
    return {name: value for name, value in arguments.items() if value is not None}
