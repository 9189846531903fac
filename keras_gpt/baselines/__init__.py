"""Language models of other kinds, to compare a GPT with."""

from keras_gpt.baselines.lstm import LSTMLanguageModel, LSTMOutput

__all__ = ["LSTMLanguageModel", "LSTMOutput"]
