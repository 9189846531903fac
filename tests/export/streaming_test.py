"""`prefill` and `decode`: the pieces of one `generate`, whatever the steps."""

import numpy as np
import pytest
import tensorflow as tf

KNOBS = {"max_new_tokens": [20, 9, 0, 30], "temperature": [0.0, 1.0, 1.0, 0.7]}
KNOBS |= {"seed": [1, 2, 3, 4], "no_repeat_ngram_size": [0, 2, 0, 0]}


def state_of(outputs):
    return {key: x for key, x in outputs.items() if key.startswith("state_")}


def run(call, state, steps):
    """Decodes to the end, in steps of so many tokens; returns what came."""
    rows = len(state["state_length"])
    texts, ids, log_probs = [b""] * rows, [[] for _ in range(rows)], [[]] * rows
    for step in range(200):
        result = call(
            "decode", max_tokens=[steps[step % len(steps)]], **state_of(state)
        )
        for row in range(rows):
            count = result["new_num_tokens"][row]
            result["new_text"][row].decode()  # whole characters
            texts[row] += result["new_text"][row]
            ids[row] += result["new_token_ids"][row][:count].tolist()
            new = result["new_token_log_probs"][row][:count].tolist()
            log_probs[row] = log_probs[row] + new
        state = result
        if all(result["finish_reason"]):
            return texts, ids, log_probs, result["finish_reason"].tolist()
    raise AssertionError("the stream does not end")


@pytest.mark.parametrize("steps", [[1], [4], [16], [3, 0, 7]], ids=str)
def test_pieces_join_to_one_generate(call, prompts, steps):
    whole = call("generate", text=prompts, **KNOBS)
    state = call("prefill", text=prompts, **KNOBS)
    texts, ids, log_probs, reasons = run(call, state, steps)
    assert texts == whole["generated_text"].tolist()
    assert reasons == whole["finish_reason"].tolist()
    for row, count in enumerate(whole["num_tokens"]):
        assert ids[row] == whole["token_ids"][row][:count].tolist()
        np.testing.assert_allclose(
            log_probs[row], whole["token_log_probs"][row][:count], atol=1e-5
        )


def test_a_call_gives_no_more_than_it_is_asked_for(call):
    state = call("prefill", text=["The king", "O my lord"], max_new_tokens=[9])
    result = call("decode", max_tokens=[2, 5], **state_of(state))
    assert result["new_num_tokens"].tolist() == [2, 5]
    assert result["finish_reason"].tolist() == [b"", b""]
    result = call("decode", max_tokens=[100, 0], **state_of(result))
    assert result["new_num_tokens"].tolist() == [7, 0]
    assert result["finish_reason"].tolist() == [b"length", b""]
    assert state_of(result).keys() == state_of(state).keys()


@pytest.mark.parametrize("step", [1, 4])
def test_nothing_before_a_stop_string_is_taken_back(call, prompts, step):
    knobs = {**KNOBS, "max_new_tokens": [40]}
    free = call("generate", text=prompts, **knobs)["generated_bytes"]
    stops = [[text[10:13], text[30:32]] for text in free]
    stops[3] = [b"", b"never"]
    knobs["stop_strings"] = stops
    whole = call("generate", text=prompts, **knobs)
    state = call("prefill", text=prompts, **knobs)
    texts, *_, reasons = run(call, state, [step])
    assert texts == whole["generated_text"].tolist()
    assert reasons == whole["finish_reason"].tolist()
    assert b"stop" in reasons


def test_tokens_that_may_begin_a_stop_sequence_wait(build, call, causal_lm):
    options = {"temperature": 1.0, "seed": 4, "max_new_tokens": 12}
    details = causal_lm.generate("The king", return_details=True, **options)
    free = details.token_ids.tolist()
    # One that comes, and one of which only the first tokens come.
    stops = [free[5:8], [*free[2:4], 0]]
    made = build(stop_token_ids=stops, **options)
    whole = call("generate", _signatures=made, text=["The king"])
    assert whole["token_ids"].tolist() == [free[:5]]

    def with_stops(name, **inputs):
        return call(name, _signatures=made, **inputs)

    state = with_stops("prefill", text=["The king"])
    for step in (1, 4):
        texts, ids, _, reasons = run(with_stops, state, [step])
        assert (texts, ids, reasons) == (
            whole["generated_text"].tolist(),
            [free[:5]],
            [b"stop"],
        )


def test_speculation_changes_nothing(build, call, prompts):
    options = {"max_new_tokens": 30, "temperature": 0.3, "seed": 0}
    made = build(draft="prompt_lookup", **options)
    knobs = {name: [value] for name, value in options.items()}
    whole = call("generate", text=prompts, **knobs)
    drafted = call("generate", _signatures=made, text=prompts)
    assert drafted["token_ids"].tolist() == whole["token_ids"].tolist()
    state = call("prefill", _signatures=made, text=prompts)

    def with_drafts(name, **inputs):
        return call(name, _signatures=made, **inputs)

    assert run(with_drafts, state, [4])[0] == whole["generated_text"].tolist()


