"""Scores of fine-tuned models: answers, classes, and Keras metrics for `fit`."""

from keras_gpt.metrics.classification import (
    AverageScores,
    ClassScores,
    accuracy,
    average_scores,
    class_scores,
    confusion_matrix,
    matthews_correlation,
    multilabel_accuracy,
    multilabel_average_scores,
    multilabel_class_scores,
)
from keras_gpt.metrics.confusion_picture import write_confusion_picture
from keras_gpt.metrics.entities import (
    Entity,
    are_entity_labels,
    entities,
    entity_scores,
)
from keras_gpt.metrics.squad import (
    NoAnswerThreshold,
    SquadPart,
    SquadScores,
    best_no_answer_threshold,
    exact_match,
    f1_score,
    normalize_answer,
    squad_scores,
)
from keras_gpt.metrics.streaming import MatthewsCorrelation, SparseF1

__all__ = [
    "AverageScores",
    "ClassScores",
    "Entity",
    "MatthewsCorrelation",
    "NoAnswerThreshold",
    "SparseF1",
    "SquadPart",
    "SquadScores",
    "accuracy",
    "are_entity_labels",
    "average_scores",
    "best_no_answer_threshold",
    "class_scores",
    "confusion_matrix",
    "entities",
    "entity_scores",
    "exact_match",
    "f1_score",
    "matthews_correlation",
    "multilabel_accuracy",
    "multilabel_average_scores",
    "multilabel_class_scores",
    "normalize_answer",
    "squad_scores",
    "write_confusion_picture",
]
