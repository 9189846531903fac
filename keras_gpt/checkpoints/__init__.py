"""Checkpoints of other libraries, in and out."""

from keras_gpt import presets
from keras_gpt.checkpoints.convert import FORMATS, convert_checkpoint
from keras_gpt.checkpoints.huggingface import save_huggingface
from keras_gpt.checkpoints.keras_hub import save_keras_hub
from keras_gpt.checkpoints.sources import find_preset, find_tokenizer

presets.register_finders(presets.Finders(find_preset, find_tokenizer))

__all__ = ["FORMATS", "convert_checkpoint", "save_huggingface", "save_keras_hub"]
