"""A stream: `prefill`, then `decode` again and again, with the state in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_gpt.export.client import results
from keras_gpt.export.client.deadlines import Deadline
from keras_gpt.export.client.errors import ServingError
from keras_gpt.export.client.inputs import full_inputs
from keras_gpt.export.client.served_model import ServedModel
from keras_gpt.export.client.transport import Arrays
from keras_gpt.models.option_values import check_count

STATE = "state_"  # begins the names of all that goes back to the server


def check_tokens_per_call(tokens_per_call: Any) -> None:
    """Raises `ValueError` unless it is a positive integer of 32 bits."""
    check_count("tokens_per_call", tokens_per_call, least=1)
    limit = np.iinfo(np.int32).max
    if tokens_per_call > limit:
        raise ValueError(
            f"tokens_per_call must be at most {limit}, got {tokens_per_call}."
        )


def stream_text(
    model: ServedModel,
    prompt: np.ndarray,
    knobs: dict[str, Any],
    *,
    tokens_per_call: int,
    seconds: float,
) -> Iterator[str]:
    """Yields the continuation of a prompt, piece by piece.

    Args:
        model: `ServedModel`.
        prompt: array of bytes (1,).
        knobs: values by name.
        tokens_per_call: int.
        seconds: float. That each call may take.
    """
    deadline = Deadline(seconds)
    # A state belongs to the version that made it: one that comes in the middle of the
    # stream must not take it over.
    prefill, decode = model.signatures(
        "prefill", "decode", deadline=deadline, anew=True
    )
    inputs = full_inputs(prefill.definition, {"text": prompt}, knobs)
    outputs = model.predict(prefill, inputs, deadline)
    count = {"max_tokens": np.array([tokens_per_call], np.int32)}
    while True:
        state = {k: value for k, value in outputs.items() if k.startswith(STATE)}
        outputs = model.predict(decode, {**state, **count}, Deadline(seconds))
        if piece := outputs["new_text"][0].decode():
            yield piece
        if reason := outputs["finish_reason"][0].decode():
            reasons = results.bad_ends([reason])
            results.check_rows("prompt", prompt.tolist(), reasons, [])
            return
        if not outputs["new_num_tokens"][0] and _is_same(state, outputs):
            # Asking on would have no end.
            raise ServingError("INTERNAL", "decode does not go on", where=model.where)


def _is_same(state: Arrays, outputs: Arrays) -> bool:
    return all(
        value.tolist() == outputs[name].tolist()
        if value.dtype.kind == "O"
        else value.tobytes() == outputs[name].tobytes()
        for name, value in state.items()
    )
