"""Client of exported models on a server (imports as `keras_gpt.export.client`)."""

from keras_gpt.export.client.client import GPTClient
from keras_gpt.export.client.errors import RowError, ServingError
from keras_gpt.export.client.results import Classification, GeneratedText

__all__ = ["Classification", "GPTClient", "GeneratedText", "RowError", "ServingError"]
