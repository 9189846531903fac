"""Models of other kinds, to compare a GPT with."""

from keras_gpt.baselines.bag_of_words import BagOfWordsClassifier
from keras_gpt.baselines.lstm import LSTMLanguageModel, LSTMOutput
from keras_gpt.baselines.lstm_classifier import LSTMClassifier

__all__ = [
    "BagOfWordsClassifier",
    "LSTMClassifier",
    "LSTMLanguageModel",
    "LSTMOutput",
]
