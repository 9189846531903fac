"""The client gives what the served model gives, over gRPC and over REST alike."""

import math

import numpy as np
import pytest

from keras_gpt.export.client import (
    Classification,
    GPTClient,
    RowError,
)

FULL = {"max_new_tokens": 200}


@pytest.fixture
def client(target, backend):
    with GPTClient(target) as client:
        yield client


def test_one_prompt_gives_a_string_and_a_list_a_list(client, expected_text):
    assert client.generate("caf\u00e9", seed=3, **FULL) == expected_text(
        "caf\u00e9", seed=3
    )
    assert client.generate(["a", "b"], seed=[3, 4], **FULL) == [
        expected_text("a", seed=3),
        expected_text("b", seed=4),
    ]
    assert client.generate((b"a",), seed=3, **FULL) == [expected_text("a", seed=3)]


def test_no_prompts_cost_no_call(client, backend):
    assert client.generate([]) == []
    assert client.score([]) == []
    assert backend.requests == []


def test_every_input_goes_out_with_all_rows(client, backend):
    client.generate(["a", "b", "c"], temperature=0.5)
    (request,) = backend.of("generate")
    definition = backend.definitions["generate"]
    assert set(request.inputs) == set(definition.inputs)
    for name, value in request.inputs.items():
        assert len(value) == 3, name
    assert request.inputs["temperature"].tolist() == [0.5] * 3
    assert request.inputs["max_new_tokens"].tolist() == [40] * 3  # as exported
    assert request.inputs["stop_strings"].tolist() == [[b"", b""]] * 3


def test_knobs_of_every_kind_reach_their_rows(client, expected_text):
    texts = client.generate(
        ["a", "b"],
        temperature=[0.5, 2],
        top_k=np.array([1, 2]),
        seed=[2**63 - 1, -1],
        truncate_prompt=[True, False],
        stop_strings=[["x"], ["\u00e9", "z", "y"]],
        stop_token_ids=[[], [7, 8]],
        logit_bias=[{5: 2.0, 6: -1.0}, {}],
        **FULL,
    )
    assert texts == [
        expected_text(
            "a", temperature="0.500000", top_k=1, seed=2**63 - 1,
            truncate_prompt="true", stop_strings="x||",
            stop_token_ids="-1|-1", logit_bias_ids="5|6",
            logit_bias_values="2.000000|-1.000000",
        ),
        expected_text(
            "b", temperature="2.000000", top_k=2, seed=-1,
            truncate_prompt="false", stop_strings="\u00e9|z|y",
            stop_token_ids="7|8", logit_bias_ids="-1|-1",
            logit_bias_values="0.000000|0.000000",
        ),
    ]  # fmt: skip


def test_lists_for_all_rows(client, expected_text):
    knobs = {"seed": 1, "stop_token_ids": [4], "logit_bias": {9: 1}, **FULL}
    shown = {"seed": 1, "stop_token_ids": "4", "logit_bias_ids": "9",
             "logit_bias_values": "1.000000"}  # fmt: skip
    assert client.generate(["a", "b"], stop_strings=["x", "y"], **knobs) == [
        expected_text(text, stop_strings="x|y", **shown) for text in "ab"
    ]
    # A lone string is one stop string, not one for each letter.
    assert client.generate("a", stop_strings="xy", **knobs) == expected_text(
        "a", stop_strings="xy", **shown
    )


def test_seeds_are_fresh_for_each_prompt_and_call(client, backend):
    client.generate(["a"] * 3)
    client.generate(["a"] * 3, seed=[1, None, None])
    first, second = (request.inputs["seed"] for request in backend.of("generate"))
    assert second[0] == 1
    assert len({*first.tolist(), *second.tolist()}) == 6


def test_the_signature_is_asked_for_once(client, backend):
    client.generate("a")
    client.score("a")
    client.generate(["a", "b"])
    assert len(backend.of("metadata")) == 1


