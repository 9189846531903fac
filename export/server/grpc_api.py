"""TF Serving's gRPC API, by its own service definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_gpt.export.server.errors import RequestError, invalid
from keras_gpt.export.server.options import ServerOptions
from keras_gpt.export.server.service import Service
from keras_gpt.export.server.signature import Kind, Signature

SIGNATURE_DEF = "signature_def"  # the one field of metadata that there is


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the rest stays unimplemented.

    Args:
        service: `Service`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Predict(  # noqa: N802
        self,
        request: predict_pb2.PredictRequest,
        context: grpc.aio.ServicerContext,
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        spec = request.model_spec
        remaining = context.time_remaining()
        now = asyncio.get_running_loop().time()
        try:
            with self._service.metrics.request("grpc") as call:
                found = await self._service.predict(
                    call,
                    model_name=spec.name,
                    version=version_of(spec),
                    signature_name=spec.signature_name,
                    inputs_of=lambda signature: _arrays(
                        request.inputs, signature, self._service.options
                    ),
                    output_filter=list(request.output_filter),
                    deadline=None if remaining is None else now + remaining,
                )
        except RequestError as error:
            await context.abort(error.code, error.message)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = found.version
        response.model_spec.signature_name = found.signature.name
        for name, array in found.outputs.items():
            dtype = found.signature.outputs[name].dtype
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array, dtype))
        return response

    async def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.aio.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of a model."""
        try:
            fields = list(request.metadata_field)
            if not fields or any(field != SIGNATURE_DEF for field in fields):
                raise invalid(
                    f"metadata_field must be {SIGNATURE_DEF!r}, got {fields}."
                )
            return metadata(self._service, request.model_spec)
        except RequestError as error:
            await context.abort(error.code, error.message)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; the rest stays unimplemented.

    Args:
        service: `Service`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.aio.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells how the versions fare."""
        try:
            return status(self._service, request.model_spec)
        except RequestError as error:
            await context.abort(error.code, error.message)


def metadata(
    service: Service, spec: model_pb2.ModelSpec
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of a model.

    Raises:
        RequestError: if there is no such model or version.
    """
    with service.versions.acquire(spec.name, version_of(spec)) as model:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, proto in model.signature_defs.items():
            signatures.signature_def[name].CopyFrom(proto)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = model.version
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response


def status(
    service: Service, spec: model_pb2.ModelSpec
) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns how the versions of a model fare.

    Raises:
        RequestError: if there is no such model or version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for one in service.versions.statuses(spec.name, version_of(spec)):
        told = response.model_version_status.add(version=one.version, state=one.state)
        told.status.error_code = one.code.value[0]
        told.status.error_message = one.message
    return response


def version_of(spec: model_pb2.ModelSpec) -> int | None:
    """Returns the version that is asked for, or None.

    Raises:
        RequestError: for a label, which only servers of several versions have.
    """
    if spec.version_label:
        raise invalid(
            f"version_label must not be given here, got {spec.version_label!r}."
        )
    return spec.version.value if spec.HasField("version") else None


def _arrays(
    protos: Mapping[str, Any], signature: Signature, options: ServerOptions
) -> dict[str, np.ndarray]:
    # Before there are arrays: one value may stand for a tensor of any size.
    signature.check(
        {name: _kind(name, proto) for name, proto in protos.items()},
        max_rows=options.max_rows_per_request,
        max_bytes=options.max_request_bytes,
    )
    arrays = {}
    for name, proto in protos.items():
        try:
            arrays[name] = tf.make_ndarray(proto)
        except (TypeError, ValueError) as error:
            raise _no_tensor(name, error) from error
    return arrays


def _kind(name: str, proto: Any) -> Kind:
    try:
        shape = [dim.size for dim in proto.tensor_shape.dim]
        return tf.as_dtype(proto.dtype), shape
    except TypeError as error:
        raise _no_tensor(name, error) from error


def _no_tensor(name: str, error: Exception) -> RequestError:
    return invalid(f"input {name!r} must be a whole tensor: {error}")
