"""Text files to token windows: reading, encoding and the training order."""

from keras_gpt.data.corpus import TokenCorpus, encode_corpus, encode_text
from keras_gpt.data.text import read_text_files
from keras_gpt.data.windows import (
    EvaluationBatch,
    evaluation_batches,
    training_dataset,
    training_windows,
)

__all__ = [
    "EvaluationBatch",
    "TokenCorpus",
    "encode_corpus",
    "encode_text",
    "evaluation_batches",
    "read_text_files",
    "training_dataset",
    "training_windows",
]