def test_states_travel_through_bytes_and_from_batch_to_batch(loaded, prompts):
    whole = loaded("generate", text=prompts, **KNOBS)
    state = state_of(loaded("prefill", text=prompts, **KNOBS))
    state = state_of(loaded("decode", max_tokens=[3], **state))
    protos = {
        key: tf.make_tensor_proto(x).SerializeToString() for key, x in state.items()
    }
    again = {
        key: tf.make_ndarray(tf.make_tensor_proto(0).FromString(data))
        for key, data in protos.items()
    }
    # Rows part, and meet others.
    order = [3, 1]
    mixed = {key: x[order] for key, x in again.items()}
    texts, ids, *_ = run(loaded, mixed, [5])
    for place, row in enumerate(order):
        count = whole["num_tokens"][row]
        assert ids[place] == whole["token_ids"][row][3:count].tolist()
        assert whole["generated_text"][row].endswith(texts[place])


def test_decoding_leaves_the_state_as_it_was(call):
    state = state_of(call("prefill", text=["The king"], max_new_tokens=[8]))
    copy = {key: np.array(x) for key, x in state.items()}
    tensors = {key: tf.constant(x) for key, x in state.items()}
    first = call("decode", max_tokens=[8], **tensors)
    second = call("decode", max_tokens=[8], **tensors)
    assert first["new_token_ids"].tolist() == second["new_token_ids"].tolist()
    for key, before in copy.items():
        np.testing.assert_array_equal(tensors[key].numpy(), before, err_msg=key)


def test_strings_of_the_state_are_named_as_bytes(call):
    lists = {"stop_strings": [[b"\xe4\xb8"]], "bad_words": [[b"th"]]}
    state = state_of(call("prefill", text=["The king"], **lists))
    strings = {key for key, value in state.items() if value.dtype == object}
    names = ("text_bytes", "stop_strings_bytes", "bad_words_bytes")
    assert strings == {f"state_{name}" for name in names}
    assert state["state_stop_strings_bytes"].tolist() == [[b"\xe4\xb8"]]


def test_bad_rows_end_at_once_with_their_reason(call):
    text = [b"The king", b"word " * 300, b"\xff", b"The king"]
    state = call("prefill", text=text, temperature=[0.0, 0.0, 0.0, -1.0])
    result = call("decode", max_tokens=[3], **state_of(state))
    assert result["finish_reason"].tolist() == [
        b"",
        b"prompt_too_long",
        b"invalid_input",
        b"invalid_input",
    ]
    assert result["new_num_tokens"].tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 10**6),
        ("length", -(2**31)),
        ("limit", 2**31 - 1),
        ("prompt_length", -5),
        ("limit", 10**6),
        ("finish_reason", 77),
        ("num_tokens_given", 50),
        ("num_bytes_given", -1),
        ("token_ids", 10**6),
        ("temperature", -1.0),
        ("top_p", np.nan),
        ("stop_token_ids", 10**6),
        ("bad_words_bytes", b"y" * 65),
    ],
)
def test_a_state_that_no_call_returned_ends_its_row_alone(call, name, value):
    state = state_of(call("prefill", text=["The king"] * 2, max_new_tokens=[8]))
    clean = call("decode", max_tokens=[8], **state)
    table = np.array(state[f"state_{name}"])
    table[1] = value
    result = call("decode", max_tokens=[8], **{**state, f"state_{name}": table})
    assert result["finish_reason"].tolist() == [b"length", b"invalid_input"]
    assert result["new_num_tokens"].tolist() == [8, 0]
    assert result["new_text"][0] == clean["new_text"][0]


def test_a_row_that_has_ended_keeps_its_reason_whatever_its_knobs_are(call):
    state = state_of(call("prefill", text=["The king"], max_new_tokens=[1]))
    result = call("decode", **{**state, "state_temperature": [-1.0]})
    assert result["finish_reason"].tolist() == [b"length"]
    assert result["new_num_tokens"].tolist() == [1]


def test_a_state_holds_its_text_only_where_its_own_row_has_stop_strings(call):
    stops = [["never"], [""]]
    common = {"text": ["The king", "O my lord"], "max_new_tokens": [9]}
    state = call("prefill", stop_strings=stops, **common)
    result = call("decode", max_tokens=[5], **state_of(state))
    assert [len(text) > 0 for text in result["state_text_bytes"]] == [True, False]
    alone = call("prefill", stop_strings=[[""]], **common)
    assert alone["state_text_bytes"][1] == state["state_text_bytes"][1] == b""


def test_a_text_may_fill_the_context(call, causal_lm):
    state = call("prefill", text=["The king"], max_new_tokens=[1000])
    texts, ids, _, reasons = run(call, state, [7])
    whole = call("generate", text=["The king"], max_new_tokens=[1000])
    assert ids == [whole["token_ids"][0].tolist()]
    assert texts == whole["generated_text"].tolist()
    assert reasons == [b"length"]
