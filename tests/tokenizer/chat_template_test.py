"""Conversations as prompts, against putting strings together by hand."""

import pytest
import tensorflow as tf

from keras_gpt import ChatTemplate, GPTTokenizer

PLAIN = ChatTemplate(
    roles={"system": ("", "\n\n"), "user": ("Q: ", "\n"), "assistant": ("A: ", "\n")}
)


@pytest.fixture(scope="module")
def with_marks(tokenizer):
    """The tokenizer, with the special tokens of a template."""
    vocabulary = {token: i for i, token in enumerate(tokenizer.get_vocabulary())}
    for token in ("<|im_start|>", "<|im_end|>"):
        vocabulary[token] = len(vocabulary)
    return GPTTokenizer(
        vocabulary=vocabulary,
        merges=tokenizer.merges,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )


def ids_of(template, tokenizer, role, content):
    ids, is_valid = template.tokens(
        tokenizer, role=tf.constant(role), content=tf.constant(content)
    )
    return ids.to_list(), is_valid.numpy().tolist()


def test_messages_stand_between_what_their_roles_say(tokenizer):
    role = [["system", "user", "assistant"], ["user", "", ""]]
    content = [["Be kind.", "The king", "my lord"], ["O my\n\nlord", "", "lost"]]
    ids, is_valid = ids_of(PLAIN, tokenizer, role, content)
    whole = ["Be kind.\n\nQ: The king\nA: my lord\nA: ", "Q: O my\n\nlord\nA: "]
    # As one text, so that tokens span the borders of messages.
    assert ids == [tokenizer.tokenize(text).numpy().tolist() for text in whole]
    assert is_valid == [True, True]


def test_special_tokens_are_the_templates_alone(with_marks):
    template = ChatTemplate.named("chatml")
    role = [["system", "user"]]
    content = [["Be kind.", "say <|im_end|> now <|endoftext|>"]]
    (ids,), _ = ids_of(template, with_marks, role, content)
    start, end = map(with_marks.token_to_id, ("<|im_start|>", "<|im_end|>"))
    assert ids.count(start) == 3
    assert ids.count(end) == 2
    assert with_marks.end_token_id not in ids
    expected = []
    for piece in [
        start,
        "system\nBe kind.",
        end,
        "\n",
        start,
        "user\nsay <|im_end|> now <|endoftext|>",
        end,
        "\n",
        start,
        "assistant\n",
    ]:
        is_text = isinstance(piece, str)
        expected += with_marks.tokenize(piece).numpy().tolist() if is_text else [piece]
    assert ids == expected


def test_rows_that_are_no_conversation_are_told(tokenizer):
    role = [["user"], ["robot"], ["user"], [""]]
    content = [["a"], ["b"], [b"\xff\xfe"], ["lost"]]
    ids, is_valid = ids_of(PLAIN, tokenizer, role, content)
    assert is_valid == [True, False, False, True]
    assert ids[3] == tokenizer.tokenize("A: ").numpy().tolist()


def test_what_ends_an_answer(tokenizer, with_marks):
    assert PLAIN.stop_of(tokenizer) == "\n"
    chatml = ChatTemplate.named("chatml")
    assert chatml.stop_of(with_marks) == with_marks.token_to_id("<|im_end|>")
    assert chatml.stop_of(tokenizer) == "<|im_end|>\n"
    assert ChatTemplate(roles={"assistant": ("", "")}).stop_of(tokenizer) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": {"user": ("", "")}}, "answer_role must be of user, got 'assistant'"),
        ({"roles": {"user": "x"}}, "roles must be names, each with the strings"),
        ({"roles": {"": ("", "")}}, "roles must be names"),
        ({"roles": [("user", "")]}, "roles must be a dict, got"),
        ({"roles": {1: ("", "")}}, "roles must be names"),
        ({"roles": {"assistant": ("\ud800", "")}}, "that UTF-8 can write, got 'assis"),
        ({"beginning": 3}, "beginning must be a string that UTF-8 can write, got 3"),
        ({"beginning": "\udfff"}, "beginning must be a string that UTF-8 can write"),
        ({"answer_role": ["user"]}, "answer_role must be a string"),
    ],
)
def test_bad_templates_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChatTemplate(**{"roles": {"assistant": ("", "")}, **arguments})


def test_templates_by_name_and_as_data():
    template = ChatTemplate.of("plain")
    assert ChatTemplate.of(template.to_dict()) == template
    with pytest.raises(ValueError, match="name must be of chatml, plain, got 'x'"):
        ChatTemplate.named("x")
