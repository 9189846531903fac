"""The signature `generate`: its knobs, its outputs, and the rules of serving."""

import resource

import numpy as np
import pytest
import tensorflow as tf

ROWS = ["The king", "O my lord", "say nay", "and they that know"]


def test_outputs_agree_with_each_other(loaded, prompts):
    result = loaded("generate", text=prompts, max_new_tokens=[5])
    assert set(result) == {
        "generated_text",
        "generated_bytes",
        "token_ids",
        "token_log_probs",
        "num_tokens",
        "finish_reason",
    }
    counts = result["num_tokens"]
    width = counts.max()
    assert result["token_ids"].shape == (4, width)
    assert result["token_log_probs"].shape == (4, width)
    assert np.all(result["token_log_probs"] <= 0.0)
    reasons = result["finish_reason"].tolist()
    assert reasons == [b"length" if count == 5 else b"stop" for count in counts]
    for text in result["generated_text"]:
        text.decode("utf-8")


KNOBS = [
    {"stop_strings": [["l", ""], ["", "a"], ["xyz", "k"], ["o", "i"]]},
    {"bad_words": [["e", "the"], ["", ""], ["lord", ""], ["a", "o"]]},
    {"suppress_tokens": [list(range(100)), list(range(50)) + [-1] * 50]},
    {"begin_suppress_tokens": [list(range(100, 250))]},
    {"allowed_token_ids": [list(range(60, 80)), [5, 6] + [-1] * 18]},
    {"stop_token_ids": [list(range(150)), [1] * 150]},
    {"logit_bias_ids": [[3, 4], [5, -1]], "logit_bias_values": [[9.0, -9.0], [9.0, 2]]},
    {"presence_penalty": [3.0, -3.0], "frequency_penalty": [0.0, 1.5]},
    {"max_new_tokens": [0, 12], "min_new_tokens": [12, 12]},
    {"top_k": [3, 0], "eta_cutoff": [0.0, 0.3], "seed": [-(2**63), 2**63 - 1]},
]


def python_options(knobs, rows):
    """The knobs as `GPTCausalLM.generate` takes them, nothing left out."""
    options = {}
    for name, table in knobs.items():
        table = table * rows if len(table) == 1 else table
        if name in ("stop_strings", "bad_words"):
            table = [[item for item in row if item] for row in table]
        elif isinstance(table[0], list) and "logit_bias" not in name:
            table = [[item for item in row if item >= 0] for row in table]
        options[name] = table
    if "logit_bias_ids" in options:
        table = zip(
            options.pop("logit_bias_ids"), options.pop("logit_bias_values"), strict=True
        )
        options["logit_bias"] = [
            {i: float(v) for i, v in zip(ids, values, strict=True) if i >= 0}
            for ids, values in table
        ]
    return options


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: next(iter(knobs)))
def test_each_knob_means_what_it_means_in_python(call, causal_lm, texts_of, knobs):
    rows = max(len(table) for table in knobs.values())
    rows = max(rows, 2)
    texts = ROWS[:rows]
    given = {"max_new_tokens": [12], "temperature": [1.0], **knobs}
    got = texts_of(call("generate", text=texts, **given))
    options = python_options(given, rows)
    if "stop_token_ids" in options:
        # In Python, they are the same for all prompts.
        stops = options.pop("stop_token_ids")
        expected = [
            causal_lm.generate(
                text,
                strip_prompt=True,
                stop_token_ids=stops[row],
                **{name: value[row] for name, value in options.items()},
                seed=9,
            )
            for row, text in enumerate(texts)
        ]
    else:
        options.setdefault("seed", 9)
        expected = causal_lm.generate(texts, strip_prompt=True, **options)
    assert got == expected
    plain = texts_of(
        call("generate", text=texts, max_new_tokens=[12], temperature=[1.0])
    )
    assert got != plain  # the knob did something


def test_long_prompts_are_cut_where_a_row_asks_for_it(call, causal_lm, texts_of):
    long = "The king is dead, long live the king! " * 10
    result = call(
        "generate", text=[long, long], truncate_prompt=[True, False], temperature=[0.0]
    )
    expected = causal_lm.generate(
        long, truncate="left", max_new_tokens=7, temperature=0.0
    )
    assert texts_of(result) == [expected.removeprefix(long), ""]
    assert result["finish_reason"].tolist() == [b"length", b"prompt_too_long"]


def test_an_id_that_comes_twice_is_biased_once(call):
    # TF Serving pads a list with its first item when it joins requests.
    common = {"text": ["The king"], "temperature": [1.0], "max_new_tokens": [12]}
    once = call("generate", **common, logit_bias_ids=[[7]], logit_bias_values=[[2.5]])
    twice = call(
        "generate",
        **common,
        logit_bias_ids=[[7, 7, 7]],
        logit_bias_values=[[2.5, 2.5, 2.5]],
    )
    assert once["generated_text"] == twice["generated_text"]
    np.testing.assert_array_equal(once["token_log_probs"], twice["token_log_probs"])


