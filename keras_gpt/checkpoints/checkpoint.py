"""A network in any format, as its config and its weights in our names and layout."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from keras_gpt.checkpoints.heads import Head
from keras_gpt.checkpoints.tensors import Tensors
from keras_gpt.checkpoints.weight_names import Weight, weights_of
from keras_gpt.config import GPTConfig
from keras_gpt.layers.initializers import loading
from keras_gpt.models import GPTBackbone
from keras_gpt.tokenizer import GPTTokenizer
from keras_gpt.zero_copy import as_array


class WeightSource(Protocol):
    """A network whose weights are read one at a time, in our names and layout.

    Attributes:
        config: `GPTConfig`.
        paths: names of the weights, as in `weights_of`.
    """

    config: GPTConfig
    paths: list[str]

    @property
    def has_head(self) -> bool:
        """Whether there are weights of a task beside those of `paths`."""

    @property
    def tokenizer(self) -> GPTTokenizer | None:
        """The tokenizer, if there is one."""

    def dtype(self, path: str) -> np.dtype:
        """Returns the dtype of a weight."""

    def read(self, path: str) -> np.ndarray:
        """Returns a weight."""


class Checkpoint:
    """A network in some format, checked to be whole.

    Args:
        location: string. Where it is, for messages.
        config: `GPTConfig` of the network.
        naming: string. A key of `weight_names.NAMINGS`.
        tensors: `Tensors`. All that the checkpoint holds, but for what its format
            allows besides the weights.
        tokenizer: function that returns its `GPTTokenizer`, or None if it has none.
        has_zero_biases: bool. Whether the format holds biases, all zero, although
            the network has none.
        preprocessor: dict. Arguments of the preprocessor that belongs to the
            network. Optional.
        head: `keras_gpt.checkpoints.heads.Head` of a task. Optional.

    Attributes:
        location, config, head: as given.
        preprocessor_arguments: dict. Arguments of a preprocessor for the network.
        paths: names of the weights, as in `weights_of`.

    Raises:
        ValueError: if tensors are missing, unknown, or of another shape than the
            config says: all of them are named.
    """

    def __init__(
        self,
        *,
        location: str,
        config: GPTConfig,
        naming: str,
        tensors: Tensors,
        tokenizer: Callable[[], GPTTokenizer | None],
        has_zero_biases: bool = False,
        preprocessor: Mapping[str, Any] | None = None,
        head: Head | None = None,
    ) -> None:
        self.location = location
        self.head = head
        # Rows as long as the context, unless it was saved with others.
        self.preprocessor_arguments = {
            "sequence_length": config.max_sequence_length,
            **(preprocessor or {}),
        }
        self.config = config
        self._tensors = tensors
        self._tokenizer = tokenizer
        stored_config = dataclasses.replace(
            config, use_bias=config.use_bias or has_zero_biases
        )
        stored = weights_of(stored_config, naming)
        self._check_tensors(stored)
        own = {weight.path for weight in weights_of(config, naming)}
        self._weights = {weight.path: weight for weight in stored if weight.path in own}
        self.paths = list(self._weights)
        self._zeros = [weight for weight in stored if weight.path not in own]

    @property
    def has_head(self) -> bool:
        """Whether there is the head of a task."""
        return self.head is not None

    @functools.cached_property
    def tokenizer(self) -> GPTTokenizer | None:
        """The tokenizer, or None where the checkpoint has none.

        Raises:
            ValueError: if it does not fit the network or its files are broken.
        """
        tokenizer = self._tokenizer()
        size = self.config.vocabulary_size
        if tokenizer is not None and tokenizer.vocabulary_size() > size:
            raise ValueError(
                f"{self.location}: the tokenizer must have at most the model's {size} "
                f"ids, got {tokenizer.vocabulary_size()}."
            )
        return tokenizer

    def dtype(self, path: str) -> np.dtype:
        """Returns the dtype in which a weight is stored."""
        return self._tensors.dtype(self._weights[path].names[0])

    def read(self, path: str) -> np.ndarray:
        """Reads a weight, in the layout that it has here.

        Raises:
            ValueError: if it is damaged or not finite.
        """
        return self._read(self._weights[path])

    def build_backbone(
        self,
        cls: type[GPTBackbone] = GPTBackbone,
        *,
        load_weights: bool = True,
        dtype: Any = None,
        **overrides: Any,
    ) -> GPTBackbone:
        """Builds the network.

        Args:
            cls: `GPTBackbone` or a subclass.
            load_weights: bool. Whether to read the weights rather than to draw new
                ones. Defaults to True.
            dtype: string or policy, as in `GPTBackbone`.
            **overrides: fields of `GPTConfig` to change; those that change a
                weight's shape fail.

        Raises:
            ValueError: if a weight is damaged or an override does not fit.
        """
        config = GPTConfig.from_dict({**self.config.to_dict(), **overrides})
        self._check_overrides(config)
        if not load_weights:
            return cls(dtype=dtype, **config.to_dict())
        self._check_zeros()
        waiting = dict.fromkeys(self.paths)

        def read(path: str) -> np.ndarray:
            del waiting[path]
            return self.read(path)

        with loading(read):
            backbone = cls(dtype=dtype, **config.to_dict())
        for path in list(waiting):  # norms, biases, a head of its own
            backbone_weight(backbone, path).assign(read(path))
        return backbone

    def _check_overrides(self, config: GPTConfig) -> None:
        old, new = (
            {weight.path: weight.shape for weight in weights_of(either, "keras_gpt")}
            for either in (self.config, config)
        )
        if old != new:
            fields = self.config.to_dict().items()
            changed = [name for name, value in fields if getattr(config, name) != value]
            raise ValueError(
                f"{', '.join(changed)} must be as in {self.location}, since the "
                "weights have their shapes from it."
            )

    def _check_zeros(self) -> None:
        """Checks the biases of a network that has none."""
        for weight in self._zeros:
            if np.any(self._read(weight)):
                raise ValueError(
                    f"{self.location}: {', '.join(weight.names)} must be zero, as the "
                    "network has no biases."
                )

    def _read(self, weight: Weight) -> np.ndarray:
        parts = [self._tensors.read(name) for name in weight.names]
        for name, part in zip(weight.names, parts, strict=True):
            # The sum in float64 is finite if all are, and needs no second array.
            if not np.isfinite(np.sum(part, dtype=np.float64)):
                raise ValueError(
                    f"{self.location}: tensor {name!r} must be finite, but is not: the "
                    "file is damaged or its training failed."
                )
        return weight.from_stored(parts)

    def _check_tensors(self, stored: list[Weight]) -> None:
        shapes = self._tensors.shapes
        expected = {
            name: weight.stored_shape for weight in stored for name in weight.names
        }
        problems = [
            f"missing: {name} {expected[name]}"
            for name in expected
            if name not in shapes
        ]
        problems += [
            f"unknown: {name} {shapes[name]}" for name in shapes if name not in expected
        ]
        problems += [
            f"wrong shape: {name} must be {shape}, is {shapes[name]}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ]
        if problems:
            lines = "\n  ".join(problems)
            raise ValueError(
                f"{self.location}: the tensors must be those of its config, but "
                f"{len(problems)} differ:\n  {lines}"
            )


def check_language_model(source: WeightSource, *, library: str) -> None:
    """Checks that nothing is lost when a network is written without a head.

    Args:
        source: `WeightSource`.
        library: string. For which it is written.

    Raises:
        ValueError: if it has a head.
    """
    if source.has_head:
        raise ValueError(
            f"model must be a language model or a backbone for {library}, got a task "
            "with a head, which would be lost; give its backbone to leave it out."
        )


def backbone_weight(backbone: GPTBackbone, path: str) -> Any:
    """Returns the weight at a path of `weights_of`, with LoRA's part if enabled."""
    layer, *attributes = path.split("/")
    return functools.reduce(getattr, attributes, backbone.get_layer(layer))


