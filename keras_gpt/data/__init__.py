"""Text to token windows: in memory, or as packed shards on disk."""

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.data.corpus import TokenCorpus, encode_corpus, encode_text
from keras_gpt.data.packed_dataset import PackedDataset
from keras_gpt.data.prepare import DataSource, PrepareConfig, prepare_data
from keras_gpt.data.question_files import (
    Answer,
    QuestionExample,
    read_questions,
    read_squad,
)
from keras_gpt.data.task_files import Column, TaskTable, read_table
from keras_gpt.data.text import read_text_files
from keras_gpt.data.training_data import CorpusData, ShardData, TrainingData
from keras_gpt.data.windows import (
    evaluation_batches,
    training_dataset,
    training_windows,
)

__all__ = [
    "Answer",
    "Column",
    "CorpusData",
    "DataSource",
    "ExampleBatch",
    "PackedDataset",
    "PrepareConfig",
    "ShardData",
    "QuestionExample",
    "TaskTable",
    "TokenCorpus",
    "TrainingData",
    "encode_corpus",
    "encode_text",
    "evaluation_batches",
    "prepare_data",
    "read_questions",
    "read_squad",
    "read_table",
    "read_text_files",
    "training_dataset",
    "training_windows",
]
