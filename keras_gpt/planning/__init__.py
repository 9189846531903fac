"""Plans of training runs: parameters, FLOPs, memory, traffic and time, by formula."""

from keras_gpt.planning.memory import model_summary
from keras_gpt.planning.plan import TrainingPlan, fit_vocabulary, make_plan
from keras_gpt.planning.settings import PlanSettings
from keras_gpt.planning.text import describe_model, describe_plan

__all__ = [
    "PlanSettings",
    "TrainingPlan",
    "describe_model",
    "describe_plan",
    "fit_vocabulary",
    "make_plan",
    "model_summary",
]
