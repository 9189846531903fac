"""What `GPTCausalLM.generate` returns: texts, ids, or all of their details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.models.generation_options import GenerationOptions


class TokenAlternatives(NamedTuple):
    """The likeliest tokens at each place of a text, best first.

    Attributes:
        token_ids: int32 (N, A), a NumPy array.
        log_probs: float32 (N, A), in nats. Under the model's own distribution.
    """

    token_ids: np.ndarray
    log_probs: np.ndarray


class Continuation(NamedTuple):
    """One generated text.

    Attributes:
        text: bytes or None. The new text, exactly; None without a tokenizer.
        token_ids: int32 (N,).
        log_probs: float32 (N,).
        alternatives: `TokenAlternatives`.
        finish_reason: string.
        score: float.
    """

    text: bytes | None
    token_ids: np.ndarray
    log_probs: np.ndarray
    alternatives: TokenAlternatives
    finish_reason: str
    score: float


class Timings(NamedTuple):
    """How long a call took, tokenizing included.

    Attributes:
        total_seconds: float.
        first_token_seconds: float or None. Until each prompt had its first token,
            summed over batches; None of a search.
        tokens_per_second: float. New tokens of all texts over all the time.
    """

    total_seconds: float
    first_token_seconds: float | None
    tokens_per_second: float


class GenerationDetails(NamedTuple):
    """Result of `generate` with its details.

    Of one prompt, each field but the last two is one value; of a list of prompts, a
    list of them; and with `num_return_sequences` above 1, a list of so many in place
    of each.

    Attributes:
        text: as `generate` returns it; None of a model without a tokenizer.
        token_ids: int32 (N,), NumPy arrays. New tokens, without those that stopped
            the text; a stop string cuts the text, not the tokens.
        log_probs: float32 (N,), in nats. Of these tokens, under the model's own
            distribution, before all processors and filters.
        alternatives: `TokenAlternatives`, A of them as `num_alternatives` says.
        finish_reason: string: `"stop"`, `"length"`, or `"time"`.
        score: float. Mean of `log_probs`; of a beam, its score, which the length
            penalty is part of.
        acceptance_rate: float or None. Share of the drafted tokens that were right;
            None where none was drafted.
        timings: `Timings`.
    """

    text: Any
    token_ids: Any
    log_probs: Any
    alternatives: Any
    finish_reason: Any
    score: Any
    acceptance_rate: float | None
    timings: Timings


def nest(results: list[list[Any]], *, is_scalar: bool, is_single: bool) -> Any:
    """Gives results of each prompt the form that `generate` returns.

    Args:
        results: of each prompt, a list.
        is_scalar: bool. Whether there was one prompt and no list.
        is_single: bool. Whether there is one result of each prompt and no list.
    """
    rows = [row[0] for row in results] if is_single else results
    return rows[0] if is_scalar else rows


def continuations(
    tokens: Any,
    texts: list[bytes] | None,
    *,
    reasons: list[str],
    scores: np.ndarray | None = None,
) -> list[Continuation]:
    """Takes new tokens apart by row.

    Args:
        tokens: `GeneratedTokens`, or `FoundTokens` of one prompt, as NumPy arrays.
        texts: the new text of each row; None without a tokenizer.
        reasons: the finish reason of each row.
        scores: float32 (B,). Defaults to the means of the log-probabilities.
    """
    none = np.zeros([*tokens.token_ids.shape, 0])
    ids, log_probs = getattr(tokens, "alternatives", (none.astype(np.int32), none))
    rows = []
    for row, count in enumerate(tokens.num_tokens):
        own = tokens.log_probs[row, :count]
        mean = float(np.mean(own)) if count else 0.0
        rows.append(
            Continuation(
                text=None if texts is None else texts[row],
                token_ids=tokens.token_ids[row, :count],
                log_probs=own,
                alternatives=TokenAlternatives(
                    ids[row, :count], log_probs[row, :count]
                ),
                finish_reason=reasons[row],
                score=mean if scores is None else float(scores[row]),
            )
        )
    return rows


def details_of(
    results: Sequence[Any],
    *,
    text: Any,
    total_seconds: float,
    is_scalar: bool,
    is_single: bool,
) -> GenerationDetails:
    """Returns the details of a call.

    Args:
        results: `BatchResult` of each batch.
        text: as `generate` returns it, or None.
        total_seconds: float.
        is_scalar: bool. As in `nest`.
        is_single: bool. As in `nest`.
    """
    rows = [row for result in results for row in result.rows]

    def each(field: str) -> Any:
        values = [[getattr(new, field) for new in row] for row in rows]
        return nest(values, is_scalar=is_scalar, is_single=is_single)

    drafted = sum(result.num_drafted for result in results)
    accepted = sum(result.num_accepted for result in results)
    firsts = [result.first_token_seconds for result in results]
    num_tokens = sum(len(new.token_ids) for row in rows for new in row)
    return GenerationDetails(
        text=text,
        token_ids=each("token_ids"),
        log_probs=each("log_probs"),
        alternatives=each("alternatives"),
        finish_reason=each("finish_reason"),
        score=each("score"),
        acceptance_rate=accepted / drafted if drafted else None,
        timings=Timings(
            total_seconds=total_seconds,
            first_token_seconds=None if None in firsts else sum(firsts),
            tokens_per_second=num_tokens / total_seconds,
        ),
    )


def texts_of(
    prompts: list[bytes],
    rows: list[list[Continuation]],
    *,
    is_scalar: bool,
    options: GenerationOptions,
) -> Any:
    """Returns prompts and continuations as strings."""
    texts = [
        [(prompt + (new.text or b"")).decode("utf-8", "replace") for new in row]
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    is_single = options.num_return_sequences == 1
    return nest(texts, is_scalar=is_scalar, is_single=is_single)


def id_rows(
    inputs: dict[str, Any], rows: list[list[Continuation]], *, strip_prompt: bool
) -> dict[str, np.ndarray]:
    """Returns prompts and continuations as padded ids."""
    ids = np.asarray(inputs["token_ids"], np.int32)
    lengths = np.asarray(inputs["padding_mask"], bool).sum(axis=-1)
    whole = [
        np.concatenate([[] if strip_prompt else prompt[:length], new.token_ids])
        for prompt, length, row in zip(ids, lengths, rows, strict=True)
        for new in row
    ]
    width = max([ids.shape[1], *(len(row) for row in whole)])
    outputs = {
        "token_ids": np.zeros([len(whole), width], np.int32),
        "padding_mask": np.zeros([len(whole), width], bool),
    }
    for index, row in enumerate(whole):
        outputs["token_ids"][index, : len(row)] = row
        outputs["padding_mask"][index, : len(row)] = True
    return outputs
