"""A stream: `prefill`, then `decode` again and again, the state kept in the process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from keras_gpt.export.server import rest_json
from keras_gpt.export.server.errors import RequestError, invalid
from keras_gpt.export.server.loaded_model import LoadedModel
from keras_gpt.export.server.metrics import Call
from keras_gpt.export.server.service import Service
from keras_gpt.export.server.signature import Arrays, Signature

STATE = "state_"  # begins the names of all that goes back into `decode`
TOKENS_PER_EVENT = 4
MAX_TOKENS_PER_EVENT = 2**31 - 1


async def open_stream(
    service: Service,
    body: dict[str, Any],
    *,
    call: Call,
    stack: contextlib.AsyncExitStack,
    model_name: str,
    version: int | None,
) -> AsyncIterator[dict[str, Any]]:
    """Begins a generation, and returns its events.

    Args:
        service: `Service`.
        body: with `inputs`, those of `prefill` for one text, and `tokens_per_event`.
        call: as it is counted; its signature is set here.
        stack: keeps the version in memory until it is closed.
        model_name: string.
        version: int; None is the one that is served.

    Returns:
        events: `text`, `token_ids`, `token_log_probs`, and `finish_reason`, which is ""
        in all but the last.

    Raises:
        RequestError: if the request is wrong or the model has no streams.
    """
    rest_json.check_fields(body, {"inputs", "tokens_per_event"})
    count = body.get("tokens_per_event", TOKENS_PER_EVENT)
    is_count = isinstance(count, int) and not isinstance(count, bool)
    if not is_count or not 1 <= count <= MAX_TOKENS_PER_EVENT:
        raise invalid(
            f"tokens_per_event must be a positive integer of 32 bits, got {count!r}."
        )
    model = stack.enter_context(service.versions.acquire(model_name, version))
    prefill, decode = _signatures(model)
    call.signature = prefill.name
    inputs = rest_json.row_of(body.get("inputs"), prefill)
    stack.enter_context(service.batcher.stream())
    state = await service.batcher.run(model, prefill, inputs)
    return _events(service, model, decode, state, count)


def _signatures(model: LoadedModel) -> tuple[Signature, Signature]:
    try:
        return model.signature("prefill"), model.signature("decode")
    except RequestError as error:
        raise invalid(
            "the model must have the signatures prefill and decode to stream, it has "
            f"{', '.join(sorted(model.signatures))}."
        ) from error


async def _events(
    service: Service,
    model: LoadedModel,
    decode: Signature,
    outputs: Arrays,
    count: int,
) -> AsyncIterator[dict[str, Any]]:
    most = {"max_tokens": np.array([count], np.int32)}
    while True:
        state = {name: x for name, x in outputs.items() if name.startswith(STATE)}
        outputs = await service.batcher.run(
            model, decode, {**state, **most}, is_admitted=True
        )
        event = _event(outputs)
        yield event
        if event["finish_reason"]:
            return


def _event(outputs: Arrays) -> dict[str, Any]:
    count = int(outputs["new_num_tokens"][0])
    return {
        "text": outputs["new_text"][0].decode("utf-8", "replace"),
        "token_ids": outputs["new_token_ids"][0, :count].tolist(),
        "token_log_probs": outputs["new_token_log_probs"][0, :count].tolist(),
        "finish_reason": outputs["finish_reason"][0].decode(),
    }
