"""Byte-pair encoding in the TensorFlow graph, as GPT-2 and GPT-1 have it."""

from keras_gpt.tokenizer.chat_template import ChatTemplate
from keras_gpt.tokenizer.gpt1_tokenizer import GPT1Tokenizer
from keras_gpt.tokenizer.gpt_tokenizer import END_TOKEN, GPTTokenizer
from keras_gpt.tokenizer.identity import tokenizer_identity
from keras_gpt.tokenizer.training import train_tokenizer

__all__ = [
    "END_TOKEN",
    "ChatTemplate",
    "GPT1Tokenizer",
    "GPTTokenizer",
    "tokenizer_identity",
    "train_tokenizer",
]
