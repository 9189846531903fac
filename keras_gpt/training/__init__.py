"""Training: losses, schedules, optimizers, steps, checkpoints and pretraining."""

from keras_gpt.training.checkpointing import (
    CheckpointError,
    CheckpointManager,
    TrainingState,
)
from keras_gpt.training.losses import LossSum, next_token_loss, next_token_loss_sum
from keras_gpt.training.optimizers import training_optimizer
from keras_gpt.training.pretrain import DivergenceError, PretrainResult, pretrain
from keras_gpt.training.pretrain_config import PretrainConfig
from keras_gpt.training.schedules import WarmupCosine
from keras_gpt.training.step import StepMetrics, make_eval_step, make_train_step
from keras_gpt.training.strategy import make_strategy

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "DivergenceError",
    "LossSum",
    "PretrainConfig",
    "PretrainResult",
    "StepMetrics",
    "TrainingState",
    "WarmupCosine",
    "make_eval_step",
    "make_strategy",
    "make_train_step",
    "next_token_loss",
    "next_token_loss_sum",
    "pretrain",
    "training_optimizer",
]
