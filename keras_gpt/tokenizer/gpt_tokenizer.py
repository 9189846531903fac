"""GPT-2's tokenizer as graph code over static tables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt.tokenizer import gpt2_files
from keras_gpt.tokenizer.byte_pair_merge import MergeTable, merge_words
from keras_gpt.tokenizer.gpt2_files import PathLike
from keras_gpt.tokenizer.pretokenize import split_words

END_TOKEN = "<|endoftext|>"  # noqa: S105  Radford et al. 2019
# Names of the files in a KerasHub preset.
VOCABULARY_ASSET = "vocabulary.json"
MERGES_ASSET = "merges.txt"


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPTTokenizer(keras_nlp.tokenizers.Tokenizer):
    """Byte-level BPE, equal to GPT-2's and in the graph.

    Core TensorFlow ops only, so that it runs eagerly, in `tf.data` and in exported
    models alike. For every valid UTF-8 text the ids are those of Hugging Face
    `tokenizers`. Bytes that are not UTF-8 become U+FFFD first. Bytes that the
    vocabulary lacks (character vocabularies) are dropped.

    Args:
        vocabulary: path of a JSON file, or dict: id by token, in GPT-2's format.
            Ids are 0 .. V-1. It may lack `<|endoftext|>`; `end_token_id` is then
            `None`.
        merges: path of a file, or list of lines "left right" in order of rank.

    Raises:
        ValueError: if vocabulary and merges do not fit together, naming the entry.
        OSError: if a file cannot be read.

    Example:
        >>> tokenizer = GPTTokenizer(vocabulary="vocab.json", merges="merges.txt")
        >>> tokenizer.tokenize(["a text", "another"])      # ragged int32
        >>> tokenizer.detokenize(tokenizer.tokenize("a text"))  # b"a text"

    Reference: Radford et al. 2019, section 2.2.
    """

    def __init__(
        self,
        vocabulary: PathLike | dict[str, int] | None = None,
        merges: PathLike | Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "int32")
        kwargs.setdefault("_allow_python_workflow", False)
        super().__init__(**kwargs)
        self.file_assets = [VOCABULARY_ASSET, MERGES_ASSET]
        self.end_token = self.start_token = END_TOKEN
        self.end_token_id: int | None = None
        self.start_token_id: int | None = None
        self.pad_token_id = 0
        self._vocabulary: dict[str, int] = {}
        if (vocabulary is None) != (merges is None):
            raise ValueError("vocabulary and merges must be given together.")
        if vocabulary is not None:
            self.set_vocabulary_and_merges(vocabulary, merges)

    def set_vocabulary_and_merges(
        self, vocabulary: PathLike | dict[str, int], merges: Any
    ) -> None:
        """Sets the vocabulary and merges from files or data, as in the constructor."""
        # What errors call them: by their file, if they came from one.
        vocabulary_name, merges_name = "vocabulary", "merges"
        if not isinstance(vocabulary, dict):
            vocabulary_name = f"vocabulary {os.fspath(vocabulary)}"
            vocabulary = gpt2_files.read_vocabulary(vocabulary)
        if isinstance(merges, str | os.PathLike):
            merges_name = f"merges {os.fspath(merges)}"
            merges = gpt2_files.read_merges(merges)
        else:
            merges = gpt2_files.parse_merges(merges)
        tokens = _tokens_by_id(vocabulary, name=vocabulary_name)
        table = MergeTable(_merge_ids(vocabulary, merges=merges, name=merges_name))
        self._vocabulary, self._merges = dict(vocabulary), merges
        self._tokens = tokens
        self._merge_table = table
        self._byte_ids = np.array(
            [
                vocabulary.get(gpt2_files.byte_characters()[byte], -1)
                for byte in range(256)
            ],
            np.int32,
        )
        self.end_token_id = self.start_token_id = vocabulary.get(END_TOKEN)
        with tf.init_scope():
            self._token_bytes = tf.constant(
                [
                    t.encode() if t == END_TOKEN else gpt2_files.to_bytes(t)
                    for t in tokens
                ]
            )

    @property
    def trackables(self) -> list[Any]:
        """Tables that a `tf.Module` must hold to be saved with this tokenizer."""
        self._check_ready()
        return [self._merge_table.ranks]

    @property
    def merges(self) -> list[str]:
        """The merges, as lines "left right" in order of rank."""
        self._check_ready()
        return list(self._merges)

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of the special tokens that the vocabulary has."""
        return [] if self.end_token_id is None else [self.end_token_id]

    def vocabulary_size(self) -> int:
        """Number of ids (V)."""
        self._check_ready()
        return len(self._tokens)

    def get_vocabulary(self) -> list[str]:
        """Tokens in order of their ids, in GPT-2's format."""
        self._check_ready()
        return list(self._tokens)

    def id_to_token(self, id: int) -> str:
        """Token of an id, in GPT-2's format."""
        self._check_ready()
        if not 0 <= id < len(self._tokens):
            raise ValueError(f"id must be in [0, {len(self._tokens)}), got {id}.")
        return self._tokens[id]

    def token_to_id(self, token: str) -> int:
        """Id of a token in GPT-2's format."""
        self._check_ready()
        if token not in self._vocabulary:
            raise ValueError(f"token must be in the vocabulary, got {token!r}.")
        return self._vocabulary[token]

    @tf.autograph.experimental.do_not_convert
    def tokenize(
        self, inputs: Any, parse_special: bool = False
    ) -> tf.Tensor | tf.RaggedTensor:
        """Turns strings into ids.

        Args:
            inputs: string, list of strings, or string tensor of any shape.
            parse_special: bool. Whether `<|endoftext|>` in the text is the special
                token rather than text. Defaults to False.

        Returns:
            int32. One vector for one string; else a ragged tensor with one more
            dimension than the inputs.
        """
        self._check_ready()
        inputs = tf.convert_to_tensor(inputs, tf.string)
        flat = self._tokenize_vector(tf.reshape(inputs, [-1]), parse_special)
        if inputs.shape.rank == 0:
            return flat.flat_values
        result = flat
        for axis in range(inputs.shape.rank - 1, 0, -1):
            result = tf.RaggedTensor.from_uniform_row_length(
                result, tf.shape(inputs, tf.int64)[axis]
            )
        return result

    def _tokenize_vector(
        self, texts: tf.Tensor, parse_special: bool
    ) -> tf.RaggedTensor:
        parse_special = parse_special and self.end_token_id is not None
        words, counts, is_special = split_words(
            texts, special_token=END_TOKEN if parse_special else None
        )
        # Each distinct word is merged once.
        unique, number = tf.unique(words, out_idx=tf.int64)
        tokens = self._tokens_of_words(unique)
        if parse_special:
            extra = tf.RaggedTensor.from_row_lengths(
                tf.fill([tf.size(unique)], self.end_token_id),
                tf.ones_like(unique, tf.int64),
            )
            both = tf.concat([tokens, extra], axis=0)
            number = tf.where(is_special, number + tf.size(unique, tf.int64), number)
            tokens = both
        by_word = tf.gather(tokens, number)
        ends = tf.concat([tf.zeros([1], tf.int64), tf.cumsum(counts)], axis=0)
        return tf.RaggedTensor.from_row_splits(
            by_word.values, tf.gather(by_word.row_splits, ends), validate=False
        )

    def _tokens_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Ids (W, ragged) of distinct words (W,)."""
        data = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        symbols = tf.gather(tf.constant(self._byte_ids), tf.cast(data, tf.int32))
        owners = tf.repeat(tf.range(tf.size(words, tf.int64)), tf.strings.length(words))
        if np.min(self._byte_ids) < 0:
            known = symbols >= 0
            symbols = tf.boolean_mask(symbols, known)
            owners = tf.boolean_mask(owners, known)
        merged = merge_words(symbols, owners, self._merge_table)
        return tf.RaggedTensor.from_value_rowids(
            merged.token_ids,
            merged.words,
            nrows=tf.size(words, tf.int64),
            validate=False,
        )

    @tf.autograph.experimental.do_not_convert
    def detokenize(self, inputs: Any) -> tf.Tensor:
        """Turns ids into strings, byte for byte.

        Args:
            inputs: int ids: a vector, a dense or ragged tensor, or lists of ids.

        Returns:
            string, one dimension fewer than the inputs. A string may begin or end
            inside a character, as ids may.

        Raises:
            ValueError: if an id is out of range; inside a graph,
                `tf.errors.InvalidArgumentError`.
        """
        self._check_ready()
        if not isinstance(inputs, tf.Tensor | tf.RaggedTensor):
            inputs = tf.ragged.constant(_plain(inputs), dtype=tf.int32)
        self._check_ids(inputs)
        if isinstance(inputs, tf.RaggedTensor):
            values = inputs.with_flat_values(
                tf.gather(self._token_bytes, inputs.flat_values)
            )
        else:
            values = tf.gather(self._token_bytes, inputs)
        return tf.strings.reduce_join(values, axis=-1)

    def save_files(self, directory: PathLike) -> None:
        """Writes vocab.json and merges.txt into a folder, made if absent."""
        self._check_ready()
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        gpt2_files.write_merges(folder / "merges.txt", self._merges)
        gpt2_files.write_vocabulary(folder / "vocab.json", self._ordered())

    def save_assets(self, dir_path: str) -> None:
        """Writes the files of a KerasHub preset."""
        self._check_ready()
        gpt2_files.write_vocabulary(Path(dir_path) / VOCABULARY_ASSET, self._ordered())
        gpt2_files.write_merges(Path(dir_path) / MERGES_ASSET, self._merges)

    def load_assets(self, dir_path: str) -> None:
        """Reads the files of a KerasHub preset."""
        folder = Path(dir_path)
        self.set_vocabulary_and_merges(folder / VOCABULARY_ASSET, folder / MERGES_ASSET)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Static shape and dtype in a functional model."""
        return keras.KerasTensor((*inputs.shape, None), dtype="int32")

    def _ordered(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self._tokens)}

    def _check_ids(self, inputs: tf.Tensor | tf.RaggedTensor) -> None:
        """Raises for ids out of range where their values are known: eagerly."""
        flat = inputs.flat_values if isinstance(inputs, tf.RaggedTensor) else inputs
        if not tf.executing_eagerly():
            return
        ids = flat.numpy()
        wrong = ids[(ids < 0) | (ids >= len(self._tokens))]
        if wrong.size:
            raise ValueError(
                f"ids must be in [0, {len(self._tokens)}), got {wrong.flat[0]}."
            )

    def _check_ready(self) -> None:
        if not self._vocabulary:
            raise ValueError("vocabulary and merges must be set before use, got None.")


