"""Byte-level BPE inside the TensorFlow graph."""

from keras_gpt.tokenizer.gpt_tokenizer import END_TOKEN, GPTTokenizer
from keras_gpt.tokenizer.training import train_tokenizer

__all__ = ["END_TOKEN", "GPTTokenizer", "train_tokenizer"]
