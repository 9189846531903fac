"""Weights of a TFLite file as integers, by ai-edge-quantizer."""

from __future__ import annotations

from typing import Any

from keras_gpt.export.litert.extra import package

# Recipes of ai-edge-quantizer, by quantization. Both compute by integers of eight bits:
# what weights are multiplied by is made such as it comes.
RECIPES = {
    "int8": "dynamic_wi8_afp32",  # a scale for each output of a product
    "int4": "dynamic_wi4b32_afp32",  # a scale for each 32 weights
}


def quantizer() -> Any:
    """Returns ai-edge-quantizer.

    Raises:
        ImportError: if it is not installed.
    """
    return package("ai_edge_quantizer", "ai-edge-quantizer")


def quantize(data: bytes, quantization: str) -> bytes:
    """Returns a TFLite file in float32 with its weights as integers.

    Args:
        data: the file.
        quantization: string, one of `RECIPES`.
    """
    library = quantizer()
    recipe = getattr(library.recipe, RECIPES[quantization])()
    result = library.quantizer.Quantizer(bytearray(data), recipe).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)
