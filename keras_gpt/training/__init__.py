"""Training: losses, schedules, optimizers, steps, checkpoints and pretraining."""

from keras_gpt.training.checkpointing import (
    CheckpointError,
    CheckpointManager,
    TrainingState,
)
from keras_gpt.training.cluster import Cluster, find_cluster
from keras_gpt.training.layerwise import layerwise_optimizer
from keras_gpt.training.layouts import parse_mesh
from keras_gpt.training.losses import LossSum, next_token_loss, next_token_loss_sum
from keras_gpt.training.mesh import MeshStrategy
from keras_gpt.training.optimizers import training_optimizer
from keras_gpt.training.pretrain import PretrainResult, pretrain
from keras_gpt.training.pretrain_config import PretrainConfig
from keras_gpt.training.schedules import (
    WarmupConstantDecay,
    WarmupCosine,
    WarmupLinear,
)
from keras_gpt.training.step import StepMetrics, make_eval_step, make_train_step
from keras_gpt.training.strategy import Strategy, make_strategy
from keras_gpt.training.train_loop import DivergenceError, WorkerLostError

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "Cluster",
    "DivergenceError",
    "LossSum",
    "MeshStrategy",
    "PretrainConfig",
    "PretrainResult",
    "StepMetrics",
    "Strategy",
    "TrainingState",
    "WarmupConstantDecay",
    "WarmupCosine",
    "WarmupLinear",
    "WorkerLostError",
    "find_cluster",
    "layerwise_optimizer",
    "make_eval_step",
    "make_strategy",
    "make_train_step",
    "next_token_loss",
    "next_token_loss_sum",
    "parse_mesh",
    "pretrain",
    "training_optimizer",
]
