"""GPT-2's tokenizer as graph code over static tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_gpt import presets
from keras_gpt.tokenizer import gpt2_files, tokenizer_json
from keras_gpt.tokenizer.byte_pair_merge import MergeTable, merge_words
from keras_gpt.tokenizer.gpt2_files import PathLike
from keras_gpt.tokenizer.pretokenize import Words, split_words
from keras_gpt.tokenizer.special_tokens import END_TOKEN, SpecialTokenFinder

# Names of the files in a KerasHub preset.
VOCABULARY_ASSET = "vocabulary.json"
MERGES_ASSET = "merges.txt"
NO_ID = -1


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
        special_tokens: list of tokens of the vocabulary that stand for themselves:
            `detokenize` writes their names as they are, and text becomes them only
            with `parse_special=True`. Defaults to `None`: `<|endoftext|>`, if the
            vocabulary has it.

    Raises:
        ValueError: if vocabulary, merges and special tokens do not fit together,
            naming the entry.
        OSError: if a file cannot be read.

    Example:
        >>> tokenizer = GPTTokenizer(vocabulary="vocab.json", merges="merges.txt")
        >>> tokenizer.tokenize(["a text", "another"])      # ragged int32
        >>> tokenizer.detokenize(tokenizer.tokenize("a text"))  # b"a text"

    Reference: Radford et al. 2019, section 2.2.
    """

    _format = tokenizer_json.GPT2
    # What stands between a text and the text of tokens that continue it.
    continuation_separator = ""

    def __init__(
        self,
        vocabulary: PathLike | dict[str, int] | None = None,
        merges: PathLike | Iterable[str] | None = None,
        special_tokens: Iterable[str] | None = None,
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
        self._given_special_tokens = _checked_names(special_tokens)
        self._special_tokens: list[str] = []
        if (vocabulary is None) != (merges is None):
            raise ValueError("vocabulary and merges must be given together.")
        if vocabulary is not None:
            self.set_vocabulary_and_merges(vocabulary, merges)

    @classmethod
    def from_preset(cls, preset: Any, *args: Any, **kwargs: Any) -> GPTTokenizer:
        """Loads a tokenizer from whatever `GPTBackbone.from_preset` takes.

        Args:
            preset: string or path, as there; or a directory of tokenizer files alone.
            *args: as in `keras_nlp.tokenizers.Tokenizer.from_preset`; for a preset of
                this library only.
            **kwargs: likewise.

        Raises:
            ValueError: if the preset's tokenizer is of another class; and as there.
        """
        found = presets.find_tokenizer(preset)
        if found.tokenizer is None:
            return super().from_preset(found.location, *args, **kwargs)
        if not isinstance(found.tokenizer, cls):
            raise ValueError(
                f"{found.location} must hold a {cls.__name__}, "
                f"got a {type(found.tokenizer).__name__}."
            )
        return found.tokenizer

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
        merge_ids = _merge_ids(vocabulary, merges=merges, name=merges_name)
        symbol_ids = self._symbol_ids(vocabulary)
        special = self._given_special_tokens
        if special is None:
            special = [t for t in self._format.special_tokens if t in vocabulary]
        made = {*merge_ids[:, 2].tolist(), *np.unique(symbol_ids).tolist()}
        _check_special(special, vocabulary, made=made, name=vocabulary_name)
        self._vocabulary, self._merges = dict(vocabulary), merges
        self._tokens, self._special_tokens = tokens, special
        self.end_token_id = self.start_token_id = vocabulary.get(END_TOKEN)
        self._finder = SpecialTokenFinder(special)
        self._merge_table = MergeTable(merge_ids)
        with tf.init_scope():
            self._create_tables(symbol_ids)

    def _symbol_ids(self, vocabulary: dict[str, int]) -> np.ndarray:
        """int32. Ids of all that words begin to merge from; -1 for what is missing."""
        characters = gpt2_files.byte_characters()
        ids = [vocabulary.get(characters[byte], NO_ID) for byte in range(256)]
        return np.array(ids, np.int32)

    def _create_tables(self, symbol_ids: np.ndarray) -> None:
        """Creates the static tables of `_first_symbols` and `_join`."""
        self._byte_ids = symbol_ids
        self._token_bytes = tf.constant(self._texts(gpt2_files.to_bytes))

    def _texts(self, text_of: Callable[[str], bytes]) -> list[bytes]:
        """Texts of all tokens; special tokens stand for themselves."""
        special = set(self._special_tokens)
        return [t.encode() if t in special else text_of(t) for t in self._tokens]

    @property
    def token_text(self) -> tf.Tensor:
        """String (V,). What each token adds to a text that goes on after it."""
        self._check_ready()
        return self._token_bytes

    @property
    def spells_every_byte(self) -> bool:
        """Whether the tokens of a text spell all its bytes, in order."""
        self._check_ready()
        return NO_ID not in self._byte_ids

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
    def special_tokens(self) -> list[str]:
        """Names of the special tokens."""
        return list(self._special_tokens)

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of the special tokens, in the same order."""
        return [self._vocabulary[token] for token in self._special_tokens]

    def vocabulary_size(self) -> int:
        """Number of ids (V)."""
        self._check_ready()
        return len(self._tokens)

    def get_vocabulary(self) -> list[str]:
        """Tokens in order of their ids, as the vocabulary spells them."""
        self._check_ready()
        return list(self._tokens)

    def id_to_token(self, id: int) -> str:
        """Token of an id, as the vocabulary spells it."""
        self._check_ready()
        if not 0 <= id < len(self._tokens):
            raise ValueError(f"id must be in [0, {len(self._tokens)}), got {id}.")
        return self._tokens[id]

    def token_to_id(self, token: str) -> int:
        """Id of a token, as the vocabulary spells it."""
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
            parse_special: bool. Whether the names of special tokens in the text are
                those tokens rather than text: the leftmost first, and the longest
                at the same place. Defaults to False.

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
        finder = self._finder if parse_special and self._special_tokens else None
        words, counts, special = self._split(texts, finder)
        # Each distinct word is merged once.
        unique, number = tf.unique(words, out_idx=tf.int64)
        tokens = self._tokens_of_words(unique)
        if special is not None:
            # The special tokens are further words, of one token each.
            rows = tf.constant(self.special_token_ids, tf.int32)[:, None]
            tokens = tf.concat([tokens, tf.RaggedTensor.from_tensor(rows)], axis=0)
            special_number = tf.cast(special, tf.int64) + tf.size(unique, tf.int64)
            number = tf.where(special >= 0, special_number, number)
        by_word = tf.gather(tokens, number)
        ends = tf.concat([tf.zeros([1], tf.int64), tf.cumsum(counts)], axis=0)
        return tf.RaggedTensor.from_row_splits(
            by_word.values, tf.gather(by_word.row_splits, ends), validate=False
        )

    def _tokens_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Ids (W, ragged) of distinct words (W,)."""
        symbols, owners = self._first_symbols(words)
        merged = merge_words(symbols, owners, self._merge_table)
        return tf.RaggedTensor.from_value_rowids(
            merged.token_ids,
            merged.words,
            nrows=tf.size(words, tf.int64),
            validate=False,
        )

    def _split(self, texts: tf.Tensor, finder: SpecialTokenFinder | None) -> Words:
        """Splits texts (B,) into the words within which tokens merge."""
        return split_words(texts, special_tokens=finder)

    def _first_symbols(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids int32 (S,) that words (W,) begin to merge from, and int64 their words."""
        data = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        symbols = tf.gather(tf.constant(self._byte_ids), tf.cast(data, tf.int32))
        owners = tf.repeat(tf.range(tf.size(words, tf.int64)), tf.strings.length(words))
        if NO_ID in self._byte_ids:
            known = symbols != NO_ID
            symbols = tf.boolean_mask(symbols, known)
            owners = tf.boolean_mask(owners, known)
        return symbols, owners

    def _join(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Strings that ids spell along their last axis."""
        return tf.strings.reduce_join(
            tf.ragged.map_flat_values(tf.gather, self._token_bytes, ids), axis=-1
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
        return self._join(inputs)

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

    @classmethod
    def from_huggingface_files(cls, folder: PathLike) -> Self | None:
        """Reads the tokenizer's files of a Hugging Face or OpenAI checkpoint.

        `tokenizer.json`; else `vocab.json` and `merges.txt`, with
        `added_tokens.json` if there; else `encoder.json` and `vocab.bpe`. All added
        tokens become special tokens.

        Args:
            folder: path.

        Returns:
            the tokenizer, or None if the folder has none of these files.

        Raises:
            ValueError: if a file is broken, or asks for ids or text that this class
                would not give, naming the file, the key, what is supported and what
                was found.
            OSError: if a file cannot be read, or one of a pair is missing.
        """
        found = tokenizer_json.read_folder(folder, cls._format)
        if found is None:
            return None
        try:
            return cls(
                vocabulary=found.vocabulary,
                merges=found.merges,
                special_tokens=found.special_tokens,
            )
        except ValueError as error:
            raise ValueError(f"{found.source}: {error}") from error

    def save_huggingface_files(self, folder: PathLike, *, max_length: int) -> None:
        """Writes the files from which transformers' `AutoTokenizer` makes its like.

        `tokenizer.json`, `vocab.json`, `merges.txt` and `tokenizer_config.json`.
        transformers finds special tokens in text as `parse_special=True` does.

        Args:
            folder: path; made if absent.
            max_length: int. Longest input of the model, in tokens.
        """
        self._check_ready()
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}.")
        contents = tokenizer_json.Contents(
            vocabulary=self._ordered(),
            merges=self._merges,
            special_tokens=self._special_tokens,
        )
        tokenizer_json.write_folder(
            folder, contents, self._format, max_length=max_length
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor, without the files."""
        given = self._given_special_tokens
        return {
            **super().get_config(),
            "special_tokens": None if given is None else list(given),
        }

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


def _checked_names(tokens: Iterable[str] | None) -> list[str] | None:
    """Returns the names of special tokens, each once."""
    if tokens is None:
        return None
    names = [tokens] if isinstance(tokens, str) else list(tokens)
    for name in names:
        if isinstance(tokens, str) or not isinstance(name, str) or not name:
            raise ValueError(
                "special_tokens must be a list of strings that are not empty, "
                f"got {tokens!r:.200}."
            )
    return list(dict.fromkeys(names))


def _check_special(
    special: list[str], vocabulary: dict[str, int], *, made: set[int], name: str
) -> None:
    """Raises unless the special tokens are in the vocabulary and no text is them."""
    for token in special:
        if token not in vocabulary:
            raise ValueError(
                f"special_tokens must be of the vocabulary, got {token!r}, "
                f"which {name} lacks."
            )
        if vocabulary[token] in made:
            raise ValueError(
                "special_tokens must not be what text becomes by merges or as a "
                f"single character, got {token!r}."
            )


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
