"""Text from a TFLite file, with the controls of `GPTCausalLM`."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_gpt.export.litert.network import LiteRTCache, LiteRTNetwork
from keras_gpt.export.model_card import tokenizer_fingerprint
from keras_gpt.generation import Decoder, DecodeState, Prefix, Prompts, Request
from keras_gpt.layers.kv_cache import KVCache
from keras_gpt.models.causal_lm_preprocessor import GPTCausalLMPreprocessor
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.generation_runner import UNLIMITED, GenerationRunner
from keras_gpt.models.kerashub_samplers import SamplerOptions
from keras_gpt.models.text_generation import TextGeneration
from keras_gpt.models.traced_functions import TracedDecoder
from keras_gpt.tokenizer import GPTTokenizer


class LiteRTGenerator(TextGeneration):
    """Strings in, strings out, by the file of a language model.

    LiteRT runs the network, and what chooses tokens is that of `GPTCausalLM`: the same
    options, and with the same seed the same text. Options that need more of a network
    than the next token's logits are refused: `num_beams`, `penalty_alpha` and `draft`.

    Args:
        path: string or path. A file of `export_tflite`.
        tokenizer: `GPTTokenizer` that the model was exported with, or None to work on
            token ids.
        num_threads: int. Defaults to the cores that this process may use.

    Example:
        >>> lm = LiteRTGenerator("model.tflite", GPTTokenizer.from_preset("run/model"))
        >>> lm.generate("Once upon a time", max_new_tokens=100, seed=7)
        >>> for piece in lm.stream("Once upon a time"):
        ...     print(piece, end="", flush=True)

    Raises:
        ImportError: if LiteRT is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if it is not whole or no language model, or the tokenizer is not
            the one that the file was made with.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tokenizer: Any = None,
        *,
        num_threads: int | None = None,
    ) -> None:
        network = LiteRTNetwork(path, num_threads=num_threads)
        about = network.about
        self.backbone = _OutsideNetwork(network.config)
        self.preprocessor = None
        if tokenizer is not None:
            _check_tokenizer(tokenizer, about)
            self.preprocessor = GPTCausalLMPreprocessor(
                tokenizer, **about["preprocessor"]
            )
        self.sampler_options = SamplerOptions(**about["sampler"])
        runner = _Runner(network, self.backbone, self.preprocessor)
        self._runner = lambda: runner


def _check_tokenizer(tokenizer: Any, about: dict[str, Any]) -> None:
    if not isinstance(tokenizer, GPTTokenizer):
        raise ValueError(
            f"tokenizer must be a GPTTokenizer or None, got {tokenizer!r:.80}."
        )
    if "tokenizer" not in about:
        raise ValueError(
            "tokenizer must be None for a file that was exported without one."
        )
    want, got = about["tokenizer"]["sha256"], tokenizer_fingerprint(tokenizer)
    if got != want:
        raise ValueError(
            "tokenizer must be the one that the file was exported with, of fingerprint "
            f"{want[:16]}..., got {got[:16]}...."
        )


