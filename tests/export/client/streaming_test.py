"""Streams: the pieces join to the text, and the state comes back bit by bit."""

import numpy as np
import pytest

from keras_gpt.export.client import GPTClient, RowError, ServingError

KNOBS = {"seed": 5, "max_new_tokens": 200, "temperature": 0.5}


@pytest.fixture
def client(target, backend):
    with GPTClient(target) as client:
        yield client


@pytest.mark.parametrize("count", [1, 4, 300])
def test_pieces_join_to_the_text(client, backend, count):
    whole = client.generate("\u4e2d caf\u00e9", **KNOBS)
    pieces = list(client.stream("\u4e2d caf\u00e9", tokens_per_call=count, **KNOBS))
    assert "".join(pieces) == whole
    assert "" not in pieces
    calls = backend.of("decode")
    assert len(calls) == -(-len(whole.encode()) // count)
    assert all(call.inputs["max_tokens"].tolist() == [count] for call in calls)


def test_four_tokens_a_call_by_default(client, backend):
    next(client.stream("a"))
    assert backend.of("decode")[0].inputs["max_tokens"].tolist() == [4]


def test_state_comes_back_bit_by_bit(client, backend):
    # The limit cuts the text's last character, so the state holds bytes that are no
    # UTF-8.
    length = len(client.generate("a", **KNOBS).encode())
    knobs = {**KNOBS, "max_new_tokens": length - 1}
    given = client.generate("a", **knobs)
    assert "".join(client.stream("a", **knobs)) == given
    assert given.endswith("\ufffd")
    (request,) = backend.of("prefill")
    state = backend.run("prefill", request.inputs)
    assert np.isnan(state["state_cache"]).any()
    assert np.signbit(state["state_cache"][0, 2])
    assert state["state_cache"][0, 3] == np.float32(1e-45) != 0.0
    assert state["state_text"][0].endswith("\u4e2d".encode()[:-1])
    for call in backend.of("decode"):
        assert set(call.inputs) == {*state, "max_tokens"}
        sent = call.inputs["state_cache"].astype(np.float32)
        assert sent.tobytes() == state["state_cache"].tobytes()
        assert call.inputs["state_text"].tolist() == state["state_text"].tolist()


def test_a_stream_stays_with_its_version(client, backend):
    stream = client.stream("a", **KNOBS)
    next(stream)
    assert [call.version for call in backend.of("prefill")] == [7]
    backend.version = 8
    with pytest.raises(ServingError, match="NOT_FOUND"):
        next(stream)
    list(client.stream("a", **KNOBS))
    assert {call.version for call in backend.of("decode")[-5:]} == {8}


def test_a_server_that_does_not_go_on_is_left(client, backend, monkeypatch):
    run = backend.run

    def stand_still(signature, inputs):
        if signature == "decode":
            inputs = {**inputs, "max_tokens": np.zeros([1], np.int32)}
        return run(signature, inputs)

    monkeypatch.setattr(backend, "run", stand_still)
    with pytest.raises(ServingError, match="INTERNAL: decode does not go on"):
        list(client.stream("a"))
    assert len(backend.of("decode")) == 1


def test_a_refused_prompt_raises(client):
    with pytest.raises(RowError, match=r"^prompt must be shorter .* got 'bbbb"):
        list(client.stream("b" * 91))


def test_unknown_knobs_are_named(client):
    with pytest.raises(ValueError, match="served model must be of .* got nope"):
        list(client.stream("a", nope=1))


def test_a_step_is_tried_again(client, backend, refusal):
    expected = client.generate("a", **KNOBS)
    stream = client.stream("a", **KNOBS)
    pieces = [next(stream)]
    backend.faults.append(refusal("UNAVAILABLE", "busy"))
    assert "".join([*pieces, *stream]) == expected
    assert backend.faults == []


def test_a_state_above_grpc_s_limit_travels(grpc_target, backend, monkeypatch):
    run = backend.run  # the limit is 4 MB, unless it is lifted

    def with_more(signature, inputs):
        large = inputs.pop("state_large", np.full([1, 1_100_000], 0.1, np.float32))
        assert large.astype(np.float32)[0, ::1000].tolist() == [np.float32(0.1)] * 1100
        return {**run(signature, inputs), "state_large": large}

    monkeypatch.setattr(backend, "run", with_more)
    for name in ("prefill", "decode"):
        definition = type(backend.definitions[name])()
        definition.CopyFrom(backend.definitions[name])
        for tensors in (definition.inputs, definition.outputs):
            if name == "decode" or tensors is definition.outputs:
                tensors["state_large"].CopyFrom(definition.outputs["state_cache"])
        monkeypatch.setitem(backend.definitions, name, definition)
    with GPTClient(grpc_target) as client:
        pieces = client.stream("a", tokens_per_call=300, **KNOBS)
        assert "".join(pieces).startswith("a;0.5")
