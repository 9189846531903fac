"""TF Serving's gRPC API."""

from __future__ import annotations

from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_gpt.export.client.errors import DEADLINE_EXCEEDED, ServingError
from keras_gpt.export.client.transport import Arrays, Signature, Signatures

_OPTIONS = [
    # The state of a stream holds a cache.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Tries come from `with_retries`; each shall reach for the server anew.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcTransport:
    """Calls a model over gRPC.

    Args:
        target: string. `host:port`.
        model_name: string.
        where: string. Which model and server, for messages.
        credentials: `grpc.ChannelCredentials`. Defaults to None, without encryption.
    """

    def __init__(
        self, target: str, *, model_name: str, where: str, credentials: Any = None
    ) -> None:
        self._model_name = model_name
        self._where = where
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def signatures(self, *, version: int | None, timeout: float) -> Signatures:
        """Returns the signatures of the model by name."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(version), metadata_field=["signature_def"]
        )
        reply = self._call(self._stub.GetModelMetadata, request, timeout)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        reply.metadata["signature_def"].Unpack(definitions)
        version = reply.model_spec.version.value or version
        return {
            name: Signature(name, definition, version)
            for name, definition in definitions.signature_def.items()
        }

    def predict(
        self, signature: Signature, inputs: Arrays, *, timeout: float
    ) -> Arrays:
        """Runs a signature."""
        spec = self._spec(signature.version)
        request = predict_pb2.PredictRequest(model_spec=spec)
        request.model_spec.signature_name = signature.name
        for name, value in inputs.items():
            dtype = signature.definition.inputs[name].dtype
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtype))
        reply = self._call(self._stub.Predict, request, timeout)
        return {name: tf.make_ndarray(proto) for name, proto in reply.outputs.items()}

    def close(self) -> None:
        """Ends the channel."""
        self._channel.close()

    def _spec(self, version: int | None) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._model_name)
        if version is not None:
            spec.version.value = version
        return spec

    def _call(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, message = error.code().name, error.details() or ""
            if code == DEADLINE_EXCEEDED:
                raise TimeoutError from error
            raise ServingError(code, message, where=self._where) from error
