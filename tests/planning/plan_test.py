"""Plans: published runs, what fits, and what is refused."""

import dataclasses
import json
import re

import pytest

from keras_gpt import GPTConfig
from keras_gpt.planning import (
    PlanSettings,
    describe_model,
    describe_plan,
    fit_vocabulary,
    make_plan,
)
from keras_gpt.planning.plan import least_split
from keras_gpt.planning.text import amount, duration, table

SMALL = GPTConfig(vocabulary_size=96, num_layers=3, num_heads=4, hidden_dim=32)
# Brown et al. 2020, table 2.1, in millions; without its 1.3B, whose printed heads do
# not multiply to its width.
GPT3_MILLIONS = {
    "gpt3_small": 125,
    "gpt3_medium": 350,
    "gpt3_large": 760,
    "gpt3_2.7b": 2_700,
    "gpt3_6.7b": 6_700,
    "gpt3_13b": 13_000,
    "gpt3_175b": 175_000,
}


def plan_of(name, mesh, **settings):
    config = fit_vocabulary(GPTConfig.named(name), mesh)
    return make_plan(PlanSettings(model=config, mesh=mesh, **settings))


def test_gpt3s_time_on_1024_devices_is_megatrons():
    # Narayanan et al. 2021, section 5.1: 300e9 tokens, 1024 A100s at 140 TFLOPS each,
    # batch 1536: 34 days, by 8 T P / (n X).
    plan = plan_of(
        "gpt3_175b",
        {"batch": 128, "model": 8},
        batch_size=1536,
        accumulate=12,
        dtype_policy="mixed_bfloat16",
        device_tflops=140.0,
        utilization=1.0,
        remat=True,
    )
    computing = plan.duration.steps * plan.duration.compute_seconds / 86400
    assert computing == pytest.approx(34, rel=0.03)
    assert plan.duration.model_utilization == pytest.approx(0.75, abs=0.01)
    # Brown et al. 2020, table D.1; attention's own products are 3 % more.
    assert plan.flops.run_by_parameters == pytest.approx(3.14e23, rel=2e-3)
    assert plan.flops.run == pytest.approx(1.03 * 3.14e23, rel=2e-3)


@pytest.mark.parametrize("name", GPT3_MILLIONS)
def test_gpt3s_parameters_are_its_tables(name):
    plan = plan_of(name, {})
    total = plan.parameters.total
    assert total == pytest.approx(GPT3_MILLIONS[name] * 1e6, rel=0.025)
    parts = plan.parameters
    layers = plan.settings.model.num_layers
    assert parts.embedding + layers * parts.block + parts.final_norm == total
    assert parts.embedding == (50257 + 2048) * plan.settings.model.hidden_dim


def test_defaults_are_one_window_a_device_of_the_whole_context():
    settings = PlanSettings(model=SMALL, mesh={"batch": 3, "model": 2}, accumulate=5)
    assert (settings.batch_size, settings.context_length) == (15, 1024)
    assert (settings.num_devices, settings.device_batch_size) == (6, 1)
    assert settings.device_tflops == 19.5
    mixed = PlanSettings(model=SMALL, dtype_policy="mixed_bfloat16")
    assert mixed.device_tflops == 312


def test_memory_is_the_sum_and_names_its_largest_part():
    plan = make_plan(PlanSettings(model=SMALL, batch_size=64, context_length=512))
    memory = plan.memory
    assert memory.total == sum(memory) and memory.largest == "activations"
    assert memory.weights == memory.gradients == 4 * SMALL.num_parameters
    assert plan.memory_with_remat.activations < memory.activations / 2
    assert plan.needed == memory
    saving = make_plan(dataclasses.replace(plan.settings, remat=True))
    assert saving.needed == plan.memory_with_remat
    assert saving.duration.compute_seconds > plan.duration.compute_seconds


def test_whether_it_fits_is_said_with_what_would():
    settings = PlanSettings(
        model=SMALL, batch_size=8, context_length=64, device_memory_gb=0.1
    )
    plan = make_plan(settings)
    assert plan.fits and "It fits: without remat" in describe_plan(plan, name="small")
    halves = make_plan(dataclasses.replace(settings, mesh={"model": 2}))
    memory = (halves.needed.total + 1) / 1e9
    small = dataclasses.replace(settings, device_memory_gb=memory)
    plan = make_plan(small)
    assert not plan.fits and least_split(plan) == (2, False, 96)
    text = describe_plan(plan, name="small")
    assert "IT DOES NOT FIT" in text and "--mesh=batch:1,model:2." in text
    assert "Largest part: activations" in text
    odd = dataclasses.replace(SMALL, vocabulary_size=95)
    text = describe_plan(make_plan(dataclasses.replace(small, model=odd)), name="odd")
    assert "--mesh=batch:1,model:2, 96 tokens in the vocabulary." in text
    tiny = make_plan(dataclasses.replace(settings, device_memory_gb=1e-6))
    assert least_split(tiny) is None
    assert "No split of the weights alone" in describe_plan(tiny, name="small")


def test_the_plan_is_plain_data():
    plan = make_plan(PlanSettings(model=SMALL, mesh={"batch": 2}))
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["settings"]["model"] == SMALL.to_dict()
    assert content["memory"]["total"] == plan.memory.total
    assert content["traffic"]["total"] == plan.traffic.total > 0
    assert content["fits"] is True and content["largest"] == "activations"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh": {"model": 3}}, "num_heads must be divisible by the mesh's model"),
        ({"mesh": {"batch": 2}, "batch_size": 5}, "batch_size must be divisible"),
        ({"accumulate": 3, "batch_size": 4}, "got 4 and 1 x 3."),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"accumulate": -1}, "accumulate must be a positive integer, got -1"),
        ({"context_length": 1025}, "context_length must be at most the model's 1024"),
        ({"context_length": True}, "context_length must be a positive integer"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adafactor, got 'sgd'"),
        ({"dtype_policy": "float16"}, "dtype_policy must be one of float32, mixed"),
        ({"tokens": 0.0}, "tokens must be positive and finite, got 0.0"),
        ({"device_tflops": float("inf")}, "device_tflops must be positive and finite"),
        ({"device_memory_gb": float("nan")}, "device_memory_gb must be positive"),
        ({"bandwidth_gbps": -1.0}, "bandwidth_gbps must be positive and finite"),
        ({"utilization": 1.5}, "utilization must be in (0, 1], got 1.5"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PlanSettings(model=SMALL, **fields)


def test_a_model_is_described_with_its_weights():
    text = describe_model(SMALL, name="small")
    assert f"Model small: {SMALL.num_parameters:,} parameters" in text
    kernel = r"transformer_layer_\{0\.\.2\}/mlp/expand/kernel +32 x 128 +12,288\n"
    assert re.search(kernel, text)
    shown = re.findall(r"/\w+ +\d[\dx ]* +([\d,]+)$", text, re.MULTILINE)
    sizes = [int(number.replace(",", "")) for number in shown]
    assert sum(sizes) == SMALL.num_parameters


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1.5e3, "1.50 kB"), (80e9, "80.0 GB")]
    + [(3.49e14, "349 TB"), (1.2345e26, "123 YB")],
)
def test_amounts_have_three_digits(value, text):
    assert amount(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01234, "0.0123 seconds"), (90, "90.0 seconds"), (150, "2.50 minutes")]
    + [(34 * 86400, "34.0 days"), (1e10, "317 years")],
)
def test_times_have_a_unit_that_tells_something(seconds, text):
    assert duration(seconds) == text


def test_tables_are_aligned():
    assert table([["a", "1"], ["long", "22", "x"]]) == "  a      1\n  long  22  x"
