"""Windows and spans, against loops over bytes, tokens and pairs of tokens."""

import random

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt.models.question_windows import (
    CharacterCounts,
    Windows,
    answer_tokens,
    best_spans,
    make_windows,
    span_texts,
)

# ASCII, accents, CJK, emoji, a joined emoji, combining marks, and white space.
CHARACTERS = [*"the king my lord, é", "ñ", "中", "文", "😀", "👩\u200d🚀", "e\u0301"]
CHARACTERS += ["\t", "\n", "\xa0", "\u3000", "\u200d", "\u0302", "\U0010ffff", "\0"]
SPACES = [" ", "\n", "\t", "\v", "\f", "\r", "\x85", "\xa0", "\u2003", "\u2029"]


@pytest.fixture(scope="module")
def characters(tokenizer):
    return CharacterCounts(tokenizer)


def held_characters(tokenizer, text):
    """The characters of which each token has bytes, by looking at each byte."""
    of_bytes = [i for i, c in enumerate(text) for _ in c.encode()]
    place, found = 0, []
    for token in tokenizer.tokenize(text).numpy():
        size = len(tokenizer.token_text.numpy()[token])
        found.append(set(of_bytes[place : place + size]))
        place += size
    assert place == len(of_bytes)
    return found


def windows_by_hand(tokenizer, question, context, *, length, stride, most):
    """Ids, and for each token the whole characters, of each window."""
    question = tokenizer.tokenize(question).numpy().tolist()[:most]
    ids = tokenizer.tokenize(context).numpy().tolist()
    held = held_characters(tokenizer, context)
    room = length - 2 - len(question)
    begin, found, end = 0, [], [tokenizer.end_token_id]
    while True:
        inside = range(begin, min(begin + room, len(ids)))
        outside = set().union(*(held[i] for i in range(len(ids)) if i not in inside))
        whole = [held[i] - outside for i in inside]
        row = question + end + [ids[i] for i in inside] + end
        found.append((row, [set()] * (len(question) + 1) + whole + [set()]))
        if begin + room >= len(ids):
            return found
        begin += min(stride, room)


def random_text(rng, size):
    return "".join(rng.choices(CHARACTERS, k=size))


