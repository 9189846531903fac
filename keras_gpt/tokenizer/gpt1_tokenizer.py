"""GPT-1's tokenizer as graph code over static tables."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_gpt.tokenizer import tokenizer_json
from keras_gpt.tokenizer.bert_words import BertWordSplitter
from keras_gpt.tokenizer.gpt_tokenizer import NO_ID, GPTTokenizer
from keras_gpt.tokenizer.page_table import NUM_CODE_POINTS, PageTable, make_pages
from keras_gpt.tokenizer.pretokenize import Words
from keras_gpt.tokenizer.special_tokens import UNKNOWN_TOKEN, SpecialTokenFinder
from keras_gpt.tokenizer.tokenizer_json import WORD_END


@keras.saving.register_keras_serializable(package="keras_gpt")
class GPT1Tokenizer(GPTTokenizer):
    """BPE of characters in lower case, equal to GPT-1's and in the graph.

    Text is cleaned, lower-cased, stripped of accents and split into words as BERT
    does, and merges run within words, whose last symbol ends in `</w>`. For every
    valid UTF-8 text the ids are those of Hugging Face `tokenizers` (and of
    transformers' `OpenAIGPTTokenizer` since its version 5). Case, accents and layout
    are lost: `detokenize(tokenize(text))` has one space between any two words, those
    that are punctuation included, and is not `text`.

    Characters that the vocabulary lacks become `<unk>`; they are dropped if the
    vocabulary lacks that, too. GPT-1's own vocabulary has no end token, so that
    `end_token_id` is `None`.

    Args:
        vocabulary: path of a JSON file, or dict: id by token. Ids are 0 .. V-1.
        merges: path of a file, or list of lines "left right" in order of rank.
        special_tokens: as in `GPTTokenizer`. Defaults to `None`: those of `<unk>` and
            `<|endoftext|>` that the vocabulary has.

    Raises:
        ValueError: if vocabulary, merges and special tokens do not fit together,
            naming the entry.
        OSError: if a file cannot be read.

    Example:
        >>> tokenizer = GPT1Tokenizer(vocabulary="vocab.json", merges="merges.txt")
        >>> tokenizer.detokenize(tokenizer.tokenize("Cafés,  OPEN!"))
        b"cafes , open !"

    Reference: Radford et al. 2018, section 4.1.
    """

    _format = tokenizer_json.GPT1
    # Words end with `</w>`, whose space `detokenize` drops at the end of a text.
    continuation_separator = " "

    def _symbol_ids(self, vocabulary: dict[str, int]) -> np.ndarray:
        """int32 (2 * 0x110000,). Id of character c in a word; N + c: that ends it."""
        ids = np.full(2 * NUM_CODE_POINTS, NO_ID, np.int32)
        for token, index in vocabulary.items():
            character = token.removesuffix(WORD_END)
            if len(token) == 1:
                ids[ord(token)] = index
            elif len(character) == 1:
                ids[NUM_CODE_POINTS + ord(character)] = index
        return ids

    @property
    def spells_every_byte(self) -> bool:
        """False: texts are lowercased and their spaces are not kept."""
        return False

    def _create_tables(self, symbol_ids: np.ndarray) -> None:
        self._splitter = BertWordSplitter()
        self._unknown_id = self._vocabulary.get(UNKNOWN_TOKEN)
        self._symbols = PageTable(*map(tf.constant, make_pages(symbol_ids)))
        # A word's end is a space, except at the end of the text.
        self._token_bytes = tf.constant(
            self._texts(lambda token: token.replace(WORD_END, " ").encode())
        )
        self._last_token_bytes = tf.constant(
            self._texts(lambda token: token.replace(WORD_END, "").encode())
        )

    def _split(self, texts: tf.Tensor, finder: SpecialTokenFinder | None) -> Words:
        return self._splitter.split(texts, special_tokens=finder)

    def _first_symbols(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        characters = tf.strings.unicode_decode(words, "UTF-8")
        owners = characters.value_rowids()
        is_last = tf.concat(
            [owners[1:] != owners[:-1], tf.ones_like(owners[:1], tf.bool)], 0
        )
        places = characters.flat_values + tf.where(is_last, NUM_CODE_POINTS, 0)
        symbols = self._symbols.look_up(places)
        known = symbols != NO_ID
        if self._unknown_id is not None:
            return tf.where(known, symbols, self._unknown_id), owners
        return tf.boolean_mask(symbols, known), tf.boolean_mask(owners, known)

    def _join(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        inside = tf.ragged.map_flat_values(tf.gather, self._token_bytes, ids)
        last = tf.ragged.map_flat_values(tf.gather, self._last_token_bytes, ids)
        texts = tf.ragged.map_flat_values(tf.where, _is_last(ids), last, inside)
        return tf.strings.reduce_join(texts, axis=-1)


def _is_last(ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
    """Bool, of the shape of `ids`. True at the last place along the last axis."""
    if isinstance(ids, tf.RaggedTensor) and ids.flat_values.shape.rank == 1:
        splits = ids.nested_row_splits[-1]
        ends = tf.boolean_mask(splits[1:], splits[1:] > splits[:-1]) - 1
        flat = tf.scatter_nd(
            ends[:, None],
            tf.ones_like(ends, tf.bool),
            tf.shape(ids.flat_values, ends.dtype),
        )
        return ids.with_flat_values(flat)
    if isinstance(ids, tf.RaggedTensor):
        return ids.with_flat_values(_is_last(ids.flat_values))
    length = tf.shape(ids)[-1]
    return tf.broadcast_to(tf.range(length) == length - 1, tf.shape(ids))
