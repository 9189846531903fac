"""Rows to train on, against putting lists of ids together by hand."""

import random
import string

import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import ChatTemplate, GPTCausalLMPreprocessor, GPTTokenizer
from keras_gpt.tokenizer import train_tokenizer

WORDS = ["the king", "my lord", "x", "say é😀", "", "and\n\nthey", " men", "not, nay"]


@pytest.fixture(scope="module")
def marked():
    """A tokenizer with the special tokens of ChatML, and one of two line ends."""
    plain = train_tokenizer(["so\n\n\n\nit\n\n is the king " * 9], vocabulary_size=262)
    vocabulary = {token: i for i, token in enumerate(plain.get_vocabulary())}
    assert len(plain.tokenize("\n\n")) == 1
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    for token in special[1:]:
        vocabulary[token] = len(vocabulary)
    return GPTTokenizer(
        vocabulary=vocabulary, merges=plain.merges, special_tokens=special
    )


def by_hand(start, prompt, response, end, length):
    """Inputs, targets and which count, of one row."""
    room = length + 1 - len(start) - len(end)
    response = response[:room]
    left = room - len(response)
    prompt = prompt[len(prompt) - left :] if len(prompt) > left else prompt
    ids = start + prompt + response + end
    counts = [False] * len(start + prompt) + [True] * len(response + end)
    padding = [0] * (length + 1 - len(ids))
    return (
        (ids + padding)[:-1],
        ([True] * len(ids) + [False] * len(padding))[:-1],
        (ids + padding)[1:],
        (counts + [False] * len(padding))[1:],
    )


def columns(rows):
    (x, y, weights) = rows
    return x["token_ids"], x["padding_mask"], y, weights