def test_signatures_for_loaders_are_none_of_a_client_s(client, backend, monkeypatch):
    name = "__saved_model_init_op"
    monkeypatch.setitem(backend.definitions, name, backend.definitions["score"])
    for asked in ("nope", name):
        with pytest.raises(ValueError, match="the signature must be") as raised:
            client.generate("a", signature_name=asked)
        assert "(beams, chat, classify, " in str(raised.value)
        assert f"{name}," not in str(raised.value)


def test_details(client, expected_text):
    cut, whole = client.generate(
        ["a", "b"], seed=1, max_new_tokens=[5, 200], return_details=True
    )
    text = expected_text("b", seed=1)
    assert whole.text == text
    assert whole.bytes == text.encode()
    assert whole.token_ids.tolist() == list(text.encode())
    assert whole.token_ids.dtype == np.int32
    np.testing.assert_array_equal(
        whole.token_log_probs, np.float32(list(text.encode())) * np.float32(-0.1)
    )
    assert whole.token_log_probs.dtype == np.float32
    assert whole.finish_reason == "stop"
    assert whole.beams == {}
    assert (cut.text, cut.finish_reason) == ("a;0.7", "length")
    assert cut.token_ids.tolist() == list(b"a;0.7")
    assert client.generate("a", max_new_tokens=1, return_details=True).text == "a"


def test_no_new_tokens_are_an_empty_text(client):
    result = client.generate("a", max_new_tokens=0, return_details=True)
    assert (result.text, result.bytes, result.finish_reason) == ("", b"", "length")
    assert result.token_ids.shape == (0,)


def test_bytes_are_exact_where_the_text_is_cut(client, expected_text):
    whole = expected_text("a", seed=1).encode()
    result = client.generate(
        "a", seed=1, max_new_tokens=len(whole) - 1, return_details=True
    )
    assert result.bytes == whole[:-1]
    assert result.text == whole[:-3].decode() + "\ufffd"


def test_beams_are_arrays_of_their_row(client):
    first, second = client.generate(
        ["a", "\u4e2d"],
        signature_name="beams",
        length_penalty=[2.0, 0.5],
        return_details=True,
    )
    assert first.beams["beam_scores"].tolist() == [2.0, -2.0]
    assert second.beams["beam_scores"].tolist() == [0.5, -0.5]
    assert second.beams["beam_texts"].tolist() == [second.text, "\u4e2d"]
    assert second.beams["beam_texts_bytes"][1] == "\u4e2d".encode()


def test_bad_rows_come_back_in_details(client):
    results = client.generate(
        ["a", "b" * 91, b"\xff"], max_new_tokens=3, return_details=True
    )
    reasons = [result.finish_reason for result in results]
    assert reasons == ["length", "prompt_too_long", "invalid_input"]
    assert [result.text for result in results] == ["a;0", "", ""]


def test_bad_rows_raise_and_the_others_are_kept(client):
    with pytest.raises(RowError) as raised:
        client.generate(["a", "b" * 91, b"\xff"], max_new_tokens=3)
    error = raised.value
    assert str(error) == (
        "inputs[1] must be shorter than the model's context (prompt_too_long), got "
        f"'{'b' * 79}; 2 of 3 rows are bad."
    )
    assert isinstance(error, ValueError)
    assert error.reasons == ["", "prompt_too_long", "invalid_input"]
    assert error.results[0].text == "a;0"


def test_one_bad_prompt_is_named_without_a_place(client):
    with pytest.raises(RowError, match=r"^inputs must be UTF-8, .* got '\\\\xff'\.$"):
        client.generate(b"\xff")


def test_score(client):
    one = client.score("ab")
    assert one.token_ids.tolist() == [97, 98]
    expected = np.float32([97, 98]) * np.float32(-0.1)
    np.testing.assert_array_equal(one.log_probs, expected)
    assert one.total_log_prob == pytest.approx(float(expected.sum()))
    with pytest.raises(RowError, match=r"^inputs\[1\] must be shorter") as raised:
        client.score(["ab", "b" * 91])
    good, bad = raised.value.results
    assert good.total_log_prob == one.total_log_prob
    assert math.isnan(bad.total_log_prob)
    assert bad.token_ids.shape == (0,)


