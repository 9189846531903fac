"""The signature `chat` answers like `GPTCausalLM.chat`."""

import pytest

from keras_gpt import GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.export.generator_module import build_generator
from keras_gpt.export.served_options import served_options

CONVERSATIONS = [
    [{"role": "user", "content": "The king"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "O my lord"},
        {"role": "assistant", "content": "say nay"},
        {"role": "user", "content": "and they"},
    ],
]


@pytest.fixture(scope="module")
def chat_lm(causal_lm, tokenizer):
    roles = {"system": ("", "\n"), "user": ("Q: ", "\n"), "assistant": ("A:", "e")}
    preprocessor = GPTCausalLMPreprocessor(
        tokenizer, sequence_length=64, chat_template={"roles": roles}
    )
    return GPTCausalLM(causal_lm.backbone, preprocessor)


def columns(conversations):
    """The inputs of conversations, padded as TF Serving does: with the first item."""
    width = max(map(len, conversations))
    fields = {
        field: [
            [message[field] for message in row]
            + [conversations[0][0][field]] * (width - len(row))
            for row in conversations
        ]
        for field in ("role", "content")
    }
    return {**fields, "num_messages": [len(row) for row in conversations]}


def test_answers_are_those_of_python(chat_lm, call, texts_of):
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 2}
    served = served_options(chat_lm, options, stop_token_ids="auto")
    made = build_generator(chat_lm, served).signatures
    answers = texts_of(call("chat", _signatures=made, **columns(CONVERSATIONS)))
    expected = chat_lm.chat(CONVERSATIONS, **options)
    assert answers == expected
    assert all("e" not in answer for answer in expected)  # the template's end
    bad = {"role": [["user"], ["robot"]], "content": [["a"], ["b"]]}
    reasons = call("chat", _signatures=made, num_messages=[1, 1], **bad)[
        "finish_reason"
    ].tolist()
    assert reasons in ([b"length", b"invalid_input"], [b"stop", b"invalid_input"])


def test_numbers_of_messages_that_cannot_be_end_their_rows_alone(chat_lm, call):
    served = served_options(chat_lm, {"max_new_tokens": 3}, stop_token_ids="auto")
    made = build_generator(chat_lm, served).signatures
    given = {"role": [["user", "robot"]] * 5, "content": [["a", "b", "c"]] * 5}
    counts = [1, 0, -1, 3, 2]
    result = call("chat", _signatures=made, num_messages=counts, **given)
    is_bad = [reason == b"invalid_input" for reason in result["finish_reason"]]
    assert is_bad == [False, False, True, True, True]


def test_python_answers_what_the_whole_prompt_gives(chat_lm):
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 2}
    whole = "Be kind.\nQ: O my lord\nA:say nayeQ: and they\nA:"
    expected = chat_lm.generate(
        whole, strip_prompt=True, stop_strings=["e", "l"], **options
    )
    got = chat_lm.chat(CONVERSATIONS[1], stop_strings="l", **options)
    assert got == expected
    both = chat_lm.chat(CONVERSATIONS, stop_strings=[["x"], ["l"]], **options)
    assert both[1] == expected


def test_a_template_that_ends_with_a_token(chat_lm, tokenizer, call):
    template = {"roles": {"user": ("Q: ", "\n"), "assistant": ("A:", "<|endoftext|>")}}
    preprocessor = GPTCausalLMPreprocessor(
        tokenizer, sequence_length=64, chat_template=template
    )
    lm = GPTCausalLM(chat_lm.backbone, preprocessor)
    # Neither the request's stop tokens nor their absence unset the template's.
    served = served_options(lm, {"temperature": 1.0}, stop_token_ids=None)
    made = build_generator(lm, served).signatures
    result = call(
        "chat",
        _signatures=made,
        role=[["user"]] * 8,
        content=[["x"]] * 8,
        num_messages=[1] * 8,
        seed=list(range(8)),
        logit_bias_ids=[[tokenizer.end_token_id]],
        logit_bias_values=[[40.0]],
    )
    assert set(result["finish_reason"]) == {b"stop"}
    assert result["num_tokens"].tolist() == [0] * 8


def test_the_template_is_part_of_a_preset(chat_lm, tmp_path):
    chat_lm.save_to_preset(tmp_path / "preset")
    again = GPTCausalLM.from_preset(str(tmp_path / "preset"))
    assert again.preprocessor.chat_template == chat_lm.preprocessor.chat_template
    options = {"max_new_tokens": 5, "temperature": 0.0}
    assert again.chat(CONVERSATIONS, **options) == chat_lm.chat(
        CONVERSATIONS, **options
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "robot", "content": ""}], "role must be of system, user, assistant"),
        ([{"role": "user"}], "a message must be a dict of role and content"),
        (["hello"], "a message must be a dict"),
        ([{"role": "user", "content": None}], "content must be a string, got None"),
        ([{"role": "user", "content": "\ud800"}], "content must be a text that UTF-8"),
        ([{"role": ["user"], "content": ""}], "role must be of system, user, assis"),
    ],
)
def test_bad_messages_are_named(chat_lm, messages, message):
    with pytest.raises(ValueError, match=message):
        chat_lm.chat(messages)


def test_without_a_template_there_is_no_chat(causal_lm, signatures):
    assert "chat" not in signatures
    with pytest.raises(ValueError, match="chat_template of the preprocessor must be"):
        causal_lm.chat([{"role": "user", "content": "x"}])
