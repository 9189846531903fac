"""A language model in a TFLite file, fed token by token or chunk by chunk.

The cache stays in LiteRT's memory: its tables are inputs and outputs of a call at once,
so that new tokens are written in place, and NumPy sees them only when they grow. LiteRT
computes on all slots that there are, seen or not, so that they grow with the text. With
124M weights of `int8` a step takes 3.9 ms with 128 slots and 8.0 ms with 1,024; by two
sets of tables that take turns, 4.8 and 11.5 ms.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from keras_gpt.config import GPTConfig
from keras_gpt.export.litert import tflite_file

MASKED = np.float32(-0.7 * np.finfo(np.float32).max)  # as the LiteRT-LM engine has it
SLOTS_AT_ONCE = 128  # by which a cache grows
TABLES = "kv_cache_"  # how their names begin
# The dimension of an input that is the number of slots, by its name without a number.
_SLOTS = {"mask": 3, "kv_cache_k_": 2, "kv_cache_v_": 2}


class LiteRTCache:
    """Keys and values of a text's tokens.

    Args:
        tables: LiteRT's buffers by name.
        num_slots: int. Tokens for which there is room.
    """

    def __init__(self, tables: dict[str, Any], num_slots: int) -> None:
        self.tables = tables
        self.num_slots = num_slots


class LiteRTNetwork:
    """The signatures `prefill_T` and `decode` of a file.

    Args:
        path: string or path. The file.
        num_threads: int. Defaults to the cores that this process may use.

    Attributes:
        about: dict. What the file says of itself.
        context: int. Most tokens of a text.
        config: `GPTConfig` of the model, with this context.
        lock: to be held while it feeds, as it does one thing at a time.

    Raises:
        ImportError: if LiteRT is not installed.
        FileNotFoundError, ValueError: if there is no such file, or it is not whole or
            no language model.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, num_threads: int | None = None
    ) -> None:
        self.about = tflite_file.about(path)
        if "prefill_lengths" not in self.about:
            raise ValueError(
                f"path must be the file of a language model, got one of "
                f"{self.about['task']} in {path}."
            )
        self.lock = threading.Lock()
        self.context: int = self.about["context_length"]
        self.config = GPTConfig.from_dict(
            {**self.about["config"], "max_sequence_length": self.context}
        )
        model = tflite_file.compile_file(path, num_threads=num_threads)
        self._prefill = {
            length: _Signature(model, f"prefill_{length}")
            for length in self.about["prefill_lengths"]
        }
        self._decode = _Signature(model, "decode")
        self._table_shapes = {
            name: tuple(shape)
            for name, shape in self._decode.shapes.items()
            if name.startswith(TABLES)
        }

    def empty_cache(self) -> LiteRTCache:
        """Returns the cache of no tokens."""
        return self._cache(min(SLOTS_AT_ONCE, self.context), {})

    def copy_of(self, cache: LiteRTCache) -> LiteRTCache:
        """Returns a cache that holds the same."""
        return self._cache(cache.num_slots, self._arrays(cache))

    def feed(
        self, token_ids: np.ndarray, *, num_cached: int, cache: LiteRTCache
    ) -> np.ndarray:
        """Feeds the tokens of a text that its cache does not hold yet.

        Args:
            token_ids: int32 (N,). The whole text, at most `context` tokens.
            num_cached: int, below N. Tokens of it that the cache holds.
            cache: its `LiteRTCache`, which holds all of them afterwards.

        Returns:
            float32 (V,). The logits after the last token.
        """
        last = len(token_ids) - 1
        self.make_room(cache, len(token_ids))
        while num_cached < last:
            length = self._chunk(last - num_cached, num_cached)
            end = min(num_cached + length, last)
            signature = self._decode if length == 1 else self._prefill[length]
            signature.run(token_ids[num_cached:end], num_cached, cache)
            num_cached = end
        self._decode.run(token_ids[last:], last, cache)
        return self._decode.logits()

    def _chunk(self, count: int, first: int) -> int:
        """Returns the longest chunk that `count` tokens fill, or the shortest one."""
        fitting = [length for length in self._prefill if length <= count]
        length = max(fitting, default=min(self._prefill))
        # Slots beyond the last would push the chunk back.
        return length if first + length <= self.context else 1

    def make_room(self, cache: LiteRTCache, num_tokens: int) -> None:
        """Lets a cache grow to so many tokens and the padding of their last chunk."""
        need = min(num_tokens + min(self._prefill) - 1, self.context)
        if need > cache.num_slots:
            size = -(-need // SLOTS_AT_ONCE) * SLOTS_AT_ONCE
            larger = self._cache(min(size, self.context), self._arrays(cache))
            cache.tables, cache.num_slots = larger.tables, larger.num_slots

    def _cache(self, num_slots: int, arrays: dict[str, np.ndarray]) -> LiteRTCache:
        """Returns a cache that holds arrays, and zeros where they end."""
        cache = self._decode.new_cache(num_slots)
        for name, (rows, heads, _, dim) in self._table_shapes.items():
            table = np.zeros([rows, heads, num_slots, dim], np.float32)
            if name in arrays:
                table[:, :, : arrays[name].shape[2]] = arrays[name]
            cache.tables[name].write(table)
        return cache

    def _arrays(self, cache: LiteRTCache) -> dict[str, np.ndarray]:
        """Returns a cache's tables as NumPy has them."""
        arrays = {}
        for name, (rows, heads, _, dim) in self._table_shapes.items():
            shape = [rows, heads, cache.num_slots, dim]
            flat = cache.tables[name].read(int(np.prod(shape)), np.float32)
            arrays[name] = flat.reshape(shape)
        return arrays


class _Signature:
    """One signature of a compiled file, for caches of any size.

    Args:
        model: LiteRT's `CompiledModel`.
        name: string. `decode` or `prefill_T`.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self._name = name
        details = model.get_input_tensor_details(name)
        self.shapes = {key: list(one["shape"]) for key, one in details.items()}
        self.length: int = self.shapes["tokens"][1]
        outputs = model.get_output_tensor_details(name)
        self._num_logits = outputs["logits"]["shape"][-1] if "logits" in outputs else 0
        self._num_slots = 0  # of the caches that it is ready for
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def resize(self, num_slots: int) -> None:
        """Makes it ready for caches of so many slots."""
        if self._num_slots == num_slots:
            return
        model, name = self._model, self._name
        for key, shape in self.shapes.items():
            place = _SLOTS.get(key.rstrip("0123456789"))
            if place is not None:
                sizes = [*shape[:place], num_slots, *shape[place + 1 :]]
                model.resize_input_tensor_by_name(name, key, sizes, strict=False)
        self._num_slots = num_slots
        self._inputs = {
            key: model.create_input_buffer_by_name(name, key)
            for key in ("tokens", "input_pos", "mask")
        }
        if self._num_logits:
            buffer = model.create_output_buffer_by_name(name, "logits")
            self._outputs = {"logits": buffer}

    def new_cache(self, num_slots: int) -> LiteRTCache:
        """Returns a cache of the size that it is ready for, of no values yet."""
        self.resize(num_slots)
        tables = {
            key: self._model.create_input_buffer_by_name(self._name, key)
            for key in self.shapes
            if key.startswith(TABLES)
        }
        return LiteRTCache(tables, num_slots)

    def run(self, token_ids: np.ndarray, first: int, cache: LiteRTCache) -> None:
        """Feeds tokens, at most `length`, from slot `first` on."""
        self.resize(cache.num_slots)
        tokens = np.zeros([1, self.length], np.int32)
        tokens[0, : len(token_ids)] = token_ids
        places = np.zeros([self.length], np.int32)
        places[: len(token_ids)] = np.arange(first, first + len(token_ids))
        ends = np.arange(first, first + self.length)[:, None]
        is_seen = np.arange(cache.num_slots) <= ends
        mask = np.where(is_seen, np.float32(0.0), MASKED)[None, None]
        for name, value in [("tokens", tokens), ("input_pos", places), ("mask", mask)]:
            self._inputs[name].write(value)
        self._model.run_by_name(
            self._name,
            {**self._inputs, **cache.tables},
            {**self._outputs, **cache.tables},
        )

    def logits(self) -> np.ndarray:
        """Returns float32 (V,), those after the last run's token."""
        return self._outputs["logits"].read(self._num_logits, np.float32)
