"""What a call of a served model can end with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNAVAILABLE = "UNAVAILABLE"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
NOT_FOUND = "NOT_FOUND"
LONGEST_MESSAGE = 500  # characters; servers quote whole requests

# What each reason means of a row.
_RULES = {
    "prompt_too_long": "must be shorter than the model's context",
    "invalid_input": "must be UTF-8, and its knobs in range",
    "invalid_logits": "must give finite logits",
}
_RULE_OF_IDS = "must be of ids of the model's vocabulary"


class ServingError(RuntimeError):
    """A server that refused a call, failed, or could not be reached.

    Attributes:
        code: string. gRPC's name of the status, also over REST, such as
            `"INVALID_ARGUMENT"` or `"UNAVAILABLE"`.
        message: string. What the server said.
        retry_after: float. Seconds that it asks to wait; 0 where it does not.
    """

    def __init__(
        self, code: str, message: str, *, where: str, retry_after: float = 0.0
    ) -> None:
        self.code = code
        self.message = message
        self.retry_after = retry_after
        line = " ".join(message.split())[:LONGEST_MESSAGE] or "no message"
        super().__init__(f"{where}: {code}: {line}")


class RowError(ValueError):
    """Rows of a call that the model refused; the others are not lost.

    Attributes:
        reasons: list of strings (B). Of each row, `"prompt_too_long"`,
            `"invalid_input"` or another reason; `""` of a good one.
        results: list (B). Results of all rows, as the call would return them for a
            list, with their details.
    """

    def __init__(
        self, argument: str, inputs: Sequence[Any], reasons: list[str], results: Any
    ) -> None:
        self.reasons = reasons
        self.results = results
        bad = [index for index, reason in enumerate(reasons) if reason]
        first = bad[0]
        place = f"{argument}[{first}]" if len(reasons) > 1 else argument
        rule = _RULES.get(reasons[first], "must be what the model takes")
        rule = _RULE_OF_IDS if argument == "token_ids" else rule
        more = f"; {len(bad)} of {len(reasons)} rows are bad" if len(bad) > 1 else ""
        got = inputs[first]
        got = got.decode("utf-8", "backslashreplace") if isinstance(got, bytes) else got
        super().__init__(f"{place} {rule} ({reasons[first]}), got {got!r:.80}{more}.")
