"""Texts beyond the context, and beginnings that are computed once."""

import numpy as np
import pytest
import tensorflow as tf

CONTEXT = 64
PROMPTS = ["The king", "", "my lord, what say you to the"]
LONG = "The king is dead, long live the king! " * 8


def windowed_oracle(causal_lm, ids, count):
    """Greedy tokens by whole forward passes over the window of each token."""
    backbone, ids, start = causal_lm.backbone, list(ids), 0
    begin = len(ids)
    for _ in range(count):
        if len(ids) - start > CONTEXT:
            start = len(ids) - CONTEXT // 2
        hidden = backbone.forward(np.array([ids[start:]], np.int32)).hidden
        ids.append(int(np.argmax(backbone.logits(hidden)[0, -1])))
    return ids[begin:]


def ids_of(causal_lm, text):
    return causal_lm._runner().encode(tf.constant([text]), prefix=None)[0].tolist()


def test_a_sliding_window_keeps_the_last_half(causal_lm):
    got = causal_lm.generate(
        PROMPTS,
        temperature=0.0,
        max_new_tokens=[150, 100, 120],
        sliding_window=True,
        stop_token_ids=None,
        return_details=True,
    )
    for row, count in enumerate([150, 100, 120]):
        expected = windowed_oracle(causal_lm, ids_of(causal_lm, PROMPTS[row]), count)
        assert got.token_ids[row].tolist() == expected


def test_a_window_slides_for_each_row_alone(causal_lm):
    options = {"seed": 4, "max_new_tokens": 130, "sliding_window": True}
    together = causal_lm.generate(PROMPTS, **options)
    alone = [causal_lm.generate(prompt, **options) for prompt in PROMPTS]
    assert together == alone


def test_without_a_window_the_context_ends_the_text(causal_lm):
    got = causal_lm.generate(
        "The", seed=4, max_new_tokens=500, stop_token_ids=None, return_details=True
    )
    assert len(ids_of(causal_lm, "The")) + len(got.token_ids) == CONTEXT
    assert got.finish_reason == "length"


@pytest.mark.parametrize(("new", "kept"), [(4, 60), (100, 32), (None, 32), (32, 32)])
def test_truncation_keeps_the_last_tokens(causal_lm, causal_lm_on_ids, new, kept):
    options = {"temperature": 0.0, "stop_token_ids": None, "return_details": True}
    got = causal_lm.generate(
        LONG, truncate="left", max_new_tokens=new, strip_prompt=True, **options
    )
    ids = np.array([ids_of(causal_lm, LONG)[-kept:]], np.int32)
    count = min(CONTEXT - kept, new or CONTEXT)
    expected = causal_lm_on_ids.generate(
        {"token_ids": ids, "padding_mask": np.ones_like(ids)},
        max_length=CONTEXT,
        max_new_tokens=count,
        **options,
    )
    assert got.token_ids.tolist() == expected.token_ids[0].tolist()
    assert len(got.token_ids) == count
    # A prompt that fits is left as it is, and the text repeats all of a long one.
    whole = causal_lm.generate(LONG, truncate="left", max_new_tokens=2)
    assert whole.startswith(LONG)
    short = {"seed": 1, "max_new_tokens": 5}
    assert causal_lm.generate("The king", **short) == causal_lm.generate(
        "The king", truncate="left", **short
    )


def test_truncation_makes_room_within_the_longest_text(causal_lm):
    options = {"temperature": 0.0, "stop_token_ids": None, "return_details": True}
    cut = causal_lm.generate(
        LONG, truncate="left", max_length=40, max_new_tokens=5, **options
    )
    assert len(cut.token_ids) == 5
    # What fits stays whole, however few tokens it leaves.
    prompt = LONG[:80]
    count = len(ids_of(causal_lm, prompt))
    assert 40 < count < CONTEXT
    whole = causal_lm.generate(prompt, **options)
    kept = causal_lm.generate(prompt, truncate="left", **options)
    assert kept.token_ids.tolist() == whole.token_ids.tolist()
    assert len(kept.token_ids) == CONTEXT - count


