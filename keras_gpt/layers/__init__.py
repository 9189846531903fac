"""Layers of a GPT, below the models: nothing here knows a whole network."""

from keras_gpt.layers.attention import CausalSelfAttention
from keras_gpt.layers.block import TransformerBlock
from keras_gpt.layers.embeddings import PositionEmbedding, TokenEmbedding
from keras_gpt.layers.kv_cache import KVCache, LayerCache
from keras_gpt.layers.masks import AttentionMask
from keras_gpt.layers.mlp import MLP
from keras_gpt.layers.projection import Projection

__all__ = [
    "MLP",
    "AttentionMask",
    "CausalSelfAttention",
    "KVCache",
    "LayerCache",
    "PositionEmbedding",
    "Projection",
    "TokenEmbedding",
    "TransformerBlock",
]