def _plain(ids: Any) -> Any:
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _tokens_by_id(vocabulary: dict[str, int], *, name: str) -> list[str]:
    """Returns the tokens in order, once ids are known to be 0 .. V-1."""
    if not vocabulary:
        raise ValueError(f"{name} must have tokens, got none.")
    tokens: list[str | None] = [None] * len(vocabulary)
    for token, index in vocabulary.items():
        if (
            isinstance(index, bool)
            or not isinstance(index, int)
            or not 0 <= index < len(tokens)
        ):
            raise ValueError(
                f"{name} ids must be integers in [0, {len(tokens)}), "
                f"got {index!r} for {token!r}."
            )
        if tokens[index] is not None:
            raise ValueError(
                f"{name} ids must be distinct, got {index} for {token!r} "
                f"and {tokens[index]!r}."
            )
        tokens[index] = token
    return tokens  # type: ignore[return-value]


def _merge_ids(
    vocabulary: dict[str, int], *, merges: list[str], name: str
) -> np.ndarray:
    """Returns left, right and merged id of each merge: int64 (M, 3)."""
    rows = []
    for rank, line in enumerate(merges):
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{name} must be 'left right', got {line!r} at {rank}.")
        tokens = (*parts, "".join(parts))
        for token in tokens:
            if token not in vocabulary:
                raise ValueError(
                    f"{name} must be of tokens of the vocabulary, "
                    f"got {token!r} in {line!r} at {rank}."
                )
        rows.append([vocabulary[token] for token in tokens])
    return np.array(rows, np.int64).reshape(-1, 3)