class LiveWeights:
    """The weights of a live model, by the interface of a `WeightSource`.

    Args:
        model: `GPTCausalLM` or another task, or `GPTBackbone`.

    Attributes:
        model: as given.

    Raises:
        ValueError: if it is something else or quantized.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._backbone = getattr(model, "backbone", model)
        if not isinstance(self._backbone, GPTBackbone):
            raise ValueError(
                "model must be a task of keras_gpt or a GPTBackbone, "
                f"got {type(model).__name__}."
            )
        dtypes = {str(variable.dtype) for variable in self._backbone.weights}
        if quantized := sorted(dtype for dtype in dtypes if "int" in dtype):
            raise ValueError(
                f"model must not be quantized, got weights of {', '.join(quantized)}."
            )
        preprocessor = getattr(model, "preprocessor", None)
        self.tokenizer = None if preprocessor is None else preprocessor.tokenizer
        self.config = self._backbone.config
        self.paths = [w.path for w in weights_of(self.config, "keras_gpt")]

    @property
    def has_head(self) -> bool:
        """Whether the model has the head of a task."""
        return hasattr(self.model, "head")

    def dtype(self, path: str) -> np.dtype:
        """Returns the dtype of a weight."""
        weight = backbone_weight(self._backbone, path)
        return np.dtype(keras.backend.standardize_dtype(weight.dtype))

    def read(self, path: str) -> np.ndarray:
        """Returns a weight."""
        return as_array(backbone_weight(self._backbone, path))
