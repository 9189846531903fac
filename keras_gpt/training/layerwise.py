"""Learning rates by layer, for fine-tuning: the lower a layer, the less it moves.

Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification",
section 3.2 (discriminative fine-tuning); Clark et al. 2020, "ELECTRA", appendix B
(layer-wise learning-rate decay).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_gpt.models.parts import backbone_of

# What the class below is mixed into has the rest.
_Optimizer: Any = object


class RateFactors(_Optimizer):
    """What a Keras optimizer needs to have a learning rate for each weight.

    To be placed before the optimizer's class, whose updates must be in proportion to
    the rate. Decoupled weight decay scales with it.

    Args:
        rate_factors: dict. By what the learning rate is multiplied, by the beginning
            of weights' paths, in whole parts; the longest that fits a weight counts.
            Others have the rate itself.
    """

    def __init__(
        self, *args: Any, rate_factors: Mapping[str, float], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rate_factors = check_factors(rate_factors)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state."""
        if not self.built:
            # In order: the update gets variables without their paths.
            paths = [variable.path for variable in variables]
            self._factors = tuple(factor_of(p, self.rate_factors) for p in paths)
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable, after its weight decay."""
        factor = self._factors[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        if factor != 1.0:
            rate = rate * factor
        decay = self.weight_decay
        if decay and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * decay * rate)
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        return {**config, "rate_factors": dict(self.rate_factors)}

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Leaves it to `update_step`, which knows each weight's rate."""


@keras.saving.register_keras_serializable(package="keras_gpt")
class LayerwiseAdam(RateFactors, keras.optimizers.Adam):
    """Adam with `rate_factors`."""


@keras.saving.register_keras_serializable(package="keras_gpt")
class LayerwiseAdamW(RateFactors, keras.optimizers.AdamW):
    """AdamW with `rate_factors`."""


@keras.saving.register_keras_serializable(package="keras_gpt")
class LayerwiseLion(RateFactors, keras.optimizers.Lion):
    """Lion with `rate_factors`."""


@keras.saving.register_keras_serializable(package="keras_gpt")
class LayerwiseSGD(RateFactors, keras.optimizers.SGD):
    """SGD with `rate_factors`."""


CLASSES = {
    keras.optimizers.Adam: LayerwiseAdam,
    keras.optimizers.AdamW: LayerwiseAdamW,
    keras.optimizers.Lion: LayerwiseLion,
    keras.optimizers.SGD: LayerwiseSGD,
}


def layerwise_optimizer(
    optimizer: keras.optimizers.Optimizer,
    *,
    model: Any,
    decay: float = 1.0,
    factors: Mapping[str, float] | None = None,
) -> keras.optimizers.Optimizer:
    """Gives an optimizer a learning rate for each layer of a model.

    A weight's rate is the optimizer's (or its schedule's), times `decay` to the power
    of the layer's distance from the top: 0 for a task's head and the final norm, 1 for
    the last block, the number of blocks for the first, and one more for the embeddings
    (with which a language model's logits are tied, unless `tie_embeddings` is False).
    An adapter has the rate of its block. Decoupled weight decay scales alike.

    Args:
        optimizer: `keras.optimizers.Adam`, `AdamW`, `Lion` or `SGD`, not built yet. It
            is not changed.
        model: task or `GPTBackbone` that is to be trained.
        decay: float in (0, 1]. Defaults to 1: the same rate for all. 0.8 to 0.9 is
            usual (Clark et al. 2020, table 7).
        factors: dict. Rates of weights whose paths begin so, such as
            `{"transformer_layer_11": 0.5, "token_embedding": 0.0}`, in place of what
            `decay` gives; at least 0 each. Optional.

    Returns:
        A new optimizer, for `compile`; Keras saves and loads it with its factors.

    Raises:
        ValueError: if the optimizer is of another class or built, an argument is out of
            its range, or a path is of no weight.

    Example:
        >>> optimizer = layerwise_optimizer(
        ...     keras.optimizers.AdamW(3e-5), model=lm, decay=0.9
        ... )
        >>> lm.compile(optimizer=optimizer)
    """
    cls = CLASSES.get(type(optimizer))
    if cls is None or optimizer.built:
        state = "built " if cls else ""
        raise ValueError(
            f"optimizer must be one of {', '.join(c.__name__ for c in CLASSES)}, not "
            f"built, got a {state}{type(optimizer).__name__}."
        )
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay must be in (0, 1], got {decay}.")
    chosen = check_factors(factors or {})
    for path in chosen:
        if not any(_begins(weight.path, path) for weight in model.weights):
            raise ValueError(
                f"factors must have beginnings of weights' paths, got {path!r}."
            )
    config = optimizer.get_config()
    config["rate_factors"] = {**depth_factors(model, decay=decay), **chosen}
    made = cls.from_config(config)
    for name, value in vars(optimizer).items():
        if name.startswith("_exclude_from_weight_decay"):
            setattr(made, name, value)  # Keras leaves it out of the config
    return made


def depth_factors(model: Any, *, decay: float) -> dict[str, float]:
    """Returns `decay` to the power of each layer's distance from the top.

    Args:
        model: task or `GPTBackbone`.
        decay: float.

    Returns:
        Dict from the beginning of weights' paths to factors; what is not in it, a head
        and the final norm, has 1.
    """
    blocks = backbone_of(model).transformer_layers
    lowest = decay ** (len(blocks) + 1)
    return {
        "token_embedding": lowest,
        "position_embedding": lowest,
        **{
            block.name: decay ** (len(blocks) - index)
            for index, block in enumerate(blocks)
        },
    }


def check_factors(factors: Mapping[str, float]) -> dict[str, float]:
    """Returns factors of learning rates as floats.

    Raises:
        ValueError: if one is not finite, or less than 0.
    """
    for path, factor in factors.items():
        if not 0.0 <= factor < math.inf:
            raise ValueError(f"factors must be at least 0, got {factor} for {path!r}.")
    return {path: float(factor) for path, factor in factors.items()}


def factor_of(path: str, factors: Mapping[str, float]) -> float:
    """Returns the factor of the longest beginning of a path; 1 if there is none."""
    fitting = [beginning for beginning in factors if _begins(path, beginning)]
    return factors[max(fitting, key=len)] if fitting else 1.0


def _begins(path: str, beginning: str) -> bool:
    return f"{path}/".startswith(f"{beginning}/")
