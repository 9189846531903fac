"""A chat template as the LiteRT-LM engine takes it, and what ends an answer.

The engine writes a conversation out twice, without the new message and with it, and
feeds what the second text has more than the first. What stands after an answer is in
both texts, so that none of it would be fed but the stop, which the engine has read as
tokens of the answer. What comes after the stop therefore stands before the next
message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from keras_gpt.tokenizer import ChatTemplate

MOST_SPELLINGS = 64  # of a string that ends an answer
# What the engine calls a message that it has written itself.
ANSWER_ROLES = ("assistant", "model")


class AnswerEnd(NamedTuple):
    """What stands after an answer.

    Attributes:
        stop: string. Its beginning, up to where the model stops.
        rest: string. What is left of it.
        sequences: lists of ids that the stop may come as.
    """

    stop: str
    rest: str
    sequences: list[list[int]]


def answer_end(template: ChatTemplate, tokenizer: Any) -> AnswerEnd:
    """Returns what stands after an answer of a template.

    Args:
        template: `ChatTemplate`.
        tokenizer: `GPTTokenizer`.
    """
    after = template.roles[template.answer_role][1]
    stop = template.stop_of(tokenizer)
    if isinstance(stop, int):
        name = tokenizer.id_to_token(stop)
        stop_text, found, rest = after.partition(name)
        return AnswerEnd(stop_text + found, rest, [[stop]])
    if stop is None:
        return AnswerEnd("", after, [])
    return AnswerEnd(stop, after[len(stop) :], spellings(tokenizer, stop.encode()))


def spellings(tokenizer: Any, text: bytes) -> list[list[int]]:
    """Returns sequences of ids that spell a text, those of few tokens first.

    The last token may go on after the text. At most `MOST_SPELLINGS`.
    """
    tokens = {
        index: token
        for index, token in enumerate(tokenizer.token_text.numpy().tolist())
        if token and index not in tokenizer.special_token_ids
    }
    found: list[list[int]] = []
    begun: list[tuple[list[int], bytes]] = [([], text)]
    while begun and len(found) < MOST_SPELLINGS:
        longer = []
        for ids, left in begun:
            for index, token in tokens.items():
                if token.startswith(left):
                    found.append([*ids, index])
                elif left.startswith(token):
                    longer.append(([*ids, index], left[len(token) :]))
        begun = longer[:MOST_SPELLINGS]
    return found[:MOST_SPELLINGS]


def jinja_template(template: ChatTemplate, tokenizer: Any) -> str:
    """Returns a chat template in Jinja2, of the engine's variables.

    Args:
        template: `ChatTemplate`.
        tokenizer: `GPTTokenizer`.

    Raises:
        ValueError: if a role has the engine's name for the one that answers, but
            another answers.
    """
    answer_role, roles = template.answer_role, template.roles
    for role in ANSWER_ROLES:
        if role in roles and role != answer_role:
            raise ValueError(
                f"answer_role of the chat template must be {role} where there is such "
                f"a role, as LiteRT-LM answers by it, got {answer_role}."
            )
    before = roles[answer_role][0]
    end = answer_end(template, tokenizer)
    answers = [answer_role, *ANSWER_ROLES]
    known = f"role must be of {', '.join(roles)}"
    cases = [(answers, before, end.stop)]
    cases += [([role], *pair) for role, pair in roles.items() if role != answer_role]
    parts = [_text(template.beginning), "{%- for message in messages -%}"]
    parts += _if("not loop.first and " + _is_in("loop.previtem", answers), end.rest)
    for index, (names, first, last) in enumerate(cases):
        keyword = "elif" if index else "if"
        parts += [f"{{%- {keyword} {_is_in('message', names)} -%}}"]
        parts += [_text(first), _CONTENT, _text(last)]
    parts += [f"{{%- else -%}}{{{{- raise_exception({json.dumps(known)}) -}}}}"]
    parts += ["{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}"]
    parts += _if("messages and " + _is_in("messages[-1]", answers), end.rest)
    parts += [_text(before), "{%- endif -%}"]
    return "".join(parts)


# The engine gives a text alone, or a list of parts.
_CONTENT = (
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{%- endif -%}"
)


def _text(text: str) -> str:
    """Returns what prints a text as it is."""
    return f"{{{{- {_quoted(text)} -}}}}" if text else ""


def _if(condition: str, text: str) -> Iterable[str]:
    return [f"{{%- if {condition} -%}}", _text(text), "{%- endif -%}"] if text else []


def _is_in(message: str, roles: Iterable[str]) -> str:
    return f"{message}.role in [{', '.join(map(_quoted, dict.fromkeys(roles)))}]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
