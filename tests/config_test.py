"""GPTConfig: published sizes and counts, and what it refuses."""

import dataclasses

import pytest

from keras_gpt.config import ACTIVATIONS, NAMED_SIZES, GPTConfig

# Brown et al. 2020, table 2.1: layers, width, heads, head size.
GPT3_TABLE = {
    "gpt3_small": (12, 768, 12, 64),
    "gpt3_medium": (24, 1024, 16, 64),
    "gpt3_large": (24, 1536, 16, 96),
    "gpt3_xl": (24, 2048, 24, 128),
    "gpt3_2.7b": (32, 2560, 32, 80),
    "gpt3_6.7b": (32, 4096, 32, 128),
    "gpt3_13b": (40, 5140, 40, 128),
    "gpt3_175b": (96, 12288, 96, 128),
}

SMALL = {"vocabulary_size": 11, "num_layers": 2, "num_heads": 3, "hidden_dim": 12}


def _counted(config: GPTConfig) -> int:
    """Sums the weights' shapes one by one."""
    vocabulary, hidden = config.vocabulary_size, config.hidden_dim
    heads, inner = config.num_heads * config.head_dim, config.intermediate_dim
    kernels = [(hidden, heads)] * 3 + [(heads, hidden), (hidden, inner)]
    kernels.append((inner, hidden))
    block = sum(rows * columns for rows, columns in kernels) + 2 * hidden
    if config.use_bias:
        block += sum(columns for _, columns in kernels) + 2 * hidden
    total = config.num_layers * block
    total += (vocabulary + config.max_sequence_length) * hidden
    total += 0 if config.tie_embeddings else hidden * vocabulary
    final_norm = hidden * (2 if config.use_bias else 1)
    return total + (final_norm if config.normalize_first else 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2_small", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
        ("gpt1", 116_534_784),
        ("gpt_char", 804_096),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(name, expected):
    assert GPTConfig.named(name).num_parameters == expected


@pytest.mark.parametrize("name", GPT3_TABLE)
def test_gpt3_sizes_are_the_papers_table(name):
    config = GPTConfig.named(name)
    row = (config.num_layers, config.hidden_dim, config.num_heads, config.head_dim)
    assert row == GPT3_TABLE[name]
    assert config.intermediate_dim == 4 * config.hidden_dim
    assert config.max_sequence_length == 2048
    assert config.vocabulary_size == 50257


def test_gpt3_has_eight_sizes_and_its_largest_175_billion_parameters():
    assert sum(name.startswith("gpt3_") for name in NAMED_SIZES) == 8
    largest = GPTConfig.named("gpt3_175b").num_parameters
    assert largest == pytest.approx(175e9, rel=0.005)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("normalize_first", [True, False])
@pytest.mark.parametrize("head_dim", [None, 5])
def test_parameters_are_counted_for_every_switch(
    use_bias, tie_embeddings, normalize_first, head_dim
):
    config = GPTConfig(
        **SMALL,
        use_bias=use_bias,
        tie_embeddings=tie_embeddings,
        normalize_first=normalize_first,
        head_dim=head_dim,
        intermediate_dim=7,
        max_sequence_length=9,
    )
    assert config.num_parameters == _counted(config)


def test_derived_fields():
    config = GPTConfig(**SMALL)
    assert (config.head_dim, config.intermediate_dim) == (4, 48)
    assert config.attention_dim == 12
    assert GPTConfig(**SMALL, head_dim=5).attention_dim == 15


def test_gpt1_is_post_norm_and_gpt2_pre_norm():
    gpt1, gpt2 = GPTConfig.named("gpt1"), GPTConfig.named("gpt2_small")
    assert (gpt1.normalize_first, gpt1.max_sequence_length) == (False, 512)
    assert (gpt2.normalize_first, gpt2.max_sequence_length) == (True, 1024)


def test_named_takes_overrides():
    config = GPTConfig.named("gpt2_small", vocabulary_size=8000, dropout=0.0)
    assert (config.vocabulary_size, config.dropout) == (8000, 0.0)
    assert config.num_parameters == 124_439_808 - (50257 - 8000) * 768


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_dict_round_trip(name):
    config = GPTConfig.named(name)
    assert GPTConfig.from_dict(config.to_dict()) == config


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig(**SMALL).hidden_dim = 8


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_accepted(activation):
    assert GPTConfig(**SMALL, activation=activation).activation == activation


@pytest.mark.parametrize("dropout", [0.0, 0.999])
def test_dropout_accepts_its_edges(dropout):
    assert GPTConfig(**SMALL, dropout=dropout).dropout == dropout


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_dim": 100, "num_heads": 12},
            "hidden_dim must be divisible by num_heads (or head_dim given), "
            "got 100 and 12.",
        ),
        ({"num_layers": 0}, "num_layers must be a positive integer, got 0."),
        ({"hidden_dim": -4}, "hidden_dim must be a positive integer, got -4."),
        ({"num_heads": 2.0}, "num_heads must be a positive integer, got 2.0."),
        ({"head_dim": 0}, "head_dim must be a positive integer, got 0."),
        (
            {"intermediate_dim": -1},
            "intermediate_dim must be a positive integer, got -1.",
        ),
        (
            {"vocabulary_size": True},
            "vocabulary_size must be a positive integer, got True.",
        ),
        (
            {"max_sequence_length": "64"},
            "max_sequence_length must be a positive integer, got '64'.",
        ),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0."),
        ({"dropout": -0.1}, "dropout must be in [0, 1), got -0.1."),
        ({"dropout": float("nan")}, "dropout must be in [0, 1), got nan."),
        (
            {"layer_norm_epsilon": 0.0},
            "layer_norm_epsilon must be positive, got 0.0.",
        ),
        (
            {"activation": "swish"},
            "activation must be one of gelu_approximate, gelu, relu, silu, "
            "got 'swish'.",
        ),
    ],
)
def test_errors_name_argument_rule_and_value(fields, message):
    with pytest.raises(ValueError) as error:
        GPTConfig(**{**SMALL, **fields})
    assert str(error.value) == message


def test_unknown_and_missing_fields_fail():
    with pytest.raises(ValueError, match="^GPTConfig has no field depth, width.$"):
        GPTConfig.from_dict({**SMALL, "width": 1, "depth": 2})
    with pytest.raises(ValueError, match="^GPTConfig needs the field num_layers.$"):
        GPTConfig.from_dict({k: v for k, v in SMALL.items() if k != "num_layers"})


def test_unknown_size_fails_with_the_known_ones():
    with pytest.raises(ValueError, match="gpt2_small.*got 'gpt5'"):
        GPTConfig.named("gpt5")