def test_classify(client):
    result = client.classify("four")
    assert isinstance(result, Classification)
    assert result.labels == ["good", "\u4e2d"]
    assert result.probabilities.tolist() == [0.25, 0.75]
    assert [r.probabilities[0] for r in client.classify(["a", "ab"])] == [0.0625, 0.125]


def test_tokenize_and_detokenize(client):
    assert client.tokenize("ab").tolist() == [97, 98]
    assert [ids.tolist() for ids in client.tokenize(["a", "bc", ""])] == [
        [97], [98, 99], [],
    ]  # fmt: skip
    assert client.detokenize([97, 98]) == "ab"
    assert client.detokenize([np.array([97]), [98, 99], []]) == ["a", "bc", ""]
    assert client.detokenize(client.tokenize("ab")) == "ab"
    rule = r"^token_ids\[1\] must be of ids of the .*vocabulary .* got \[200\]\.$"
    with pytest.raises(RowError, match=rule) as raised:
        client.detokenize([[97], [200]])
    assert raised.value.results == ["a", ""]


def test_chat(client, backend):
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "caf\u00e9"},
    ]
    assert client.chat(turns, max_new_tokens=26) == "system:be brief,user:caf\u00e9"
    (request,) = backend.of("chat")
    assert request.inputs["role"].tolist() == [[b"system", b"user"]]
    assert request.inputs["num_messages"].tolist() == [2]
    answers = client.chat([turns, turns[1:]], max_new_tokens=[26, 10])
    assert answers == ["system:be brief,user:caf\u00e9", "user:caf\u00e9"]
    assert backend.of("chat")[1].inputs["content"].tolist() == [
        [b"be brief", "caf\u00e9".encode()],
        ["caf\u00e9".encode(), b""],
    ]
    assert backend.of("chat")[1].inputs["num_messages"].tolist() == [2, 1]


def test_both_ways_give_the_same(grpc_target, rest_target, backend):
    prompts = ['a\n\t"\\b', "\u0000\u4e2d", ""]
    with GPTClient(grpc_target) as one, GPTClient(rest_target) as other:
        ours, theirs = (
            client.generate(prompts, seed=[1, 2, 3], return_details=True, **FULL)
            for client in (one, other)
        )
    for mine, its in zip(ours, theirs, strict=True):
        assert mine[:2] == its[:2]
        assert mine.finish_reason == its.finish_reason
        for name in ("token_ids", "token_log_probs"):
            left, right = getattr(mine, name), getattr(its, name)
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes()
    first, second = (request.inputs for request in backend.of("generate"))
    assert {k: v.tolist() for k, v in first.items()} == {
        k: v.tolist() for k, v in second.items()
    }


def test_a_version_can_be_asked_for(target, backend):
    with GPTClient(target, version=7) as client:
        client.generate("a")
    assert [request.version for request in backend.requests] == [7, 7]
    with GPTClient(target) as client:
        client.generate("a")
    # Its inputs are those of the version that told of them.
    assert [request.version for request in backend.requests[2:]] == [None, 7]