def test_values_of_which_a_neighbour_has_more_or_fewer_do_not_matter(call):
    common = {"text": ["The king"] * 4, "temperature": [1.0], "max_new_tokens": [12]}
    ids = [[7, 7, 7], [7, 8, 9], [9, 7, 9], [7, -1, -1]]
    alone = {
        number: call("generate", **common, logit_bias_ids=row, logit_bias_values=value)
        for number, (row, value) in enumerate(
            [([[7]], [[2.5]]), ([[9, 7]], [[2.5, 1]])]
        )
    }
    for values in ([[2.5]] * 4, [[2.5, 1.0]] * 4, [[2.5, 1.0, 2.5, 2.5]] * 4):
        got = call("generate", **common, logit_bias_ids=ids, logit_bias_values=values)
        texts = got["generated_text"].tolist()
        assert [texts[0], texts[3]] == [alone[0]["generated_text"][0]] * 2
        width = len(values[0])
        reasons = [reason == b"invalid_input" for reason in got["finish_reason"]]
        assert reasons == [False, width < 3, width < 2, False]
        if width > 1:
            assert texts[2] == alone[1]["generated_text"][0]


GOOD = {"text": "The king", "temperature": 0.8, "max_new_tokens": 9, "seed": 3}
BAD = {
    "over-long": ({"text": "word " * 300}, b"prompt_too_long"),
    "no UTF-8": ({"text": b"\xff\xfe"}, b"invalid_input"),
    "temperature": ({"temperature": -1.0}, b"invalid_input"),
    "NaN": ({"top_p": np.nan}, b"invalid_input"),
    "10^9 tokens": ({"max_new_tokens": 10**9}, None),
    "an id": ({"suppress_tokens": [10**6]}, b"invalid_input"),
    "a bias": (
        {"logit_bias_ids": [1], "logit_bias_values": [np.inf]},
        b"invalid_input",
    ),
}


def test_more_stop_strings_than_may_be_end_their_row_alone(call, causal_lm):
    many = [
        [""] * 5 + [f"{n}x" for n in range(17)],
        ["e"] + [""] * 21,
        ["y" * 257] * 22,
    ]
    given = {"text": ["The king"] * 3, "max_new_tokens": [20], "temperature": [1.0]}
    result = call("generate", stop_strings=many, **given)
    assert result["finish_reason"][[0, 2]].tolist() == [b"invalid_input"] * 2
    assert result["generated_text"][1].decode() == causal_lm.generate(
        "The king",
        max_new_tokens=20,
        temperature=1.0,
        seed=9,
        stop_strings="e",
        strip_prompt=True,
    )
    # As many as may be, behind others that are none, and before repeated ones.
    many[0] = [""] * 3 + [f"{n}x" for n in range(15)] + ["e"] + ["0x"] * 3
    result = call("generate", stop_strings=many, **given)
    assert result["generated_text"][0] == result["generated_text"][1]


def test_more_bad_words_than_may_be_end_their_row_alone(call, causal_lm):
    words = [f"{n}x" for n in range(1024)]
    rows = [[*words, "e"], ["e"] * 1025, ["y" * 65] + [""] * 1024, [*words, "0x"]]
    given = {"text": ["The king"] * 4, "max_new_tokens": [20], "temperature": [1.0]}
    result = call("generate", bad_words=rows, **given)
    is_bad = [reason == b"invalid_input" for reason in result["finish_reason"]]
    assert is_bad == [True, False, True, False]
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 9}
    assert result["generated_text"][1].decode() == causal_lm.generate(
        "The king", bad_words=["e"], strip_prompt=True, **options
    )


def test_lists_of_many_ids_and_words_take_no_memory_of_their_product(call):
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = peak()
    result = call(
        "generate",
        text=["The king"],
        max_new_tokens=[1],
        bad_words=[[f"{n}x" for n in range(1000)]],
        stop_token_ids=[[5] * 1_000_000],
    )
    assert result["finish_reason"][0] != b"invalid_input"
    assert peak() - before < 1e9  # bytes; two for each word and id would be 2e9


def test_a_bias_for_every_token_is_no_burden(call, tokenizer):
    size = tokenizer.vocabulary_size()
    ids = np.tile(np.arange(size), 30)[None]  # each many times
    given = {"text": ["The king"], "temperature": [0.0], "max_new_tokens": [5]}
    values = np.where(ids == 70, 50.0, -1.0)
    result = call("generate", logit_bias_ids=ids, logit_bias_values=values, **given)
    assert result["token_ids"].tolist() == [[70] * 5]


def columns(rows, known):
    names = {name for row in rows for name in row} & known
    lists = {
        "suppress_tokens": [-1],
        "logit_bias_ids": [-1],
        "logit_bias_values": [0.0],
    }
    default = {**lists, "top_p": 1.0}
    return {name: [row.get(name, default.get(name)) for row in rows] for name in names}


METHODS = {
    "sampling": {},
    "drafts": {"draft": "prompt_lookup"},
    "beams": {"num_beams": 3},
    "contrast": {"penalty_alpha": 0.6, "top_k": 4},
}


