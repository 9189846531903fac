"""A language model in a TFLite file, fed token by token or chunk by chunk."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from keras_gpt.export.litert import tflite_file

MASKED = np.float32(-0.7 * np.finfo(np.float32).max)  # as the LiteRT-LM engine has it


class LiteRTNetwork:
    """The signatures `prefill_T` and `decode` of a file.

    A cache is a dict of the file's tables by name, float32.

    Args:
        path: string or path. The file.
        num_threads: int. Defaults to LiteRT's choice.

    Raises:
        ImportError: if LiteRT is not installed.
        FileNotFoundError, ValueError: if there is no such file, or it is not whole or
            no language model.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, num_threads: int | None = None
    ) -> None:
        # Kept, for the runners point into it.
        self._interpreter = tflite_file.open_file(path, num_threads=num_threads)
        self.about = tflite_file.about(self._interpreter)
        if "prefill_lengths" not in self.about:
            raise ValueError(
                f"path must be the file of a language model, got one of "
                f"{self.about['task']} in {path}."
            )
        self.context: int = self.about["context_length"]
        self._prefill = {
            length: self._interpreter.get_signature_runner(f"prefill_{length}")
            for length in self.about["prefill_lengths"]
        }
        self._decode = self._interpreter.get_signature_runner("decode")

    def empty_cache(self) -> dict[str, np.ndarray]:
        """Returns the cache of no tokens."""
        details = self._decode.get_input_details()
        return {
            name: np.zeros(one["shape"], np.float32)
            for name, one in details.items()
            if name.startswith("kv_cache_")
        }

    def feed(
        self, token_ids: np.ndarray, *, num_cached: int, cache: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Feeds the tokens of a text that its cache does not hold yet.

        Args:
            token_ids: int32 (N,). The whole text, at most `context` tokens.
            num_cached: int, below N. Tokens that the cache holds.
            cache: of them.

        Returns:
            float32 (V,), the logits after the last token, and the cache of all tokens.
        """
        last = len(token_ids) - 1
        while num_cached < last:
            length = self._chunk(last - num_cached, num_cached)
            end = min(num_cached + length, last)
            part = token_ids[num_cached:end]
            if length == 1:
                _, cache = self._step(part, num_cached, cache)
            else:
                signature = self._prefill[length]
                cache = self._run(signature, part, length, num_cached, cache)
            num_cached = end
        return self._step(token_ids[last:], last, cache)

    def _chunk(self, count: int, first: int) -> int:
        """Returns the longest chunk that `count` tokens fill, or the shortest one."""
        fitting = [length for length in self._prefill if length <= count]
        length = max(fitting, default=min(self._prefill))
        # Slots beyond the last would push the chunk back.
        return length if first + length <= self.context else 1

    def _step(
        self, token_ids: np.ndarray, place: int, cache: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Feeds one token; returns the logits after it, and the cache."""
        outputs = self._run(self._decode, token_ids, 1, place, cache)
        return outputs.pop("logits")[0, 0], outputs

    def _run(
        self,
        signature: Any,
        token_ids: np.ndarray,
        length: int,
        first: int,
        cache: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Runs a signature on tokens from slot `first` on, padded to a length."""
        tokens = np.zeros([1, length], np.int32)
        tokens[0, : len(token_ids)] = token_ids
        places = np.zeros([length], np.int32)
        places[: len(token_ids)] = np.arange(first, first + len(token_ids))
        is_seen = np.arange(self.context) <= np.arange(first, first + length)[:, None]
        mask = np.where(is_seen, np.float32(0.0), MASKED)[None, None]
        return signature(tokens=tokens, input_pos=places, mask=mask, **cache)
