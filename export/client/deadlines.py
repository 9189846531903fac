"""The time that a call may take, and what is tried again within it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from keras_gpt.export.client.errors import UNAVAILABLE, ServingError

FIRST_DELAY = 0.2  # seconds, doubled with each further try
LONGEST_DELAY = 5.0  # seconds
LONGEST_TIMEOUT = 2e6  # seconds; sockets count milliseconds in 32 bits

Result = TypeVar("Result")


class Deadline:
    """A moment by which a call must have ended.

    Args:
        seconds: float. From now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Returns the seconds left.

        Raises:
            TimeoutError: if there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0.0:
            raise TimeoutError
        return left


def check_timeout(timeout: Any) -> float:
    """Returns a timeout in seconds; one of weeks stands for any longer one.

    Raises:
        ValueError: if it is no number above 0.
    """
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0.0 < timeout < math.inf:
        raise ValueError(f"timeout must be finite and above 0 s, got {timeout!r}.")
    return float(min(timeout, LONGEST_TIMEOUT))


def with_retries(
    attempt: Callable[[float], Result],
    *,
    deadline: Deadline,
    retries: int,
    where: str,
) -> Result:
    """Calls a server, and again while it cannot be reached.

    The delays grow and are random in part, so that clients of a server that comes
    back do not all call it at once.

    Args:
        attempt: function of the seconds left. Raises `ServingError` or `TimeoutError`.
        deadline: `Deadline`.
        retries: int. Further tries after the first.
        where: string. Which model and server, for messages.

    Raises:
        ServingError: that of the last try, once no other may follow or would end too
            late.
        TimeoutError: if the server did not answer in time.
    """
    count = 0
    try:
        while True:
            try:
                return attempt(deadline.remaining())
            except ServingError as error:
                delay = min(FIRST_DELAY * 2.0 ** min(count, 30), LONGEST_DELAY)
                delay = max(delay * random.uniform(0.5, 1.0), error.retry_after)
                is_last = error.code != UNAVAILABLE or count >= retries
                if is_last or delay >= deadline.remaining():
                    raise
            time.sleep(delay)
            count += 1
    except TimeoutError as error:
        raise TimeoutError(
            f"{where} did not answer within {deadline.seconds:g} s."
        ) from error
