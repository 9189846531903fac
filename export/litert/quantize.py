"""Weights of a TFLite file as integers, by ai-edge-quantizer; scales stored once."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_gpt.export.litert.extra import package

ALIGNMENT = 16  # of weights, in bytes, as the format wants it


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


def with_shared_scales(data: bytes) -> bytes:
    """Returns a TFLite file that says the same, each list of scales stored once.

    Otherwise each signature and each loop has scales of its own for the weights that
    they share.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(data)
    shared: dict[Any, _SharedParameters] = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.quantization is not None:
            found = _SharedParameters(tensor.quantization)
            tensor.quantization = shared.setdefault(found.key, found)
    # Weights stand behind the graphs, where they can be aligned.
    weights = {
        index: bytes(buffer.data)
        for index, buffer in enumerate(model.buffers)
        if buffer.data is not None and len(buffer.data)
    }
    for index in weights:
        buffer = model.buffers[index]
        buffer.data, buffer.offset, buffer.size = None, 1, 1  # to have a place
    written = flatbuffer_utils.convert_object_to_bytearray(model)
    packed = schema.Model.GetRootAs(written, 0)
    for index, part in weights.items():
        written += bytes(-len(written) % ALIGNMENT)
        flatbuffer_utils.update_packed_buffer(
            packed.Buffers(index), offset=len(written), size=len(part)
        )
        written += part
    return bytes(written)


class _SharedParameters:
    """A tensor's scales, written once for all tensors that have the same."""

    def __init__(self, parameters: schema.QuantizationParametersT) -> None:
        self._parameters = parameters
        self._offset: int | None = None
        self.key = tuple(
            value.tobytes() if isinstance(value, np.ndarray) else repr(value)
            for value in vars(parameters).values()
        )

    def Pack(self, builder: Any) -> int:  # noqa: N802 - what flatbuffers calls it
        if self._offset is None:
            self._offset = self._parameters.Pack(builder)
        return self._offset
