"""Tensors and signatures in the JSON of TF Serving's REST API."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from google.protobuf import json_format
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis import get_model_metadata_pb2

from keras_gpt.export.client.transport import (
    Arrays,
    Signature,
    Signatures,
    is_text,
    numpy_dtype,
)


def loads(body: bytes) -> Any:
    """Parses JSON in which strings may hold any bytes, as TF Serving writes them."""
    return json.loads(body.decode("utf-8", "surrogateescape"), strict=False)


def request_body(signature: Signature, inputs: Arrays) -> bytes:
    """Returns a request in column format."""
    columns = {name: _as_json(value) for name, value in inputs.items()}
    return json.dumps({"signature_name": signature.name, "inputs": columns}).encode()


def outputs_of(signature: Signature, reply: Any) -> Arrays:
    """Returns the outputs in a reply to a request in column format."""
    infos, outputs = signature.definition.outputs, reply["outputs"]
    if len(infos) == 1 and not _is_named(outputs):
        outputs = {next(iter(infos)): outputs}
    return {name: _from_json(value, infos[name]) for name, value in outputs.items()}


def signatures_of(reply: Any, version: int | None) -> Signatures:
    """Returns the signatures in the reply to a request of metadata.

    Args:
        reply: as parsed.
        version: int or None. That was asked for.
    """
    definitions = json_format.ParseDict(
        reply["metadata"]["signature_def"],
        get_model_metadata_pb2.SignatureDefMap(),
        ignore_unknown_fields=True,
    )
    version = int(reply.get("model_spec", {}).get("version") or 0) or version
    return {
        name: Signature(name, definition, version)
        for name, definition in definitions.signature_def.items()
    }


def _is_named(outputs: Any) -> bool:
    return isinstance(outputs, dict) and set(outputs) != {"b64"}


def _as_json(value: np.ndarray) -> Any:
    if value.dtype.kind == "O":
        flat = [{"b64": base64.b64encode(item).decode()} for item in value.flat]
        table = np.empty(len(flat), object)
        table[:] = flat
        return table.reshape(value.shape).tolist()
    if value.dtype.kind in "iub":
        return value.tolist()
    # A float32 as a float64 has digits enough that it comes back bit by bit.
    return value.astype(np.float64).tolist()


def _from_json(value: Any, info: TensorInfo) -> np.ndarray:
    sizes = [dim.size for dim in info.tensor_shape.dim]
    if is_text(info):
        array = _strings(value, rank=len(sizes))
    else:
        array = np.array(value, numpy_dtype(info))
    if not array.size and array.ndim < len(sizes):
        # Of an empty list, JSON cannot tell the sizes behind it.
        missing = [max(size, 0) for size in sizes[array.ndim :]]
        array = array.reshape([*array.shape, *missing])
    return array


def _strings(value: Any, *, rank: int) -> np.ndarray:
    """Returns strings, which are text or base64, as an array of bytes."""
    if not isinstance(value, list):
        array = np.empty([], object)
        array[()] = _bytes(value)
        return array
    rows = [_strings(item, rank=rank - 1) for item in value]
    return np.stack(rows) if rows else np.empty([0] * rank, object)


def _bytes(item: Any) -> bytes:
    if isinstance(item, dict):
        return base64.b64decode(item["b64"])
    return item.encode("utf-8", "surrogateescape")
