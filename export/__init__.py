"""Packages trained models for serving (imports as `keras_gpt.export`)."""

from keras_gpt.export.saved_model import ExportError, export_saved_model

__all__ = ["ExportError", "export_saved_model"]