def test_servers_that_tell_no_defaults_fill_them_in(
    target, toy_folder, backend_of, servers
):
    plain = backend_of(toy_folder, with_defaults=False)
    address = servers(plain, kind="rest" if "://" in target else "grpc")
    with GPTClient(address, retries=0) as client:
        with pytest.raises(RuntimeError, match="INVALID_ARGUMENT: Missing named input"):
            client.generate("a", top_k=3)
    assert set(plain.of("generate")[0].inputs) == {"text", "top_k", "seed"}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"beams": 3, "top_k": 1},
            "knobs of the served model must be of logit_bias, max_new_tokens, seed, "
            "stop_strings, stop_token_ids, temperature, top_k, truncate_prompt, "
            "got beams.",
        ),
        ({"temperature": -1.0}, "temperature must be finite and at least 0, got -1.0"),
        ({"top_k": 0.5}, "top_k must be a whole number, got 0.5"),
        ({"top_k": [1, 2]}, r"top_k must be one value or one per prompt \(3\)"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
        ({"seed": 2**70}, "seed must be a whole number"),
        ({"truncate_prompt": 1}, "truncate_prompt must be True or False, got 1"),
        ({"stop_strings": [1]}, "stop_strings must be one list or one per prompt"),
        ({"stop_strings": [["a"]] * 2}, r"one list or one per prompt \(3\)"),
        ({"stop_strings": "\ud800"}, "UTF-8 can write"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids must be one list or one"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids must be of int32 numbers"),
        ({"logit_bias": 5}, r"logit_bias must be one dict or one .*\(3\), got 5"),
        ({"logit_bias": [1]}, "logit_bias must be one dict or one per prompt"),
        ({"logit_bias": {(1, 2): 1.0}}, "logit_bias must be of token ids"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias must be finite, got inf"),
        ({"logit_bias": {1: "a"}}, "logit_bias must be finite, got 'a'"),
        ({"timeout": 0}, "timeout must be finite and above 0 s, got 0"),
        ({"signature_name": "nope"}, r"one that model 'gpt' at .* has \(beams, ch"),
        ({"signature_name": []}, r"one that model 'gpt' at .*, got \[\]"),
        ({"signature_name": "score"}, "with output finish_reason, generated_bytes"),
    ],
)
def test_bad_knobs_are_named_before_anything_runs(client, backend, knobs, message):
    with pytest.raises(ValueError, match=message):
        client.generate(["a", "b", "c"], **knobs)
    assert {request.kind for request in backend.requests} <= {"metadata"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda c: c.generate(3),
            "inputs must be a string or a list of strings, got 3",
        ),
        (lambda c: c.generate(["a", None]), r"inputs\[1\] must be a string, got None"),
        (lambda c: c.generate("\ud800"), r"inputs\[0\] must be a text that UTF-8"),
        (lambda c: c.score(["a", 2]), r"inputs\[1\] must be a string, got 2"),
        (lambda c: c.generate({"a": 1}), "inputs must be a string or a list of string"),
        (lambda c: c.stream(["a"]), r"prompt\[0\] must be a string"),
        (lambda c: c.stream("a", tokens_per_call=0), "tokens_per_call must be a posit"),
        (lambda c: c.stream("a", tokens_per_call=2**31), "tokens_per_call must be at"),
        (lambda c: c.chat("hi"), "messages must be a list of dicts"),
        (lambda c: c.chat([]), "messages must be a list of dicts"),
        (lambda c: c.chat([{"role": "user"}]), "content of a message must be a string"),
        (lambda c: c.detokenize([[1], "a"]), "token_ids must be one list or one per"),
        (lambda c: c.detokenize(5), "token_ids must be a list of ids or .*, got 5"),
        (lambda c: c.detokenize(None), "token_ids must be a list of ids .* got None"),
        (lambda c: c.detokenize({1: 2}), "token_ids must be a list of ids or a list"),
        (lambda c: c.detokenize([2**31]), "token_ids must be of int32 numbers"),
    ],
)
def test_bad_arguments_are_named(client, backend, call, message):
    with pytest.raises(ValueError, match=message):
        call(client)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "localhost"}, "target must be host:port, .* got 'localhost'"),
        ({"target": "ftp://a:1"}, "target must be host:port"),
        ({"target": "http://a:b"}, "target must be host:port"),
        ({"target": 8500}, "target must be host:port, .* got 8500"),
        ({"model_name": ""}, "model_name must be a name, got ''"),
        ({"version": 0}, "version must be a positive integer, got 0"),
        ({"timeout": float("nan")}, "timeout must be finite and above 0 s, got nan"),
        ({"timeout": True}, "timeout must be finite and above 0 s, got True"),
        ({"retries": -1}, "retries must be an integer of at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GPTClient(**{"target": "127.0.0.1:1", **arguments})


def test_addresses_of_every_kind_are_taken():
    for target in (
        "a:1",
        "[::1]:8500",
        "http://a",
        "https://a:1/base/",
        "http://[::1]:1",
    ):
        GPTClient(target).close()
