"""The optimizers of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

OPTIMIZERS = ("adamw", "adafactor")

# torch.optim.AdamW's default, with which GPT recipes are published; Keras' is 1e-7.
EPSILON = 1e-8


class SummedGradients:
    """What a Keras optimizer needs to take gradients as they are.

    Keras sums the gradients over the replicas inside `apply`, after any clipping;
    with this, placed before the optimizer's class, they are already summed and equal
    on every replica. It also makes `apply` work within a `keras.StatelessScope`,
    where a variable stands for a tensor (on a mesh).
    """

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state."""
        super().build(variables)  # type: ignore[misc]
        # Where a variable stands for a tensor, Keras no longer knows it.
        self._keys = {id(variable): self._var_key(variable) for variable in variables}

    def apply(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None
    ) -> None:
        """Updates the variables."""
        if not trainable_variables or not _stands_for_tensor(trainable_variables[0]):
            super().apply(grads, trainable_variables)  # type: ignore[misc]
            return
        rate = self.learning_rate  # type: ignore[attr-defined]
        decay = self.weight_decay  # type: ignore[attr-defined]
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if decay and is_decayed(variable):
                self.assign_sub(variable, variable.value * decay * rate)
            self.update_step(gradient, variable, rate)  # type: ignore[attr-defined]
        self.assign_add(self.iterations, 1)  # type: ignore[attr-defined]

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars

    def _var_key(self, variable: Any) -> Any:
        if _stands_for_tensor(variable):
            return self._keys[id(variable)]
        return super()._var_key(variable)  # type: ignore[misc]

    def assign(self, variable: Any, value: Any) -> None:
        """Sets a variable, or what stands for it."""
        if _stands_for_tensor(variable):
            variable.assign(value)
        else:
            super().assign(variable, value)  # type: ignore[misc]

    def assign_add(self, variable: Any, value: Any) -> None:
        """Adds to a variable, or to what stands for it."""
        if _stands_for_tensor(variable):
            variable.assign(variable.value + tf.cast(value, variable.dtype))
        else:
            super().assign_add(variable, value)  # type: ignore[misc]

    def assign_sub(self, variable: Any, value: Any) -> None:
        """Subtracts from a variable, or from what stands for it."""
        if _stands_for_tensor(variable):
            variable.assign(variable.value - tf.cast(value, variable.dtype))
        else:
            super().assign_sub(variable, value)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="keras_gpt")
class ReplicaAdamW(SummedGradients, keras.optimizers.AdamW):
    """AdamW for gradients that are already summed over the replicas."""


@keras.saving.register_keras_serializable(package="keras_gpt")
class ReplicaAdafactor(SummedGradients, keras.optimizers.Adafactor):
    """Adafactor for gradients that are already summed over the replicas."""


def is_summed(optimizer: Any) -> bool:
    """Returns whether an optimizer leaves the sum over the replicas to its caller."""
    return isinstance(optimizer, SummedGradients)


def _stands_for_tensor(variable: Any) -> bool:
    return isinstance(variable, keras.Variable) and not isinstance(
        variable.value, tf.Variable
    )


def is_decayed(variable: Any) -> bool:
    """Returns whether weight decay applies to a variable.

    It applies to matrices (rank 2 and more, embeddings included), not to biases,
    also those with one axis per head, and not to norms.
    """
    return len(variable.shape) >= 2 and variable.name != "bias"


def training_optimizer(
    variables: Sequence[Any],
    *,
    kind: str = "adamw",
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.95,
    weight_decay: float = 0.1,
) -> keras.optimizers.Optimizer:
    """Builds a Keras optimizer with decoupled weight decay on matrices only.

    It does not clip: `make_train_step` clips the gradients that were summed over
    the replicas, which a Keras optimizer cannot (it clips before the sum).

    Args:
        variables: the model's trainable variables.
        kind: string. `"adamw"` (Loshchilov & Hutter 2019), or `"adafactor"` (Shazeer
            & Stern 2018), whose steps are relative to the size of the weights.
        learning_rate: float or schedule. Defaults to 1e-3.
        beta_1: float in [0, 1). AdamW's decay of the first moment. Defaults to 0.9.
        beta_2: float in [0, 1). AdamW's decay of the second moment. Defaults to 0.95
            (Brown et al. 2020, appendix B).
        weight_decay: float, at least 0. Defaults to 0.1 (the same source).

    Returns:
        A built optimizer.

    Raises:
        ValueError: if an argument is out of its range.
    """
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {value}.")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}.")
    common = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "name": kind,  # checkpoints name its variables by it
    }
    if kind == "adamw":
        optimizer = ReplicaAdamW(
            beta_1=beta_1, beta_2=beta_2, epsilon=EPSILON, **common
        )
    elif kind == "adafactor":
        optimizer = ReplicaAdafactor(**common)
    else:
        raise ValueError(
            f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {kind!r}."
        )
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in variables if not is_decayed(variable)]
    )
    optimizer.build(list(variables))
    return optimizer
