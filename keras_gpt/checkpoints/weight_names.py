"""The one table of weights: their names and layouts, here and in other formats.

`LAYERS` names each layer once in every format, `NAMINGS` says how a format writes
the weights of a layer. All readers and writers go by `weights_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.config import GPTConfig

Shape = tuple[int, ...]


class Layer(NamedTuple):
    """A layer that has weights, by its name in each format.

    Attributes:
        keras_gpt: path below `GPTBackbone`, or below its block.
        kind: string. What weights it has: a key of `WEIGHTS`.
        shape: function from the config to the shape of its matrix, input dimension
            first, or of its vector.
        gpt2: Hugging Face's GPT-2, and nanoGPT.
        gpt1: Hugging Face's GPT-1, where it differs.
        openai: OpenAI's release of GPT-2.
        keras_hub: KerasHub's GPT-2; several when it splits the outputs among them.
    """

    keras_gpt: str
    kind: str
    shape: Callable[[GPTConfig], Any]
    gpt2: str
    openai: str
    keras_hub: tuple[str, ...]
    gpt1: str | None = None


# The weights of each kind of layer. A bias is there if the config has biases.
WEIGHTS = {
    "table": ("embeddings",),
    "head": ("reverse_embeddings",),
    "norm": ("gamma", "beta"),
    "dense": ("kernel", "bias"),
}
BIASES = ("beta", "bias")

TABLES = (
    Layer(
        "token_embedding", "table", lambda c: (c.vocabulary_size, c.hidden_dim),
        gpt2="wte", gpt1="tokens_embed", openai="wte", keras_hub=("token_embedding",),
    ),
    Layer(
        "position_embedding", "table",
        lambda c: (c.max_sequence_length, c.hidden_dim),
        gpt2="wpe", gpt1="positions_embed", openai="wpe",
        keras_hub=("position_embedding",),
    ),
)  # fmt: skip
BLOCK = (
    Layer(
        "attention_norm", "norm", lambda c: (c.hidden_dim,),
        gpt2="ln_1", openai="ln_1", keras_hub=("self_attention_layer_norm",),
    ),
    Layer(
        "attention/query_key_value", "dense",
        lambda c: (c.hidden_dim, 3 * c.attention_dim),
        gpt2="attn.c_attn", openai="attn/c_attn",
        keras_hub=tuple(f"self_attention/{part}" for part in ("query", "key", "value")),
    ),
    Layer(
        "attention/output_projection", "dense",
        lambda c: (c.attention_dim, c.hidden_dim),
        gpt2="attn.c_proj", openai="attn/c_proj",
        keras_hub=("self_attention/attention_output",),
    ),
    Layer(
        "mlp_norm", "norm", lambda c: (c.hidden_dim,),
        gpt2="ln_2", openai="ln_2", keras_hub=("feedforward_layer_norm",),
    ),
    Layer(
        "mlp/expand", "dense", lambda c: (c.hidden_dim, c.intermediate_dim),
        gpt2="mlp.c_fc", openai="mlp/c_fc",
        keras_hub=("feedforward_intermediate_dense",),
    ),
    Layer(
        "mlp/contract", "dense", lambda c: (c.intermediate_dim, c.hidden_dim),
        gpt2="mlp.c_proj", openai="mlp/c_proj",
        keras_hub=("feedforward_output_dense",),
    ),
)  # fmt: skip
FINAL_NORM = Layer(
    "layer_norm", "norm", lambda c: (c.hidden_dim,),
    gpt2="ln_f", openai="ln_f", keras_hub=("layer_norm",),
)  # fmt: skip
HEAD = Layer(
    "token_embedding", "head", lambda c: (c.hidden_dim, c.vocabulary_size),
    gpt2="lm_head", openai="", keras_hub=(),
)  # fmt: skip


def _one_name(attribute: str) -> Callable[[Layer], tuple[str, ...]]:
    return lambda layer: (getattr(layer, attribute),)


def _same_shape(layer: Layer, weight: str, shape: Shape, config: GPTConfig) -> Shape:
    return shape


def _convolution(layer: Layer, weight: str, shape: Shape, config: GPTConfig) -> Shape:
    return (1, *shape) if weight == "kernel" else shape


def _by_heads(layer: Layer, weight: str, shape: Shape, config: GPTConfig) -> Shape:
    heads = (config.num_heads, shape[-1] // config.num_heads)
    if layer.keras_gpt == "attention/query_key_value":
        return (*shape[:-1], *heads)
    if layer.keras_gpt == "attention/output_projection" and weight == "kernel":
        return (config.num_heads, shape[0] // config.num_heads, shape[-1])
    return shape


class Naming(NamedTuple):
    """How a format names and lays out the weights of a layer.

    Attributes:
        layer_names: function from a `Layer` to its names.
        model: template of the full name of a weight outside the blocks, from
            `{layer}` and `{weight}`.
        block: template for a weight in block `{index}`.
        head: template for the weight of an output projection of its own, or None
            where the format has none.
        weights: the format's name of each weight of `WEIGHTS`.
        transposed: weights stored output dimension first.
        stored_shape: function from (layer, weight, shape here, config) to the shape
            in the format; of one part, if the format splits the layer.
    """

    layer_names: Callable[[Layer], tuple[str, ...]]
    model: str
    block: str
    head: str | None
    weights: dict[str, str]
    transposed: tuple[str, ...] = ()
    stored_shape: Callable[[Layer, str, Shape, GPTConfig], Shape] = _same_shape


_KERAS_WEIGHTS = {name: name for names in WEIGHTS.values() for name in names}
_TORCH_WEIGHTS = {
    "embeddings": "weight",
    "reverse_embeddings": "weight",
    "gamma": "weight",
    "beta": "bias",
    "kernel": "weight",
    "bias": "bias",
}
_GPT2 = Naming(
    layer_names=_one_name("gpt2"),
    model="transformer.{layer}.{weight}",
    block="transformer.h.{index}.{layer}.{weight}",
    head="{layer}.{weight}",
    weights=_TORCH_WEIGHTS,
    transposed=("reverse_embeddings",),
)
NAMINGS = {
    "gpt2": _GPT2,
    "gpt1": _GPT2._replace(layer_names=lambda layer: (layer.gpt1 or layer.gpt2,)),
    "nanogpt": _GPT2._replace(transposed=("kernel", "reverse_embeddings")),
    "openai": Naming(
        layer_names=_one_name("openai"),
        model="model/{layer}{weight}",
        block="model/h{index}/{layer}{weight}",
        head=None,
        weights={
            "embeddings": "",
            "gamma": "/g",
            "beta": "/b",
            "kernel": "/w",
            "bias": "/b",
        },
        stored_shape=_convolution,
    ),
    "keras_hub": Naming(
        layer_names=lambda layer: layer.keras_hub,
        model="{layer}/{weight}",
        block="transformer_layer_{index}/{layer}/{weight}",
        head=None,
        weights=_KERAS_WEIGHTS,
        stored_shape=_by_heads,
    ),
    "keras_gpt": Naming(
        layer_names=_one_name("keras_gpt"),
        model="{layer}/{weight}",
        block="transformer_layer_{index}/{layer}/{weight}",
        head="{layer}/{weight}",
        weights=_KERAS_WEIGHTS,
    ),
}


class Weight(NamedTuple):
    """One weight of the network, here and in a format.

    Attributes:
        path: the `path` of its variable in `GPTBackbone`.
        shape: its shape there.
        names: its names in the format; several when the format splits the last
            dimension among them.
        stored_shape: shape of each of them.
        transposed: whether they are stored output dimension first.
    """

    path: str
    shape: Shape
    names: tuple[str, ...]
    stored_shape: Shape
    transposed: bool

    def from_stored(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns the weight as it is here, from its parts in the format."""
        if self.transposed:
            return parts[0].T
        if len(parts) == 1:
            return parts[0].reshape(self.shape)
        width = self.shape[-1] // len(parts)
        return np.concatenate(
            [part.reshape(*self.shape[:-1], width) for part in parts], axis=-1
        )

    def to_stored(self, value: np.ndarray) -> list[np.ndarray]:
        """Returns the parts in the format, from the weight as it is here."""
        if self.transposed:
            return [value.T]
        parts = np.split(value, len(self.names), axis=-1)
        return [part.reshape(self.stored_shape) for part in parts]


