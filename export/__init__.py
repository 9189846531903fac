"""Packages trained models for serving and devices (imports as `keras_gpt.export`)."""

from keras_gpt.export.litert.generator import LiteRTGenerator
from keras_gpt.export.litert.litertlm import export_litertlm
from keras_gpt.export.litert.tflite import TFLiteReport, export_tflite
from keras_gpt.export.saved_model import ExportError, export_saved_model
from keras_gpt.export.web.folder import export_web

__all__ = [
    "ExportError",
    "LiteRTGenerator",
    "TFLiteReport",
    "export_litertlm",
    "export_saved_model",
    "export_tflite",
    "export_web",
]
