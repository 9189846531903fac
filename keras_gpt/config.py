"""Model configuration: one frozen dataclass and the sizes of the papers."""

from __future__ import annotations

import dataclasses
from typing import Any

# Every activation a config may name; `layers/mlp.py` holds the functions.
ACTIVATIONS = ("gelu_approximate", "gelu", "relu", "silu")

GPT2_VOCABULARY_SIZE = 50257  # Radford et al. 2019: 256 bytes, 50,000 merges, 1 end
GPT1_VOCABULARY_SIZE = 40478  # Radford et al. 2018, as released


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Architecture of a GPT, checked on construction.

    Args:
        vocabulary_size: int. Number of token ids (V).
        num_layers: int. Number of transformer blocks.
        num_heads: int. Attention heads per block (N).
        hidden_dim: int. Width of the residual stream (D).
        intermediate_dim: int. Width of the MLP. Defaults to `4 * hidden_dim`.
        head_dim: int. Width of one head (H). Defaults to `hidden_dim / num_heads`,
            which must then be whole.
        max_sequence_length: int. Longest context, in tokens. Defaults to 1024.
        dropout: float in [0, 1). Rate on embeddings, attention weights and both
            residual branches. Defaults to 0.1.
        embedding_dropout: float in [0, 1). Another rate for the embeddings. Optional.
        attention_dropout: float in [0, 1). Another rate for the attention weights.
            Optional.
        layer_norm_epsilon: float. Defaults to 1e-5.
        activation: string. One of `ACTIVATIONS`; `"gelu_approximate"` is the tanh
            form that GPT-1 and GPT-2 use. Defaults to it.
        normalize_first: bool. True is GPT-2's pre-norm with a final layer norm;
            False is GPT-1's post-norm without one. Defaults to True.
        use_bias: bool. Whether projections and layer norms have biases. Defaults
            to True.
        tie_embeddings: bool. Whether the output projection is the token embedding.
            Defaults to True.
        initializer_stddev: float. Standard deviation of the normal initial weights;
            of the two projections into the residual stream of each block, over
            `sqrt(2 * num_layers)`. Defaults to 0.02, as in GPT-1, GPT-2 and GPT-3.
        scale_attention_by_inverse_layer: bool. Whether block i, counted from 1, also
            divides its attention logits by i, as Stanford CRFM's Mistral models do.
            Defaults to False.
        upcast_attention: bool. Whether queries and keys are multiplied in float32
            whatever the compute dtype, as there. Defaults to False.

    Raises:
        ValueError: if a field is out of its range.

    Example:
        >>> GPTConfig(vocabulary_size=65, num_layers=2, num_heads=2, hidden_dim=32)
        >>> GPTConfig.named("gpt2_small", dropout=0.0)

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners".
    """

    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int | None = None
    head_dim: int | None = None
    max_sequence_length: int = 1024
    dropout: float = 0.1
    embedding_dropout: float | None = None
    attention_dropout: float | None = None
    layer_norm_epsilon: float = 1e-5
    activation: str = "gelu_approximate"
    normalize_first: bool = True
    use_bias: bool = True
    tie_embeddings: bool = True
    initializer_stddev: float = 0.02
    scale_attention_by_inverse_layer: bool = False
    upcast_attention: bool = False

    def __post_init__(self) -> None:
        for name in (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "max_sequence_length",
        ):
            _check_positive_int(name, getattr(self, name))
        if self.head_dim is None:
            if self.hidden_dim % self.num_heads:
                raise ValueError(
                    "hidden_dim must be divisible by num_heads (or head_dim given), "
                    f"got {self.hidden_dim} and {self.num_heads}."
                )
            object.__setattr__(self, "head_dim", self.hidden_dim // self.num_heads)
        if self.intermediate_dim is None:
            object.__setattr__(self, "intermediate_dim", 4 * self.hidden_dim)
        _check_positive_int("head_dim", self.head_dim)
        _check_positive_int("intermediate_dim", self.intermediate_dim)
        for name in ("dropout", "embedding_dropout", "attention_dropout"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {rate}.")
        if self.dropout is None:
            raise ValueError("dropout must be in [0, 1), got None.")
        for name in ("layer_norm_epsilon", "initializer_stddev"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, "
                f"got {self.activation!r}."
            )

    @classmethod
    def named(cls, name: str, **overrides: Any) -> GPTConfig:
        """Returns a published size, with some fields changed.

        Args:
            name: string. A key of `NAMED_SIZES`, such as `"gpt2_small"`.
            **overrides: fields to change, such as `vocabulary_size=8000`.

        Raises:
            ValueError: if no size has that name.
        """
        if name not in NAMED_SIZES:
            raise ValueError(
                f"size must be one of {', '.join(NAMED_SIZES)}, got {name!r}."
            )
        return cls.from_dict({**NAMED_SIZES[name], **overrides})

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> GPTConfig:
        """Builds a config from its `to_dict` form; unknown or missing keys fail."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"GPTConfig has no field {', '.join(unknown)}.")
        missing = [
            name
            for name, field in known.items()
            if field.default is dataclasses.MISSING and name not in fields
        ]
        if missing:
            raise ValueError(f"GPTConfig needs the field {', '.join(missing)}.")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Returns every field as plain Python data."""
        return dataclasses.asdict(self)

    @property
    def attention_dim(self) -> int:
        """Width of all heads together, `num_heads * head_dim`."""
        return self.num_heads * self.head_dim  # type: ignore[operator]

    def dropout_of(self, part: str) -> float:
        """Returns the dropout rate of the `"embedding"` or the `"attention"`."""
        rate = getattr(self, f"{part}_dropout")
        return self.dropout if rate is None else rate

    @property
    def num_parameters(self) -> int:
        """Number of trained weights, a tied embedding counted once."""
        hidden, attention, inner = (
            self.hidden_dim,
            self.attention_dim,
            self.intermediate_dim,
        )
        bias = int(self.use_bias)
        norm = hidden * (1 + bias)
        attention_weights = 4 * hidden * attention + bias * (3 * attention + hidden)
        mlp_weights = 2 * hidden * inner + bias * (inner + hidden)  # type: ignore
        block = attention_weights + mlp_weights + 2 * norm
        tables = self.vocabulary_size * hidden * (1 if self.tie_embeddings else 2)
        tables += self.max_sequence_length * hidden
        return tables + self.num_layers * block + norm * int(self.normalize_first)


def _check_positive_int(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def _size(
    num_layers: int, hidden_dim: int, num_heads: int, **fields: Any
) -> dict[str, Any]:
    return {
        "vocabulary_size": GPT2_VOCABULARY_SIZE,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        **fields,
    }


def _gpt3(
    num_layers: int, hidden_dim: int, num_heads: int, head_dim: int
) -> dict[str, Any]:
    return _size(
        num_layers,
        hidden_dim,
        num_heads,
        head_dim=head_dim,
        max_sequence_length=2048,
        dropout=0.0,
    )


# GPT-2: Radford et al. 2019, table 2. GPT-1: Radford et al. 2018, section 4.1.
# GPT-3: Brown et al. 2020, table 2.1, as printed: two of its rows (xl and 13b) have
# heads that do not multiply to the hidden width, so `head_dim` stands by itself.
# GPT-3's alternating sparse attention (section 2.1) is dense here.
NAMED_SIZES: dict[str, dict[str, Any]] = {
    # For tests: builds and runs in milliseconds.
    "gpt_nano": _size(
        2, 32, 2, vocabulary_size=512, max_sequence_length=64, dropout=0.0
    ),
    # nanoGPT's Shakespeare recipe for a CPU: characters, no biases, no dropout. At
    # this width 0.02 starts the weights too small: see the README's two results.
    "gpt_char": _size(
        4,
        128,
        4,
        vocabulary_size=65,
        max_sequence_length=64,
        dropout=0.0,
        use_bias=False,
        initializer_stddev=0.06,
    ),
    "gpt1": _size(
        12,
        768,
        12,
        vocabulary_size=GPT1_VOCABULARY_SIZE,
        max_sequence_length=512,
        normalize_first=False,
    ),
    "gpt2_small": _size(12, 768, 12),
    "gpt2_medium": _size(24, 1024, 16),
    "gpt2_large": _size(36, 1280, 20),
    "gpt2_xl": _size(48, 1600, 25),
    "gpt3_small": _gpt3(12, 768, 12, 64),
    "gpt3_medium": _gpt3(24, 1024, 16, 64),
    "gpt3_large": _gpt3(24, 1536, 16, 96),
    "gpt3_xl": _gpt3(24, 2048, 24, 128),
    "gpt3_2.7b": _gpt3(32, 2560, 32, 80),
    "gpt3_6.7b": _gpt3(32, 4096, 32, 128),
    "gpt3_13b": _gpt3(40, 5140, 40, 128),
    "gpt3_175b": _gpt3(96, 12288, 96, 128),
}