def test_long_prompts_are_refused_unless_asked_for(causal_lm):
    with pytest.raises(
        ValueError, match=r"context of 64 tokens, got .*truncate='left'"
    ):
        causal_lm.generate(LONG)
    with pytest.raises(
        ValueError, match="truncate must be None or 'left', got 'right'"
    ):
        causal_lm.generate(LONG, truncate="right")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": [1, 2, 3]}])
def test_a_prefix_gives_what_its_tokens_give(causal_lm, causal_lm_on_ids, options):
    beginning = "The king is dead"
    prefix = causal_lm.prefill(beginning)
    endings = ["", " and", "!"]
    got = causal_lm.generate(
        endings, prefix=prefix, max_new_tokens=12, return_details=True, **options
    )
    # The ids of both, since one text might have tokens across the border.
    tokenizer = causal_lm.preprocessor.tokenizer
    for row, ending in enumerate(endings):
        ids = [*ids_of(causal_lm, beginning), *tokenizer.tokenize(ending).numpy()]
        ids = np.array([ids], np.int32)
        mine = {
            name: value[row] if isinstance(value, list) else value
            for name, value in options.items()
        }
        expected = causal_lm_on_ids.generate(
            {"token_ids": ids, "padding_mask": np.ones_like(ids)},
            max_length=CONTEXT,
            max_new_tokens=12,
            stop_token_ids=[tokenizer.end_token_id],
            return_details=True,
            **mine,
        )
        assert got.token_ids[row].tolist() == expected.token_ids[0].tolist()
        assert got.text[row].startswith(beginning + ending)


METHODS = [
    {"seed": 3},
    {"num_beams": 3},
    {"penalty_alpha": 0.6},
    {"seed": 3, "draft": "prompt_lookup"},
    {"seed": 3, "best_of": 3},
    {"temperature": 0.0, "repetition_penalty": 1.5},
]


@pytest.mark.parametrize("options", METHODS)
def test_every_method_continues_a_prefix(causal_lm, options):
    whole = causal_lm.generate("The king", max_new_tokens=9, **options)
    prefix = causal_lm.prefill("The king")
    for _ in range(2):  # a prefix is not used up
        text = causal_lm.generate("", prefix=prefix, max_new_tokens=9, **options)
        assert text == whole


def test_prefixes_follow_prefixes_and_stream(causal_lm):
    options = {"seed": 3, "max_new_tokens": 9}
    first = causal_lm.prefill("The king")
    both = causal_lm.prefill(" is dead", prefix=first)
    tail = " and"
    expected = causal_lm.generate(" is dead and", prefix=first, **options)
    assert causal_lm.generate(tail, prefix=both, **options) == expected
    pieces = causal_lm.stream(tail, prefix=both, **options)
    assert "The king is dead and" + "".join(pieces) == expected


def test_each_prompt_of_a_list_has_its_own_prefix(causal_lm):
    options = {"seed": 3, "max_new_tokens": 9}
    prefixes = causal_lm.prefill(["The king", "O my lord, what", "a"])
    got = causal_lm.generate([" x", "", " y"], prefix=prefixes, **options)
    for row, (text, tail) in enumerate(
        zip(["The king", "O my lord, what", "a"], [" x", "", " y"], strict=True)
    ):
        alone = causal_lm.generate(tail, prefix=causal_lm.prefill(text), **options)
        assert got[row] == alone
    with pytest.raises(ValueError, match="as many as inputs has, 1, got 3"):
        causal_lm.generate("x", prefix=prefixes)


def test_bad_prefixes(causal_lm):
    with pytest.raises(ValueError, match="prefix must be what prefill returned"):
        causal_lm.generate("x", prefix="The king")
    with pytest.raises(ValueError, match="truncate must be None with a prefix"):
        causal_lm.generate("x", prefix=causal_lm.prefill("a"), truncate="left")
    with pytest.raises(ValueError, match="shorter than the context of 64 tokens"):
        causal_lm.prefill(LONG)
    with pytest.raises(ValueError, match="shorter than the context of 64 tokens"):
        causal_lm.generate(LONG[:200], prefix=causal_lm.prefill("The king"))
