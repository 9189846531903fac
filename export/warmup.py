"""Warm-up records: requests that a server runs before it takes others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_gpt.export.signatures.inputs import Outputs, Signature
from keras_gpt.export.signatures.streaming import STATE

# Where TF Serving looks for them.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
PROMPT = "Hello"
NUM_TOKENS = 2  # so that each graph runs, and loading stays quick


def write_warmup(
    folder: Path, requests: Iterable[tuple[str, Outputs]], *, model_name: str
) -> int:
    """Writes a record for each request.

    Args:
        folder: the version folder.
        requests: names of signatures, each with all of its inputs.
        model_name: string. Under which it is served.

    Returns:
        how many records there are.
    """
    path = folder / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in requests:
            protos = {key: _proto(tensor) for key, tensor in inputs.items()}
            request = predict_pb2.PredictRequest(inputs=protos)
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())
            count += 1
    return count


def generator_requests(
    signatures: dict[str, Signature], batch_sizes: Sequence[int]
) -> Iterator[tuple[str, Outputs]]:
    """Yields requests of a generator: of each signature, of `generate` in each size.

    Args:
        signatures: those of the model.
        batch_sizes: ints.
    """
    text, few = {"text": [PROMPT]}, {"max_new_tokens": [NUM_TOKENS]}
    given: dict[str, dict[str, Any]] = {
        "serving_default": text,
        "score": text,
        "tokenize": text,
        "detokenize": {"token_ids": [[0]], "num_tokens": [1]},
        "chat": {"role": [[""]], "content": [[""]], "num_messages": [1], **few},
        "prefill": {**text, **few},
    }
    for name, inputs in given.items():
        if name in signatures:
            yield name, signatures[name].full_inputs(inputs, rows=1)
    # None of `generate_xla`: a server that refuses XLA would not load the model.
    for rows in batch_sizes:
        inputs = signatures["generate"].full_inputs({**text, **few}, rows=rows)
        yield "generate", inputs
    if "decode" in signatures:
        state = _some_state(signatures["prefill"], signatures["decode"])
        yield "decode", signatures["decode"].full_inputs(state, rows=1)


def _some_state(prefill: Signature, decode: Signature) -> Outputs:
    """Returns the state of a prompt of one token, of which the cache is zero."""
    state = {
        name: tf.zeros([1, *one.shape], one.dtype)
        for name, one in decode.inputs.items()
        if name.startswith(STATE) and None not in one.shape
    }
    for name, one in prefill.inputs.items():
        for key in (f"{STATE}{name}", f"{STATE}{name}_bytes"):
            if one.default is not None and key in decode.inputs:
                state[key] = one.default_tensor
    for name in ("length", "prompt_length", "limit"):
        state[STATE + name] = tf.constant([1])
    state[f"{STATE}text_length"] = tf.constant([-1])
    return state


def _proto(tensor: tf.Tensor) -> tf.TensorProto:
    values = tensor.numpy()
    if values.dtype != object and values.size and not np.any(values):
        # One zero stands for all: a cache would else be the larger part of the file.
        zero = values.dtype.type(0)
        return tf.make_tensor_proto(zero, tensor.dtype, values.shape)
    return tf.make_tensor_proto(values, tensor.dtype)