class _OutsideNetwork:
    """What generation is told of a network whose logits come from elsewhere."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def empty_cache(self, batch_size: Any, *, num_slots: Any) -> KVCache:
        """Returns a cache of no layers."""
        return KVCache(())


class _SteppedDecoder(Decoder):
    """A `Decoder` whose network is outside of TensorFlow.

    Args:
        *args: as of `Decoder`, like those by name.
        logits_after: function of token ids (B, S), starts, lengths and numbers of
            cached tokens (B,), and whether rows run (B,), all NumPy arrays; returns
            float32 (B, V), the logits after each running row's last token.
    """

    def __init__(self, *args: Any, logits_after: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logits_after = logits_after

    def _round(
        self, state: DecodeState, request: Request, **kwargs: Any
    ) -> DecodeState:
        state = self._slide(state)
        logits = tf.numpy_function(
            self._logits_after,
            [
                *(state.token_ids, state.starts, state.lengths, state.num_cached),
                state.is_running,
            ],
            tf.float32,
        )
        logits = tf.ensure_shape(logits, [None, self.model.config.vocabulary_size])
        return self.take(state, request, logits=logits)


class _State(NamedTuple):
    """A generation at rest: what was chosen, and the cache of each row."""

    chosen: DecodeState
    caches: list[LiteRTCache]

    @property
    def is_running(self) -> tf.Tensor:
        return self.chosen.is_running


class _LiteRTDecoder:
    """What `TracedDecoder` does, with the network in LiteRT.

    Args:
        network: `LiteRTNetwork`.
        traced: function of the class of a `Decoder` that returns its `TracedDecoder`.
    """

    def __init__(
        self, network: LiteRTNetwork, traced: Callable[[Any], TracedDecoder]
    ) -> None:
        self._network = network
        # TensorFlow keeps the functions of graphs for good, and all that they know.
        me = weakref.proxy(self)
        self._traced = traced(
            functools.partial(
                _SteppedDecoder, logits_after=lambda *args: me._logits_after(*args)
            )
        )
        self._caches: list[LiteRTCache] = []  # of the call that runs
        self._error: Exception | None = None  # of that call
        self.empty_prefix = self._traced.empty_prefix

    def prefill(self, prompts: Prompts) -> Prefix:
        """Returns a `Prefix` that is yet to be computed."""
        lengths = prompts.prefix_lengths + prompts.lengths
        token_ids = prompts.whole(size=tf.reduce_max(lengths))
        return Prefix(token_ids, lengths, KVCache(()))

    def begin(self, prompts: Prompts, request: Request) -> _State:
        """Returns the state before the first token."""
        chosen = self._traced.begin(prompts, request)
        token_ids = chosen.token_ids.numpy()
        num_cached = np.maximum(prompts.prefix_lengths.numpy() - 1, 0)
        sources: dict[int, LiteRTCache] = {}  # of the prefixes that were fed
        caches = []
        with self._network.lock:
            for row, source in enumerate(prompts.prefix_rows.numpy()):
                if source in sources:
                    caches.append(self._network.copy_of(sources[source]))
                    continue
                caches.append(self._network.empty_cache())
                if num_cached[row]:  # the last token is fed with the text
                    self._network.feed(
                        token_ids[row, : num_cached[row]],
                        num_cached=0,
                        cache=caches[-1],
                    )
                    sources[source] = caches[-1]
        return _State(chosen._replace(num_cached=tf.constant(num_cached)), caches)

    def advance(self, state: _State, request: Request, num_steps: int) -> _State:
        """Goes on for some tokens, or until all rows end."""
        with self._network.lock:
            self._caches, self._error = state.caches, None
            try:
                chosen = self._traced.advance(state.chosen, request, num_steps)
            except tf.errors.OpError as error:
                raise (self._error or error) from None
            finally:
                self._caches, self._error = [], None
        return _State(chosen, state.caches)

    def generate(self, prompts: Prompts, request: Request) -> Any:
        """Continues each prompt until it stops."""
        state = self.begin(prompts, request)
        return self.new_tokens(self.advance(state, request, UNLIMITED))

    def new_tokens(self, state: _State) -> Any:
        """Returns the `GeneratedTokens` so far."""
        return self._traced.new_tokens(state.chosen)

    def _logits_after(
        self,
        token_ids: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        num_cached: np.ndarray,
        is_running: np.ndarray,
    ) -> np.ndarray:
        size = self._network.config.vocabulary_size
        logits = np.zeros([len(lengths), size], np.float32)
        longest = int((lengths - starts)[is_running].max())
        try:
            for row in np.flatnonzero(is_running):
                # LiteRT makes itself ready anew for a cache of another size.
                self._network.make_room(self._caches[row], longest)
                logits[row] = self._network.feed(
                    token_ids[row, starts[row] : lengths[row]],
                    num_cached=int(num_cached[row]),
                    cache=self._caches[row],
                )
        except Exception as error:
            self._error = error
            raise
        return logits


class _Runner(GenerationRunner):
    """Runs generation with the network in LiteRT."""

    def __init__(
        self, network: LiteRTNetwork, backbone: Any, preprocessor: Any
    ) -> None:
        self._network = network
        super().__init__(backbone, preprocessor)

    def decoder(self, options: GenerationOptions | None = None) -> Any:
        """Returns the decoder for the functions of a call."""
        options = options or GenerationOptions()
        if options.searches or options.contrasts or options.draft is not None:
            raise ValueError(
                "num_beams must be 1, and penalty_alpha and draft None, for a TFLite "
                "file: it draws texts token by token."
            )
        return super().decoder(options)

    def _new_decoder(self, **parts: Any) -> Any:
        traced = functools.partial(self._traced_decoder, **parts)
        return _LiteRTDecoder(self._network, traced)

    def _first_invalid_place(self, token_ids: np.ndarray) -> str:
        return "the file, or in a logits processor"