def weights_of(config: GPTConfig, naming: str) -> list[Weight]:
    """Lists every weight of a network, with its names in a format.

    Args:
        config: `GPTConfig`.
        naming: string. A key of `NAMINGS`.

    Raises:
        ValueError: if the network has an output projection of its own and the format
            has none.
    """
    rules = NAMINGS[naming]
    placed = [(layer, rules.model, "") for layer in TABLES]
    for index in range(config.num_layers):
        template = rules.block.replace("{index}", str(index))
        placed += [(layer, template, f"transformer_layer_{index}/") for layer in BLOCK]
    if config.normalize_first:
        placed.append((FINAL_NORM, rules.model, ""))
    if not config.tie_embeddings:
        if rules.head is None:
            raise ValueError(
                f"tie_embeddings must be True in the {naming} format, got False."
            )
        placed.append((HEAD, rules.head, ""))
    return [
        _weight(layer, weight, template, parent, config, rules)
        for layer, template, parent in placed
        for weight in WEIGHTS[layer.kind]
        if config.use_bias or weight not in BIASES
    ]


def _weight(
    layer: Layer,
    weight: str,
    template: str,
    parent: str,
    config: GPTConfig,
    rules: Naming,
) -> Weight:
    layer_names = rules.layer_names(layer)
    shape = layer.shape(config)[-1:] if weight == "bias" else layer.shape(config)
    transposed = weight in rules.transposed
    part = (*shape[:-1], shape[-1] // len(layer_names))
    return Weight(
        path=f"{parent}{layer.keras_gpt}/{weight}",
        shape=shape,
        names=tuple(
            template.format(layer=name, weight=rules.weights[weight])
            for name in layer_names
        ),
        stored_shape=(
            part[::-1]
            if transposed
            else rules.stored_shape(layer, weight, part, config)
        ),
        transposed=transposed,
    )