@pytest.fixture(scope="module", params=METHODS)
def made(request, build):
    """The signatures of each method."""
    return build(**METHODS[request.param])


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_leaves_its_neighbours_bit_identical(call, made, fault):
    change, reason = BAD[fault]
    known = set(made["generate"].inputs)
    rows = [GOOD, {**GOOD, **change}, GOOD, GOOD]
    for missing in change.keys() - known:
        # A method without the knob refuses it, rather than leave it without effect.
        with pytest.raises(TypeError, match=missing):
            text = tf.constant(["The king"])
            made["generate"].function(text=text, **{missing: tf.constant([0.5])})
        return
    mixed = call("generate", _signatures=made, **columns(rows, known))
    clean = call("generate", _signatures=made, **columns([GOOD] * 4, known))
    for row in (0, 2, 3):
        for name in clean:
            got, want = mixed[name][row], clean[name][row]
            if np.ndim(got):
                got = got[..., : want.shape[-1]]
            np.testing.assert_array_equal(got, want, err_msg=name)
    if reason is not None:
        assert mixed["finish_reason"][1] == reason
        assert mixed["generated_text"][1] == b""
        assert mixed["num_tokens"][1] == 0
    else:
        assert mixed["finish_reason"][1] in (b"length", b"stop")


def assert_parts_of(whole, parts, rows):
    """Checks that the rows of a joined call are what calls of their own give."""
    for part, alone in zip(rows, parts, strict=True):
        assert whole.keys() == alone.keys()
        for key, want in alone.items():
            got = whole[key][part]
            if want.ndim == 2 and got.shape != want.shape:
                assert not got[:, want.shape[1] :].any()  # padding
                got = got[:, : want.shape[1]]
            if want.dtype.kind == "f":
                np.testing.assert_allclose(got, want, atol=1e-5, err_msg=key)
            else:
                assert got.tolist() == want.tolist(), key


PARTS = (slice(0, 1), slice(1, 4))


@pytest.mark.parametrize(
    "name", ["serving_default", "generate", "score", "tokenize", "prefill"]
)
def test_joined_requests_give_what_each_gives_alone(loaded, prompts, name):
    whole = loaded(name, text=prompts)
    parts = [loaded(name, text=prompts[part]) for part in PARTS]
    assert_parts_of(whole, parts, PARTS)


def test_joined_tokens_and_states_give_what_each_gives_alone(loaded, prompts):
    tokens = loaded("tokenize", text=prompts)
    states = loaded("prefill", text=prompts, stop_strings=[["e"], [""], ["a"], ["o"]])
    tokens.pop("error")
    for name, inputs in (("detokenize", tokens), ("decode", states)):
        whole = loaded(name, **inputs)
        parts = [
            loaded(name, **{key: x[part] for key, x in inputs.items()})
            for part in PARTS
        ]
        assert_parts_of(whole, parts, PARTS)
    # And once more, now that the rows are of other lengths.
    states = {key: x for key, x in whole.items() if key.startswith("state_")}
    whole = loaded("decode", **states, max_tokens=[1, 9, 3, 5])
    parts = [
        loaded(
            "decode",
            **{key: x[part] for key, x in states.items()},
            max_tokens=[1, 9, 3, 5][part],
        )
        for part in PARTS
    ]
    assert_parts_of(whole, parts, PARTS)


def test_texts_that_are_no_utf8_have_no_tokens_but_an_error(call, tokenizer):
    result = call("tokenize", text=[b"The king", b"\xff\xfe"])
    ids = tokenizer.tokenize("The king").numpy().tolist()
    assert result["token_ids"].tolist() == [ids, [0] * len(ids)]
    assert result["num_tokens"].tolist() == [len(ids), 0]
    assert result["error"].tolist() == [b"", b"invalid_input"]


def test_no_rows_give_no_rows(loaded):
    result = loaded("generate", text=np.zeros([0], object))
    assert {name: len(value) for name, value in result.items()} == {
        name: 0 for name in result
    }


def test_stop_strings_and_words_may_be_fixed_at_export(build, call, causal_lm):
    options = {"stop_strings": ["e", "o"], "bad_words": ["th", [9, 10]], "seed": 5}
    options |= {"logit_bias": {3: 1.0, (4, 5): 30.0}, "max_new_tokens": 20}
    made = build(stop_token_ids=[7, [8, 9]], **options)
    got = call("serving_default", _signatures=made, text=ROWS)["generated_text"]
    expected = causal_lm.generate(
        ROWS, stop_token_ids=[7, [8, 9]], strip_prompt=True, **options
    )
    assert [text.decode() for text in got] == expected
    # What a request says goes before the exported stop strings.
    free = call("generate", _signatures=made, text=ROWS, stop_strings=[[""]])
    assert [text.decode() for text in free["generated_text"]] == causal_lm.generate(
        ROWS,
        stop_token_ids=[7, [8, 9]],
        strip_prompt=True,
        **{**options, "stop_strings": None},
    )
