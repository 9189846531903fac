"""Text files to token windows: reading, encoding and the training order."""

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.data.corpus import TokenCorpus, encode_corpus, encode_text
from keras_gpt.data.sources import CorpusSource, DataSource
from keras_gpt.data.text import read_text_files
from keras_gpt.data.windows import (
    evaluation_batches,
    training_dataset,
    training_windows,
)

__all__ = [
    "ExampleBatch",
    "CorpusSource",
    "DataSource",
    "TokenCorpus",
    "encode_corpus",
    "encode_text",
    "evaluation_batches",
    "read_text_files",
    "training_dataset",
    "training_windows",
]
