"""Questions and answers in Python: bad answers, no answers, one or several."""

import numpy as np
import pytest

from tests.models.tasks_test import make

CONTEXT = "王 and 😀 say: the king's café is good, my lord"


@pytest.fixture(scope="module")
def reader(tokenizer):
    return make("answering", tokenizer)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("queen", 14),
        ("the king", 12),  # it begins one character later
        ("my lord", len(CONTEXT)),
        ("王", -1),
    ],
)
def test_answers_that_are_not_there_are_named(reader, text, start):
    x = {"question": ["who?"] * 2, "context": [CONTEXT] * 2}
    y = {"answer_text": ["王", text], "answer_start": [0, start]}
    message = "answer_text must be in its context at answer_start, got .*" + text
    with pytest.raises(ValueError, match=message):
        reader.fit(x, y, verbose=0)


def test_the_threshold_decides_whether_there_is_an_answer(reader):
    reader.null_threshold = -np.inf
    always = reader.answer("who?", CONTEXT)
    assert always.text and CONTEXT[always.start : always.end] == always.text
    reader.null_threshold = np.nextafter(np.float32(always.score), np.float32(np.inf))
    never = reader.answer(["who?", ""], [CONTEXT, CONTEXT])
    assert never[0] == ("", 0, 0, pytest.approx(always.score, rel=1e-5))
    reader.null_threshold = 0.0
