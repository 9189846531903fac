"""The gRPC API, by TF Serving's official stubs."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def stub(server, stub_of):
    return stub_of(server)


def predict(stub, request, timeout=60):
    response = stub.Predict(request, timeout=timeout)
    return {name: tf.make_ndarray(x) for name, x in response.outputs.items()}


def failure(function, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        function(*args, **kwargs)
    return caught.value.code(), caught.value.details()


def test_predict_answers_with_all_outputs(stub, make_request):
    response = stub.Predict(make_request("gpt", "double", x=[1.0, 2.5]), timeout=60)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.0, 5.0]
    assert set(response.outputs) == {"y", "rows"}
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "double"


def test_serving_default_is_the_default(stub, make_request):
    text = ["caf\u00e9".encode(), b"x"]
    outputs = predict(stub, make_request("gpt", "", text=text))
    assert outputs["generated_text"].tolist() == ["CAF\u00c9".encode(), b"X"]


def test_missing_inputs_take_their_defaults(stub, make_request):
    x = np.array([[1, 2], [3, 4]], np.int32)
    outputs = predict(stub, make_request("gpt", "scaled", x=x))
    assert outputs["y"].tolist() == [[3, 6], [9, 12]]
    given = make_request("gpt", "scaled", x=x, scale=np.array([1, 10], np.int32))
    assert predict(stub, given)["y"].tolist() == [[1, 2], [30, 40]]


def test_output_filter_leaves_the_others_out(stub, make_request):
    request = make_request("gpt", "double", x=[1.0])
    request.output_filter.append("y")
    assert set(predict(stub, request)) == {"y"}


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "code", "message"),
    [
        ("other", "", {"text": [b"x"]}, "NOT_FOUND", "model must be 'gpt', got"),
        ("gpt", "none", {"text": [b"x"]}, "INVALID_ARGUMENT", "signature must be of d"),
        ("gpt", "double", {}, "INVALID_ARGUMENT", "needs inputs without defaults"),
        ("gpt", "double", {"x": [1.0], "z": [1]}, "INVALID_ARGUMENT", "got z"),
        ("gpt", "double", {"x": [1]}, "INVALID_ARGUMENT", "input 'x' must be float32"),
        ("gpt", "double", {"x": 1.0}, "INVALID_ARGUMENT", "input 'x' must be float32"),
        ("gpt", "double", {"x": [[1.0]]}, "INVALID_ARGUMENT", r"got float32 \[1, 1\]"),
        ("gpt", "double", {"x": [1.0] * 65}, "INVALID_ARGUMENT", "at most 64 rows"),
        ("gpt", "flat", {"x": [1.0, 2.0]}, "INTERNAL", "output 'y' .* must have the b"),
        ("gpt", "picky", {"x": [-1.0]}, "INVALID_ARGUMENT", "x must be good"),
    ],
)
def test_faults_have_their_codes(
    stub, make_request, model, signature, inputs, code, message
):
    request = make_request(model, signature, **inputs)
    found, details = failure(stub.Predict, request, timeout=60)
    assert found.name == code
    assert pytest.importorskip("re").search(message, details), details
    assert "\n" not in details


@pytest.mark.parametrize("name", ["x" * 20_000, "two\nlines"], ids=["long", "lines"])
def test_names_that_clients_make_up_are_told_in_one_short_line(
    stub, make_request, name
):
    unknown = make_request("gpt", "double", x=[1.0], **{name: [1.0]})
    filtered = make_request("gpt", "double", x=[1.0])
    filtered.output_filter.append(name)
    labelled = make_request("gpt", "double", x=[1.0])
    labelled.model_spec.version_label = name
    requests = [make_request(name, "double"), make_request("gpt", name), unknown]
    for request in (*requests, filtered, labelled):
        code, details = failure(stub.Predict, request, timeout=60)
        assert code.name in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert len(details) <= 500
        assert "\n" not in details


def test_an_absent_version_is_not_found(stub, make_request):
    request = make_request("gpt", "double", x=[1.0])
    request.model_spec.version.value = 7
    code, details = failure(stub.Predict, request, timeout=60)
    assert code == grpc.StatusCode.NOT_FOUND
    assert details == "version of model 'gpt' must be 1, got 7."


def test_a_tensor_that_is_not_whole_is_refused(stub, make_request):
    request = make_request("gpt", "double", x=[1.0])
    request.inputs["x"].tensor_content = b"abc"
    code, details = failure(stub.Predict, request, timeout=60)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'x' must be a whole tensor" in details


@pytest.mark.parametrize(
    ("shape", "code", "message"),
    [
        ([10**10, 1], "INVALID_ARGUMENT", "at most 64 rows, got 10000000000"),
        ([1, 10**10], "RESOURCE_EXHAUSTED", "at most 268435456 bytes, got 40000000000"),
        ([64, 2**62], "RESOURCE_EXHAUSTED", "at most 268435456 bytes"),
        ([1, -1], "INVALID_ARGUMENT", r"must be int32 [B, ?], got int32 [1, -1]"),
        ([1] * 200, "INVALID_ARGUMENT", "must be int32 [B, ?], got int32 [1, 1"),
    ],
    ids=str,
)
def test_a_value_that_stands_for_many_is_refused_before_it_is_repeated(
    stub, make_request, monkeypatch, shape, code, message
):
    request = make_request("gpt", "scaled", x=np.array([[1]], np.int32))
    proto = request.inputs["x"]
    proto.ClearField("tensor_content")
    proto.int_val[:] = [1]
    del proto.tensor_shape.dim[:]
    for size in shape:
        proto.tensor_shape.dim.add(size=size)

    def make(proto):
        raise AssertionError("it was made")

    monkeypatch.setattr(tf, "make_ndarray", make)
    found, details = failure(stub.Predict, request, timeout=60)
    assert found.name == code
    assert message in details


def test_types_that_are_none_are_refused(stub, make_request):
    request = make_request("gpt", "double", x=[1.0])
    request.inputs["x"].dtype = 99
    code, details = failure(stub.Predict, request, timeout=60)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'x' must be a whole tensor" in details


def test_what_is_not_served_is_unimplemented(stub):
    from tensorflow_serving.apis import classification_pb2

    code, _ = failure(
        stub.Classify, classification_pb2.ClassificationRequest(), timeout=60
    )
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_has_signatures_with_their_defaults(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "gpt"
    request.metadata_field.append("signature_def")
    response = stub.GetModelMetadata(request, timeout=60)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    scaled = signatures.signature_def["scaled"]
    assert tf.make_ndarray(scaled.defaults["scale"]).tolist() == [3]
    assert response.model_spec.version.value == 1
    request.metadata_field[0] = "weights"
    code, details = failure(stub.GetModelMetadata, request, timeout=60)
    assert (code.name, details) == (
        "INVALID_ARGUMENT",
        "metadata_field must be 'signature_def', got ['weights'].",
    )


def test_status_tells_that_the_version_is_there(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "gpt"
        (one,) = stub.GetModelStatus(request, timeout=60).model_version_status
        assert (one.version, one.State.Name(one.state)) == (1, "AVAILABLE")
        request.model_spec.name = "other"
        code, _ = failure(stub.GetModelStatus, request, timeout=60)
        assert code == grpc.StatusCode.NOT_FOUND
