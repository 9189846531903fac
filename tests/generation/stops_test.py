"""What ends a text: tokens, sequences of tokens, strings, length and time."""

import re

import numpy as np
import pytest

PROMPTS = ["The king", "", "O my lord", "a"]
FREE = {"stop_token_ids": None, "max_new_tokens": 40, "return_details": True}


@pytest.fixture(scope="module")
def free(causal_lm):
    """What is drawn when nothing stops it."""
    return causal_lm.generate(PROMPTS, seed=3, strip_prompt=True, **FREE)


def token_bytes(causal_lm):
    return causal_lm.preprocessor.tokenizer.token_text.numpy().tolist()


def cut_oracle(pieces, strings, *, least=0):
    """Text, tokens and whether a stop string was met, one token after the other."""
    text = b""
    for count, piece in enumerate(pieces, 1):
        before, text = len(text), text + piece
        ends = [(text.find(s, max(0, before - len(s) + 1)), s) for s in strings]
        begins = [place for place, _ in ends if place >= 0]
        if begins and count >= least:
            return text[: min(begins)], count, True
    return text, len(pieces), False


@pytest.mark.parametrize("least", [0, 12])
def test_stop_strings_cut_across_token_borders(causal_lm, free, least):
    table = token_bytes(causal_lm)
    seen = set()
    for row in range(len(PROMPTS)):
        pieces = [table[token] for token in free.token_ids[row]]
        # Strings that begin in one token and end in another.
        whole = b"".join(pieces).decode("utf-8", errors="ignore")
        for start in range(0, len(whole) - 3, 5):
            strings = [whole[start : start + 3], "never there"]
            got = causal_lm.generate(
                PROMPTS[row],
                seed=3,
                strip_prompt=True,
                stop_strings=strings,
                min_new_tokens=least,
                **FREE,
            )
            text, count, stopped = cut_oracle(
                pieces, [s.encode() for s in strings], least=least
            )
            assert got.text == text.decode("utf-8", errors="replace")
            assert got.finish_reason == ("stop" if stopped else "length")
            assert got.token_ids.tolist() == free.token_ids[row][:count].tolist()
            seen.add(stopped)
    assert True in seen


def test_each_row_has_its_own_stop_strings(causal_lm, free):
    table = token_bytes(causal_lm)
    strings = []
    for ids in free.token_ids:
        data = b"".join(table[i] for i in ids).decode("utf-8", errors="ignore")
        strings.append([data[6:8]])
    strings[1] = []
    together = causal_lm.generate(PROMPTS, seed=3, stop_strings=strings, **FREE)
    alone = [
        causal_lm.generate(prompt, seed=3, stop_strings=mine or None, **FREE)
        for prompt, mine in zip(PROMPTS, strings, strict=True)
    ]
    assert together.text == [one.text for one in alone]
    assert together.finish_reason == ["stop", "length", "stop", "stop"]


def test_the_prompt_holds_no_stop(causal_lm, free):
    got = causal_lm.generate(
        PROMPTS[0], seed=3, strip_prompt=True, stop_strings=["king", "The"], **FREE
    )
    assert got.text == free.text[0]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_stop_sequences_are_left_out(causal_lm, free, size):
    options = {**FREE, "stop_token_ids": [free.token_ids[0][4 : 4 + size].tolist(), 5]}
    got = causal_lm.generate(PROMPTS, seed=3, strip_prompt=True, **options)
    for row, ids in enumerate(free.token_ids):
        expected, reason = ids.tolist(), "length"
        for place in range(len(ids)):
            for stop in ([5], options["stop_token_ids"][0]):
                begin = place + 1 - len(stop)
                if begin >= 0 and ids[begin : place + 1].tolist() == stop:
                    expected, reason = ids[:begin].tolist(), "stop"
                    break
            else:
                continue
            break
        assert got.token_ids[row].tolist() == expected
        assert len(got.log_probs[row]) == len(expected)
        assert got.finish_reason[row] == reason
    assert got.finish_reason[0] == "stop"


def test_min_new_tokens_holds_stop_sequences_back(causal_lm, free):
    stop = free.token_ids[0][4:6].tolist()
    got = causal_lm.generate(
        PROMPTS[0],
        seed=3,
        min_new_tokens=20,
        **{**FREE, "stop_token_ids": [stop]},
    )
    ids = got.token_ids.tolist()
    assert len(ids) >= 18  # a stop sequence is left out, its own tokens count
    pairs = list(zip(ids, ids[1:], strict=False))
    assert tuple(stop) not in pairs


def test_rows_that_end_early_leave_the_others_alone(causal_lm, free):
    got = causal_lm.generate(
        PROMPTS, seed=3, strip_prompt=True, **{**FREE, "max_new_tokens": [0, 1, 7, 40]}
    )
    for row, count in enumerate([0, 1, 7, 40]):
        assert got.token_ids[row].tolist() == free.token_ids[row][:count].tolist()


def test_beams_are_cut_at_stop_strings(causal_lm):
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12}
    options |= {"return_details": True, "strip_prompt": True}
    free = causal_lm.generate("The king", **options)
    # Letters of the best beam; other bytes of it may be no characters.
    string = re.search("[a-z]{2}", free.text[0]).group()
    got = causal_lm.generate("The king", stop_strings=[string, "never"], **options)
    assert "stop" in got.finish_reason
    for text, ids, reason in zip(
        got.text, got.token_ids, got.finish_reason, strict=True
    ):
        whole = b"".join(token_bytes(causal_lm)[token] for token in ids)
        before, found, _ = whole.partition(string.encode())
        assert text == before.decode("utf-8", errors="replace")
        assert bool(found) == (reason == "stop")


def test_time_ends_a_text(causal_lm):
    got = causal_lm.generate(
        PROMPTS,
        seed=3,
        sliding_window=True,
        max_time=0.2,
        **{**FREE, "max_new_tokens": 10**6},
    )
    assert got.finish_reason == ["time"] * 4
    assert 0 < len(got.token_ids[0]) < 10**6
    assert got.timings.total_seconds < 60
    unhurried = causal_lm.generate(PROMPTS, seed=3, max_time=1e6, **FREE)
    assert unhurried.finish_reason == ["length"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_strings": [""]}, r"stop_strings must not be empty, got \[''\]"),
        ({"stop_strings": ["a", 3]}, "stop_strings must be one list or one per"),
        ({"stop_strings": [["a"], ["b"]]}, r"stop_strings must be .* prompt \(1\)"),
        ({"stop_token_ids": [[]]}, "stop_token_ids must not hold an empty list"),
        ({"max_time": 0.0}, "max_time must be above 0, got 0.0"),
        ({"max_time": float("nan")}, "max_time must be above 0, got nan"),
    ],
)
def test_bad_stops(causal_lm, options, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The", **options)


def test_log_probs_end_with_the_text(causal_lm, free):
    for ids, log_probs in zip(free.token_ids, free.log_probs, strict=True):
        assert len(ids) == len(log_probs)
        assert np.all(log_probs < 0.0)