def contexts_and_answers(rng, number):
    """Contexts with the place of an answer each, also none, the first and the last."""
    for index in range(number):
        text = random_text(rng, rng.randrange(1, 40))
        start = (0, rng.randrange(len(text)))[index % 2]
        end = (len(text), rng.randrange(start, len(text) + 1))[(index // 2) % 2]
        yield text, start, end
    for text in ("", " \n\xa0 "):
        yield text, 0, 0


@pytest.mark.parametrize(
    ("length", "stride", "most"), [(4, 1, 1), (9, 2, 3), (12, 100, 4), (64, 16, 8)]
)
def test_windows_and_answers(tokenizer, characters, length, stride, most):
    rng = random.Random(length)
    given = list(contexts_and_answers(rng, 40))
    questions = [random_text(rng, rng.randrange(8)) for _ in given]
    windows = make_windows(
        tokenizer.tokenize(questions),
        tokenizer.tokenize([text for text, _, _ in given]),
        characters=characters,
        sequence_length=length,
        stride=stride,
        question_length=most,
        end_id=tokenizer.end_token_id,
    )
    first, last = answer_tokens(
        windows,
        start=tf.constant([start for _, start, _ in given]),
        end=tf.constant([end for _, _, end in given]),
    )
    row, whole_answers = 0, 0
    for owner, (question, (context, start, end)) in enumerate(
        zip(questions, given, strict=True)
    ):
        for ids, held in windows_by_hand(
            tokenizer, question, context, length=length, stride=stride, most=most
        ):
            padding = length - len(ids)
            assert windows.owner[row] == owner
            assert windows.token_ids[row].numpy().tolist() == ids + [0] * padding
            mask = [True] * len(ids) + [False] * padding
            assert windows.padding_mask[row].numpy().tolist() == mask
            firsts = [min(places, default=-1) for places in held] + [-1] * padding
            assert windows.first[row].numpy().tolist() == firsts
            lasts = [max(places, default=-1) for places in held] + [-1] * padding
            assert windows.last[row].numpy().tolist() == lasts

            answer = set(range(start, end))
            expected = (len(ids) - 1,) * 2
            if answer and answer <= set().union(*held):
                begins = [i for i, places in enumerate(held) if start in places]
                ends = [i for i, places in enumerate(held) if end - 1 in places]
                expected = (begins[0], ends[-1])
                whole_answers += 1
                found = context[firsts[begins[0]] : lasts[ends[-1]] + 1]
                assert context[start:end] in found
            assert (first[row], last[row]) == expected
            row += 1
    assert row == len(windows.owner)
    assert whole_answers


def best_by_hand(start, end, windows, owner, answer_length):
    """The best span of a question by trying all, the first of equal ones."""
    best, none = (None, 0, 0), []
    for w in np.flatnonzero(windows.owner.numpy() == owner):
        last = int(windows.no_answer[w])
        none.append(start[w, last] + end[w, last])
        firsts, lasts = windows.first[w].numpy(), windows.last[w].numpy()
        for i in np.flatnonzero(firsts >= 0):
            for j in range(i, min(i + answer_length, len(firsts))):
                total = start[w, i] + end[w, j]
                if firsts[j] >= 0 and (best[0] is None or total > best[0]):
                    best = (total, firsts[i], lasts[j] + 1)
    score = np.finfo(np.float32).min if best[0] is None else best[0] - min(none)
    return best[1], best[2], score


@pytest.mark.parametrize("answer_length", [1, 3, 50])
@pytest.mark.parametrize("kinds", [2, 10_000])  # of logits: with and without ties
def test_the_best_span_is_that_of_all(tokenizer, characters, answer_length, kinds):
    rng = np.random.default_rng(kinds)
    given = list(contexts_and_answers(random.Random(3), 12))
    windows = make_windows(
        tokenizer.tokenize(["why?"] * len(given)),
        tokenizer.tokenize([text for text, _, _ in given]),
        characters=characters,
        sequence_length=16,
        stride=5,
        question_length=3,
        end_id=tokenizer.end_token_id,
    )
    start, end = rng.integers(0, kinds, [2, *windows.first.shape]).astype(np.float32)
    spans = best_spans(
        tf.constant(start),
        tf.constant(end),
        windows=windows,
        num_questions=len(given),
        answer_length=answer_length,
    )
    for owner in range(len(given)):
        expected = best_by_hand(start, end, windows, owner, answer_length)
        assert tuple(part[owner].numpy() for part in spans) == expected


def test_an_answer_of_one_character_that_no_window_holds_whole_is_none():
    # Two tokens of one character, one in each window.
    windows = Windows(
        token_ids=tf.constant([[1, 0, 5, 0], [1, 0, 6, 0]]),
        padding_mask=tf.ones([2, 4], tf.bool),
        owner=tf.constant([0, 0]),
        first=tf.fill([2, 4], -1),
        last=tf.fill([2, 4], -1),
    )
    first, last = answer_tokens(windows, start=tf.constant([0]), end=tf.constant([1]))
    assert first.numpy().tolist() == last.numpy().tolist() == [3, 3]
    spans = best_spans(
        tf.zeros([2, 4]),
        tf.zeros([2, 4]),
        windows=windows,
        num_questions=1,
        answer_length=2,
    )
    assert spans.score[0] == tf.float32.min
    assert (spans.start[0], spans.end[0]) == (0, 0)


def test_texts_of_spans_have_no_white_space_around_them():
    rng = random.Random(4)
    cases = []
    for _ in range(200):
        text = "".join(rng.choices([*CHARACTERS, *SPACES * 2], k=12))
        start = rng.randrange(12)
        cases.append((text, start, rng.randrange(start, 13)))
    cases.append(("".join(SPACES) + "a", 0, len(SPACES)))
    texts, starts, ends = span_texts(*map(tf.constant, zip(*cases, strict=True)))
    for (text, start, end), found, *places in zip(
        cases, texts.numpy(), starts.numpy(), ends.numpy(), strict=True
    ):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        assert found.decode() == text[start:end]
        assert places == ([start, end] if start < end else [0, 0])
