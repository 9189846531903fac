"""Training: losses, schedules, optimizers, steps, checkpoints and pretraining."""

from keras_gpt.losses import (
    DivergenceError,
    LossSum,
    next_token_loss,
    next_token_loss_sum,
)
from keras_gpt.training.checkpointing import (
    CheckpointError,
    CheckpointManager,
    TrainingState,
)
from keras_gpt.training.cluster import Cluster, find_cluster
from keras_gpt.training.finetune import FinetuneConfig, FinetuneResult, finetune
from keras_gpt.training.layerwise import layerwise_optimizer
from keras_gpt.training.layouts import parse_mesh
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
from keras_gpt.training.task_data import (
    TASK_KINDS,
    ExampleColumns,
    TaskExamples,
    find_kind,
    longest_row,
    split_examples,
)
from keras_gpt.training.task_scores import TaskScores, score_task
from keras_gpt.training.train_loop import WorkerLostError

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "Cluster",
    "DivergenceError",
    "ExampleColumns",
    "FinetuneConfig",
    "FinetuneResult",
    "LossSum",
    "MeshStrategy",
    "PretrainConfig",
    "PretrainResult",
    "StepMetrics",
    "Strategy",
    "TASK_KINDS",
    "TaskExamples",
    "TaskScores",
    "TrainingState",
    "WarmupConstantDecay",
    "WarmupCosine",
    "WarmupLinear",
    "WorkerLostError",
    "find_cluster",
    "find_kind",
    "finetune",
    "layerwise_optimizer",
    "longest_row",
    "make_eval_step",
    "make_strategy",
    "make_train_step",
    "next_token_loss",
    "next_token_loss_sum",
    "parse_mesh",
    "pretrain",
    "score_task",
    "split_examples",
    "training_optimizer",
]