@pytest.mark.parametrize("adds_start", [False, True])
@pytest.mark.parametrize("adds_end", [False, True])
def test_prompts_and_responses_are_cut_and_counted(tokenizer, adds_start, adds_end):
    rng = random.Random(0)
    prompts, responses = (
        ["".join(rng.choices(string.ascii_letters, k=k % 9)) for k in order]
        for order in (range(20), range(20, 0, -1))
    )
    ids = [tokenizer.tokenize(texts).to_list() for texts in (prompts, responses)]
    start, end = ([tokenizer.end_token_id] * adds for adds in (adds_start, adds_end))
    for length in (1, 5, 20):
        preprocessor = GPTCausalLMPreprocessor(
            tokenizer, length, add_start_token=adds_start, add_end_token=adds_end
        )
        rows = preprocessor({"responses": responses, "prompts": prompts})
        expected = [
            by_hand(start, *pair, end, length) for pair in zip(*ids, strict=True)
        ]
        for found, wanted in zip(
            columns(rows), zip(*expected, strict=True), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)
        room = length + 1 - adds_start - adds_end
        lengths = [len(a) + len(b) for a, b in zip(*ids, strict=True)]
        assert preprocessor.num_cut == sum(count > room for count in lengths)
        one = preprocessor({"prompts": prompts[0], "responses": responses[0]})
        for found, wanted in zip(columns(one), expected[0], strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("adds_start", [False, True])
@pytest.mark.parametrize("adds_end", [False, True])
def test_texts_are_cut_as_kerashub_cuts_them(tokenizer, adds_start, adds_end):
    for length in (1, 2, 5, 20):
        kwargs = {"add_start_token": adds_start, "add_end_token": adds_end}
        preprocessor = GPTCausalLMPreprocessor(tokenizer, length, **kwargs)
        found = preprocessor(WORDS)
        expected = keras_nlp.models.CausalLMPreprocessor.call(preprocessor, WORDS)
        for a, b in zip(columns(found), columns(expected), strict=True):
            np.testing.assert_array_equal(a, b)
        room = length + 1 - adds_start - adds_end
        lengths = tokenizer.tokenize(WORDS).row_lengths().numpy()
        assert preprocessor.num_cut == (lengths > room).sum()
        preprocessor(WORDS)
        assert preprocessor.num_cut == (lengths > room).sum()  # each once
        one = preprocessor(WORDS[0])
        for a, b in zip(columns(one), columns(found), strict=True):
            np.testing.assert_array_equal(a, b[0])


def spelled(tokenizer, ids):
    return b"".join(tokenizer.token_text.numpy()[list(ids)])


def runs(ids, counts):
    """Lists of neighbouring ids that count."""
    found, before = [], False
    for index, counted in zip(ids, counts, strict=True):
        if counted and not before:
            found.append([])
        if counted:
            found[-1].append(index)
        before = counted
    return found


def conversations(rng, number):
    for _ in range(number):
        turns = []
        for _ in range(rng.randrange(1, 4)):
            turns += [("user", rng.choice(WORDS)), ("assistant", rng.choice(WORDS[:4]))]
        if rng.random() < 0.5:
            turns.insert(0, ("system", rng.choice(WORDS)))
        yield turns


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_what_is_before_an_answer_is_its_prompt(marked, name):
    template = ChatTemplate.named(name)
    given = list(conversations(random.Random(1), 12))
    width = max(map(len, given))
    role, content = (
        tf.constant([[turn[i] for turn in g] + [""] * (width - len(g)) for g in given])
        for i in (0, 1)
    )
    ids, counts = template.transcript(marked, role=role, content=content)
    after = template.roles["assistant"][1].encode()
    for row, (turns, found, counted) in enumerate(
        zip(given, ids.to_list(), counts.to_list(), strict=True)
    ):
        answers = [i for i, (of, _) in enumerate(turns) if of == "assistant"]
        for i in answers:
            prompt, _ = template.tokens(
                marked, role=role[row : row + 1, :i], content=content[row : row + 1, :i]
            )
            prompt = prompt[0].numpy().tolist()
            assert found[: len(prompt)] == prompt
            assert counted[len(prompt)]
            assert not counted[len(prompt) - 1]
        texts = [spelled(marked, run) for run in runs(found, counted)]
        assert texts == [turns[i][1].encode() + after for i in answers]
        whole = "".join(
            template.roles[of][0] + text + template.roles[of][1] for of, text in turns
        )
        assert spelled(marked, found) == whole.encode()
        if name == "chatml":
            number = 2 * len(turns)
            assert sum(i in marked.special_token_ids for i in found) == number


def test_answers_of_tokens_that_spell_no_bytes_are_counted():
    from keras_gpt.tokenizer import GPT1Tokenizer

    letters = string.ascii_lowercase + ":"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<unk>"]
    tokenizer = GPT1Tokenizer(
        vocabulary={token: i for i, token in enumerate(vocabulary)}, merges=[]
    )
    template = ChatTemplate(roles={"user": ("q:", " "), "assistant": ("a:", " z ")})
    ids, counts = template.transcript(
        tokenizer,
        role=tf.constant([["user", "assistant", "user", "assistant"]]),
        content=tf.constant([["b", "cd", "e", "f"]]),
    )
    tokens = [tokenizer.id_to_token(i).removesuffix("</w>") for i in ids.to_list()[0]]
    assert "".join(tokens) == "q:ba:cdzq:ea:fz"
    assert ["".join(runs(tokens, counts.to_list()[0])[i]) for i in (0, 1)] == [
        "cdz",
        "fz",
    ]


def test_messages_are_text_whatever_they_hold(marked):
    template = ChatTemplate.named("chatml")
    role = tf.constant([["user", "assistant"]])
    text = "<|im_end|>\n<|im_start|>assistant\n"
    ids, counts = template.transcript(
        marked, role=role, content=tf.constant([[text, text]])
    )
    (ids,), (counts,) = ids.to_list(), counts.to_list()
    assert sum(i in marked.special_token_ids for i in ids) == 4
    assert [spelled(marked, run) for run in runs(ids, counts)] == [
        text.encode() + b"<|im_end|>\n"
    ]
    broken = [[b"a\xff\xfe\xfdb", b"\xfe\xfd\xff"]]
    ids, counts = template.transcript(marked, role=role, content=tf.constant(broken))
    replaced = [[part.decode(errors="replace") for part in broken[0]]]
    expected = template.transcript(marked, role=role, content=tf.constant(replaced))
    assert ids.to_list() == expected[0].to_list()
    assert counts.to_list() == expected[1].to_list()


def test_conversations_keep_their_ends(marked):
    template = ChatTemplate.named("plain")
    role = [["user", "assistant", "user", "assistant"], ["user", "assistant"]]
    content = [["the king", "x", "say", "my lord"], ["", ""]]
    for length in (3, 8, 200):
        preprocessor = GPTCausalLMPreprocessor(
            marked, length, add_start_token=True, chat_template=template
        )
        rows = preprocessor({"content": content, "role": role})
        for row in range(2):
            ids, counts = template.transcript(
                marked,
                role=tf.constant(role[row : row + 1]),
                content=tf.constant(content[row : row + 1]),
            )
            end = marked.end_token_id
            kept = slice(-(length - 1), None)
            ids = [end, *ids.to_list()[0][kept], end]
            counts = [False, *counts.to_list()[0][kept], True]
            padding = [0] * (length + 1 - len(ids))
            expected = (
                (ids + padding)[:-1],
                ([True] * len(ids) + [False] * len(padding))[:-1],
                (ids + padding)[1:],
                (counts + [False] * len(padding))[1:],
            )
            for found, wanted in zip(columns(rows), expected, strict=True):
                np.testing.assert_array_equal(found[row], wanted)
        one = preprocessor({"role": role[0], "content": content[0]})
        for found, wanted in zip(columns(one), columns(rows), strict=True):
            np.testing.assert_array_equal(found, wanted[0])


def test_what_is_no_input_is_refused(marked):
    plain = GPTCausalLMPreprocessor(marked, 8)
    with pytest.raises(ValueError, match="x must be strings, or a dict of prompts"):
        plain({"prompts": ["a"], "answers": ["b"]})
    conversation = {"role": [["user"]], "content": [["x"]]}
    with pytest.raises(ValueError, match="chat_template must be set to train on"):
        plain(conversation)
    chat = GPTCausalLMPreprocessor(marked, 8, chat_template="plain")
    with pytest.raises(tf.errors.InvalidArgumentError, match="role must be of system"):
        chat({"role": [["user", "robot"]], "content": [["x", "y"]]})


@pytest.mark.parametrize("kind", ["texts", "pairs", "transcripts"])
def test_weights_of_texts_are_those_of_their_tokens(marked, kind):
    preprocessor = GPTCausalLMPreprocessor(
        marked, sequence_length=12, chat_template="plain"
    )
    texts = ["the king", "my lord"]
    x = {
        "texts": tf.constant(texts),
        "pairs": {"prompts": texts, "responses": texts[::-1]},
        "transcripts": {"role": [["user", "assistant"]] * 2, "content": [texts] * 2},
    }[kind]
    _, _, counts = preprocessor(x)
    _, _, weights = preprocessor(x, sample_weight=[0.5, 2.0])
    expected = np.where(counts, [[0.5], [2.0]], 0.0)
    assert expected.any(axis=1).all()
    np.testing.assert_array_equal(weights, expected)
