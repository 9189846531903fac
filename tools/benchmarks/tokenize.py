"""Megabytes per second of tokenizing, beside KerasHub and `tokenizers`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

BATCH_SIZE = 1024  # lines per call of each tokenizer
PEER_LINES = 300  # KerasHub's is slow: it reads this many lines


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Measures and prints a table.

    Returns:
        MB/s of each side (medians of the rounds), the median of the rounds' ratios
        to KerasHub, and whether the ids equal those of `tokenizers`.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines, vocabulary, merges = _inputs(flags, Path(folder))
        return _measure(lines, vocabulary, merges, rounds=flags.rounds)


def _inputs(flags: absl_flags.FlagValues, folder: Path) -> tuple[list[str], str, str]:
    if flags.input:
        lines = Path(flags.input).read_text(encoding="utf-8").split("\n")
    else:
        from pydoc_data.topics import topics

        lines = "\n".join(topics.values()).split("\n")
    if bool(flags.vocabulary) != bool(flags.merges):
        raise ValueError("vocabulary and merges must be given together.")
    if flags.vocabulary:
        return lines, flags.vocabulary, flags.merges
    from keras_gpt.tokenizer import train_tokenizer

    train_tokenizer(["\n".join(lines)], vocabulary_size=2000).save_files(folder)
    return lines, str(folder / "vocab.json"), str(folder / "merges.txt")


def _measure(
    lines: list[str], vocabulary: str, merges: str, *, rounds: int
) -> dict[str, Any]:
    import keras_nlp
    import tokenizers

    from keras_gpt.tokenizer import GPTTokenizer

    ours = GPTTokenizer(vocabulary=vocabulary, merges=merges)
    hugging_face = tokenizers.ByteLevelBPETokenizer(vocabulary, merges)
    # Its eager mode has another implementation; this is the one of `tf.data`.
    kerashub = keras_nlp.tokenizers.GPT2Tokenizer(vocabulary=vocabulary, merges=merges)
    expected = [encoding.ids for encoding in hugging_face.encode_batch(lines)]
    same = ours.tokenize(lines).to_list() == expected
    print(f"tokenize: {len(lines)} lines, {_megabytes(lines):.2f} MB")
    print(f"  ids equal those of tokenizers: {'yes' if same else 'NO'}")
    few = lines[:PEER_LINES]
    pairs = []
    for _ in range(rounds):
        fast = _speed(lines, lambda texts: _run_dataset(texts, ours.tokenize))
        slow = _speed(few, lambda texts: _run_dataset(texts, kerashub))
        outside = _speed(lines, lambda texts: hugging_face.encode_batch(texts))
        pairs.append((fast, slow, outside))
    fast, slow, outside = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ours / peer for ours, peer, _ in pairs)
    print(f"  keras_gpt, tf.data                 {fast:8.3f} MB/s")
    print(f"  KerasHub, tf.data                  {slow:8.3f} MB/s   ours {ratio:.1f}x")
    print(f"  tokenizers, Python (encode_batch)  {outside:8.3f} MB/s")
    return {
        "megabytes_per_second": {
            "keras_gpt": fast, "kerashub": slow, "tokenizers": outside
        },
        "ratio": ratio,
        "ids_equal": same,
    }  # fmt: skip


def _run_dataset(texts: list[str], tokenize: Callable[[Any], Any]) -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(BATCH_SIZE)
    for _ in dataset.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE):
        pass


def _speed(texts: list[str], work: Callable[[list[str]], Any]) -> float:
    started = time.perf_counter()
    work(texts)
    return _megabytes(texts) / (time.perf_counter() - started)


def _megabytes(texts: list[str]) -> float:
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6
