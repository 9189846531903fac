"""The optimizer of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

# torch.optim.AdamW's default, with which GPT recipes are published; Keras' is 1e-7.
EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="keras_gpt")
class ReplicaAdamW(keras.optimizers.AdamW):
    """AdamW for gradients that are already summed over the replicas.

    Keras sums the gradients over the replicas inside `apply`, after any clipping;
    this one takes them as they are, equal on every replica.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


def is_decayed(variable: Any) -> bool:
    """Returns whether weight decay applies to a variable.

    It applies to matrices (rank 2 and more, embeddings included), not to biases,
    also those with one axis per head, and not to norms.
    """
    return len(variable.shape) >= 2 and variable.name != "bias"


def training_optimizer(
    variables: Sequence[Any],
    *,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.95,
    weight_decay: float = 0.1,
) -> keras.optimizers.Optimizer:
    """Builds AdamW with decoupled weight decay on matrices only.

    It does not clip: `make_train_step` clips the gradients that were summed over
    the replicas, which a Keras optimizer cannot (it clips before the sum).

    Args:
        variables: the model's trainable variables.
        learning_rate: float or schedule. Defaults to 1e-3.
        beta_1: float in [0, 1). Decay of the first moment. Defaults to 0.9.
        beta_2: float in [0, 1). Decay of the second moment. Defaults to 0.95
            (Brown et al. 2020, appendix B).
        weight_decay: float, at least 0. Defaults to 0.1 (the same source).

    Returns:
        A built `ReplicaAdamW`.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {value}.")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}.")
    optimizer = ReplicaAdamW(
        learning_rate=learning_rate,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=EPSILON,
        weight_decay=weight_decay,
        name="adamw",  # checkpoints name its variables by it
    )
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in variables if not is_decayed(variable)]
    )
    optimizer.build(list(variables))
    return optimizer
