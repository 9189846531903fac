"""Low-rank adapters of a network: several held, one active, folded in on request.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". The layer that
computes with an adapter is `keras_gpt.layers.Projection`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_gpt.layers.projection import LowRank, Projection
from keras_gpt.models.parts import backbone_of, let_all_learn

DEFAULT_NAME = "default"
TARGETS = ("query_key_value", "output_projection", "expand", "contract")
DEFAULT_TARGETS = TARGETS[:1]


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """What an adapter is made of.

    Attributes:
        rank: int, at least 1. Of each change of a kernel.
        alpha: float above 0. The changes count `alpha / rank` times.
        dropout: float in [0, 1). Rate on their inputs in training. Defaults to 0.
        target_layer_names: strings, of `TARGETS`. Which projections are changed, in
            every block. Defaults to `query_key_value`.

    Raises:
        ValueError: if one is out of its range.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target_layer_names: tuple[str, ...] = DEFAULT_TARGETS

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"rank must be a positive integer, got {self.rank!r}.")
        if not _is_number(self.alpha) or not 0.0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number above 0, got {self.alpha!r}.")
        if not _is_number(self.dropout) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}.")
        names = self.target_layer_names
        unknown = [name for name in names if name not in TARGETS]
        if unknown or not names:
            raise ValueError(
                f"target_layer_names must be of {', '.join(TARGETS)}, "
                f"got {unknown[0] if unknown else names!r}."
            )

    @classmethod
    def of(
        cls,
        rank: Any,
        target_layer_names: Sequence[str],
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> LoraSettings:
        """Returns the settings that arguments of `enable_lora` stand for."""
        names = target_layer_names
        chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
        if hasattr(rank, "__index__") and not isinstance(rank, bool):
            rank = int(rank)  # also NumPy's
        return cls(rank, rank if alpha is None else alpha, dropout, chosen)


@dataclasses.dataclass(eq=False)
class Adapter:
    """One adapter of a network.

    Attributes:
        settings: `LoraSettings`.
        changes: dict. The `LowRank` of each changed projection by the layer's path.
    """

    settings: LoraSettings
    changes: dict[str, LowRank]

    @property
    def variables(self) -> list[Any]:
        """The matrices of all projections."""
        return [v for change in self.changes.values() for v in change.variables]


class Adapters:
    """The adapters that a network holds; no Keras object, so that it saves none.

    Attributes:
        held: dict. `Adapter` by name, in the order of their making.
        active: string or None. Name of the one that the network computes with.
    """

    def __init__(self) -> None:
        self.held: dict[str, Adapter] = {}
        self.active: str | None = None

    def named(self, name: str | None) -> Adapter:
        """Returns one adapter; the active one for None.

        Raises:
            ValueError: if there is none of the name, or none is active.
        """
        if name is None and self.active is None:
            raise ValueError("an adapter must be active, or named, got none.")
        found = self.held.get(self.active if name is None else name)  # type: ignore
        if found is None:
            held = ", ".join(self.held) or "none"
            raise ValueError(f"name must be of an adapter ({held}), got {name!r}.")
        return found


def enable_lora(
    model: Any,
    rank: int,
    target_layer_names: Sequence[str] | None = None,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    name: str = DEFAULT_NAME,
) -> None:
    """Adds an adapter that changes nothing yet, and makes it the active one.

    The network's own weights are frozen, embeddings, norms and biases too; the
    adapter's are trainable, and so are those of a task's head. A task that was trained
    or asked to predict before must be compiled again. Under a `tf.distribute` strategy
    call it within `strategy.scope()`.

    Args:
        model: task or `GPTBackbone`.
        rank: int, at least 1. Of each change of a kernel.
        target_layer_names: strings. Which projections of every block are changed, of
            `query_key_value`, `output_projection`, `expand` and `contract`. Defaults
            to the first.
        alpha: float above 0. The changes count `alpha / rank` times. Defaults to
            `rank`.
        dropout: float in [0, 1). Rate on their inputs in training. Defaults to 0.
        name: string. Of the new adapter. Defaults to `"default"`.

    Raises:
        ValueError: if an argument is out of its range, or the name is taken.

    Reference: Hu et al. 2021.
    """
    if target_layer_names is None:
        target_layer_names = backbone_of(model).default_lora_layer_names()
    settings = LoraSettings.of(rank, target_layer_names, alpha=alpha, dropout=dropout)
    add_adapter(model, settings, name=name)


def add_adapter(model: Any, settings: LoraSettings, *, name: str) -> Adapter:
    """Does what `enable_lora` does, and returns the adapter."""
    backbone = backbone_of(model)
    check_new_name(model, name)
    layers = changed_layers(backbone, settings)
    if settings.dropout and any(layer.quantization_mode for layer in layers):
        raise ValueError(
            f"dropout must be 0 for a quantized network, got {settings.dropout}."
        )
    backbone.adapters.held[name] = Adapter(
        settings,
        {
            layer.path: layer.new_lora(
                settings.rank, alpha=settings.alpha, dropout=settings.dropout
            )
            for layer in layers
        },
    )
    activate_adapter(model, name)
    return backbone.adapters.held[name]


def check_new_name(model: Any, name: Any) -> None:
    """Checks the name of an adapter that is to be made.

    Raises:
        ValueError: if it is no string, empty, or taken.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a string with characters, got {name!r}.")
    if name in backbone_of(model).adapters.held:
        raise ValueError(f"name must be new, but there is an adapter {name!r}.")


def activate_adapter(model: Any, name: str | None) -> None:
    """Makes an adapter the one that the network computes with, or none.

    The active adapter alone is trainable then, besides a task's head. A task that was
    trained or asked to predict before must be compiled again; `generate` need not.

    Args:
        model: task or `GPTBackbone`.
        name: string, or None for the network as it is without adapters. Its own
            weights stay frozen; `unfreeze_layers` changes that.

    Raises:
        ValueError: if there is no such adapter.
    """
    backbone = backbone_of(model)
    adapters = backbone.adapters
    if name is None:
        _detach(backbone)
        return
    adapter = adapters.named(name)
    _detach(backbone)
    let_all_learn(backbone)
    for weight in backbone.weights:
        weight.trainable = False
    for variable in adapter.variables:
        variable.trainable = True
    _attach(backbone, name)


def remove_adapter(model: Any, name: str) -> None:
    """Forgets an adapter; if it is the active one, none is active afterwards.

    Args:
        model: task or `GPTBackbone`.
        name: string.

    Raises:
        ValueError: if there is no such adapter.
    """
    backbone = backbone_of(model)
    backbone.adapters.named(name)
    if backbone.adapters.active == name:
        _detach(backbone)
    del backbone.adapters.held[name]


def merge_lora(model: Any) -> None:
    """Folds the active adapter into the network's own weights, and forgets it.

    The network computes what it did, without the cost of the adapter. Its weights stay
    frozen, until `unfreeze_layers`. Other adapters that it holds then change the merged
    weights.

    Args:
        model: task or `GPTBackbone`.

    Raises:
        ValueError: if no adapter is active, or the network is quantized.
    """
    backbone = backbone_of(model)
    adapter = backbone.adapters.named(None)
    layers = changed_layers(backbone, adapter.settings)
    _check_not_quantized(layers)
    for layer in layers:
        layer.fold_lora()
    remove_adapter(backbone, backbone.adapters.active)


@contextlib.contextmanager
def merged(model: Any) -> Iterator[None]:
    """Within it, the active adapter is part of the network's own weights.

    Afterwards all is as before; until then both are in memory.

    Args:
        model: task or `GPTBackbone`.

    Raises:
        ValueError: if the network is quantized.
    """
    backbone = backbone_of(model)
    name = backbone.adapters.active
    if name is None:
        yield
        return
    layers = changed_layers(backbone, backbone.adapters.held[name].settings)
    _check_not_quantized(layers)
    before = [tf.identity(layer.base_kernel.value) for layer in layers]
    for layer in layers:
        layer.fold_lora()
    _detach(backbone)
    try:
        yield
    finally:
        for layer, kernel in zip(layers, before, strict=True):
            layer.base_kernel.assign(kernel)
        _attach(backbone, name)


def changed_layers(model: Any, settings: LoraSettings) -> list[Projection]:
    """Returns the projections that an adapter changes, from the lowest block up."""
    return [
        layer
        for block in backbone_of(model).transformer_layers
        for layer in block.projections
        if layer.name in settings.target_layer_names
    ]


def _attach(backbone: Any, name: str) -> None:
    adapter = backbone.adapters.held[name]
    for layer in changed_layers(backbone, adapter.settings):
        layer.attach_lora(adapter.changes[layer.path])
    backbone.adapters.active = name
    _note_for_keras_hub(backbone, adapter.settings.rank)


def _detach(backbone: Any) -> None:
    adapters = backbone.adapters
    if adapters.active is None:
        return
    for layer in changed_layers(backbone, adapters.named(None).settings):
        layer.detach_lora()
    adapters.active = None
    _note_for_keras_hub(backbone, None)


def _note_for_keras_hub(backbone: Any, rank: int | None) -> None:
    """Sets what KerasHub's `save_lora_weights` and `load_lora_weights` go by."""
    layers = backbone._flatten_layers(include_self=False)
    layers = [layer for layer in layers if layer.weights]
    backbone._lora_enabled_layers = tuple(  # no list, which Keras would track
        index
        for index, layer in enumerate(layers)
        if isinstance(layer, Projection) and layer.lora_enabled
    )
    backbone._lora_rank = rank


def _check_not_quantized(layers: list[Projection]) -> None:
    for layer in layers:
        if layer.quantization_mode:
            raise ValueError(
                "an adapter must not be merged into a quantized network, got "
                f"{layer.quantization_mode} in {layer.path}."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
