"""`keras-gpt benchmark decode`: its sides on tiny models, and its arithmetic."""

import json
import subprocess
import sys

import pytest

from keras_gpt.config import GPTConfig
from keras_gpt.tools import cli
from keras_gpt.tools.benchmarks import (
    decode,
    decode_prompts,
    decode_sides,
    devices,
)

MODEL = {"size": "gpt_nano"}
CONFIG = GPTConfig.named("gpt_nano")


@pytest.fixture(scope="module")
def made_tokenizer():
    return decode_prompts.made_tokenizer(CONFIG.vocabulary_size)


@pytest.fixture(scope="module")
def job(made_tokenizer, tmp_path_factory):
    """Two rows of 8 tokens, 6 new ones, and one timed call."""
    folder = tmp_path_factory.mktemp("decode")
    made_tokenizer.save_files(folder)
    return {
        "model": MODEL,
        "config": CONFIG.to_dict(),
        "folder": str(folder),
        "prompts": decode_prompts.plain_prompts(made_tokenizer, 2, num_tokens=8),
        "prompt_tokens": 8,
        "new_tokens": 6,
        "seconds": 0.0,
    }


def test_the_made_tokenizer_has_as_many_tokens_as_the_model(made_tokenizer):
    assert made_tokenizer.vocabulary_size() == CONFIG.vocabulary_size
    assert made_tokenizer.end_token_id is None
    text = "caf\u00e9 !\u4e2d\n"
    assert made_tokenizer.detokenize(made_tokenizer.tokenize(text)) == text.encode()


def test_a_tokenizer_loses_its_end_token_alone(tokenizer):
    endless = decode_prompts.without_end_token(tokenizer)
    assert tokenizer.end_token_id is not None and endless.end_token_id is None
    assert endless.vocabulary_size() == tokenizer.vocabulary_size()
    text = "The king's men <|endoftext|>"
    assert endless.tokenize(text).numpy().tolist() == (
        tokenizer.tokenize(text).numpy().tolist()
    )


@pytest.mark.parametrize("num_tokens", [1, 8, 33])
def test_prompts_have_exactly_their_tokens(tokenizer, made_tokenizer, num_tokens):
    for one in (tokenizer, made_tokenizer):
        plain = decode_prompts.plain_prompts(one, 3, num_tokens=num_tokens)
        again = decode_prompts.repeating_prompts(one, 3, num_tokens=num_tokens)
        lengths = one.tokenize(plain + again).row_lengths().numpy()
        assert lengths.tolist() == [num_tokens] * 6
    assert len(set(plain)) == 3 or num_tokens == 1


def test_prompts_hold_words_before_they_are_filled(made_tokenizer):
    words = ["a", "bcd", "efghij"]  # with their spaces, 2, 4 and 7 bytes
    assert decode_prompts.make_prompt(made_tokenizer, words, num_tokens=9) == (
        " a bcd1a1"
    )


def test_the_python_side_is_measured(job):
    result = decode_sides.measure("python", job)
    assert result["tokens_per_second"] > 0 and result["first_token_seconds"] > 0
    assert result["peak_megabytes"] >= result["beyond_import_megabytes"] >= 0


def test_the_kerashub_side_makes_as_many_tokens(job):
    generate = decode_sides._kerashub(job, jit_compile=False)
    assert [generate(count) for count in (1, 6)] == [1, 6]


@pytest.mark.slow
def test_the_saved_model_side_has_tensorflow_alone(job):
    decode_sides.export(job)
    _, generate = decode_sides._load_saved_model(job)
    assert [generate(count) for count in (1, 6)] == [1, 6]
    script = [sys.executable, "-X", "importtime", "-P", decode_sides.__file__]
    process = subprocess.run(
        [*script, "saved_model"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout)["tokens_per_second"] > 0
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert "tensorflow.python.framework.ops" in imported
    assert not {"keras_gpt", "keras_nlp", "keras_hub", "tensorflow_text"} & imported


@pytest.mark.slow
@pytest.mark.parametrize("side", ["transformers", "ctranslate2"])
def test_the_sides_of_optional_peers_run(job, side):
    for module in decode.NEEDS[side]:
        pytest.importorskip(module)
    if side == "ctranslate2":
        decode.in_own_process("convert", job)
    assert decode.in_own_process(side, job)["tokens_per_second"] > 0


def test_a_count_that_is_wrong_fails():
    with pytest.raises(RuntimeError, match="must get 6 new tokens, got 5"):
        decode_sides._check_count(5, 6)


def test_a_process_that_fails_is_one_line():
    with pytest.raises(RuntimeError, match="of nonsense failed: KeyError: 'nonsense'"):
        decode.in_own_process("nonsense", {})


class Clock:
    """Stands for `time` in the sides: `perf_counter` is what was added."""

    now = 0.0

    def perf_counter(self):
        return self.now


class TimedModel:
    """Stands for a `GPTCausalLM` whose calls take a known time.

    A prompt of n letters takes n seconds, and each new token n / 10; with drafts the
    new tokens take a third of that.
    """

    def __init__(self, clock):
        self.clock = clock

    def generate(self, prompts, max_new_tokens, draft=None, return_details=False, **_):
        size = len(prompts[0])
        self.clock.now += size + max_new_tokens * size / (30 if draft else 10)
        texts = [prompt + "." * max_new_tokens for prompt in prompts]
        details = type("Details", (), {"acceptance_rate": 0.8})
        return details if return_details else texts


@pytest.fixture
def timed_model(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(decode_sides, "time", clock)
    model = TimedModel(clock)
    monkeypatch.setattr(decode_sides, "_language_model", lambda job: model)
    return model


def test_token_times_leave_the_prompt_out(timed_model):
    job = {"prompts": ["a" * 10, "a" * 40], "new_tokens": 32}
    assert decode_sides.token_times(job) == pytest.approx([1.0, 4.0])


def test_speculation_is_compared_with_plain_decoding(timed_model):
    job = {"prompts": ["a" * 10] * 2, "new_tokens": 60}
    result = decode_sides.speculation(job)
    assert result["tokens_per_second"] == {
        "plain": pytest.approx(2 * 60 / 70),
        "prompt_lookup": pytest.approx(2 * 60 / 30),
    }
    assert result["ratio"] == pytest.approx(70 / 30)
    assert result["acceptance_rate"] == 0.8 and result["same_text"] is True


def test_speculation_gives_the_same_text(job, made_tokenizer):
    prompts = decode_prompts.repeating_prompts(made_tokenizer, 2, num_tokens=30)
    result = decode_sides.speculation({**job, "prompts": prompts, "new_tokens": 16})
    assert result["same_text"] is True
    assert 0 < result["acceptance_rate"] <= 1


def test_speed_counts_whole_calls_after_the_first(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(decode_sides, "time", clock)
    costs = iter([100.0, 2.0, 2.0, 2.0])

    def generate(count):
        clock.now += next(costs)
        return count

    job = {"prompts": ["a"] * 3, "new_tokens": 10, "seconds": 5.0}
    assert decode_sides._tokens_per_second(generate, job) == pytest.approx(3 * 10 / 2)


def test_memory_is_that_of_the_process_itself():
    """A child of a large process does not begin with that one's peak."""
    held = bytearray(b"x") * 500_000_000
    code = (
        "import runpy, sys; side = runpy.run_path(sys.argv[1]); "
        "print(*side['memory_megabytes']())"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", code, decode_sides.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    now, peak = map(float, process.stdout.split())
    assert 1 < now <= peak < len(held) / 1e6


def test_ratios_are_of_paired_rounds():
    speeds = {
        "saved_model": [10.0, 30.0, 20.0],
        "python": [5.0, 20.0, 20.0],
        "kerashub_jit": [5.0, 10.0, 40.0],
        "kerashub_no_jit": [4.0, 12.0, 10.0],
    }
    rounds = {
        side: [{"tokens_per_second": value} for value in values]
        for side, values in speeds.items()
    }
    result = decode.summary(rounds)
    assert result["ratios"] == {
        "saved_model": {"kerashub_jit": 2.0, "kerashub_no_jit": 2.5},
        "python": {"kerashub_jit": 1.0, "kerashub_no_jit": pytest.approx(5 / 3)},
    }
    assert result["medians"]["saved_model"] == {"tokens_per_second": 20.0}
    # 10 against 10: the first of equals; then the faster one.
    assert result["kerashub_better_mode"] == "kerashub_jit"
    rounds["kerashub_no_jit"][0] = {"tokens_per_second": 11.0}
    assert decode.summary(rounds)["kerashub_better_mode"] == "kerashub_no_jit"


def test_the_ratio_of_positions_is_of_paired_rounds():
    result = decode.position_summary([[1.0, 1.5], [2.0, 2.0], [1.0, 1.2]])
    assert result["seconds_per_token"] == {"100": 1.0, "1000": 1.5}
    assert result["ratio"] == 1.2


def test_speculation_is_the_same_text_only_if_it_always_was():
    one = {
        "tokens_per_second": {"plain": 10.0, "prompt_lookup": 20.0},
        "ratio": 2.0,
        "acceptance_rate": None,
        "same_text": True,
    }
    other = {**one, "ratio": 3.0, "acceptance_rate": 0.5, "same_text": False}
    assert decode.speculation_summary([one])["acceptance_rate"] is None
    result = decode.speculation_summary([one, other])
    assert (result["ratio"], result["acceptance_rate"]) == (2.5, 0.5)
    assert result["same_text"] is False


def test_needed_memory_is_weights_and_cache():
    config = GPTConfig.named("gpt2_small")
    weights = 4 * 124_439_808
    cache = 4 * 2 * 12 * 768 * 8 * 96  # keys and values, layers, width, rows, places
    assert decode.needed_megabytes(config, batch=8) == (weights + cache) / 1e6


def install(monkeypatch, *modules):
    monkeypatch.setattr(
        decode.importlib.util, "find_spec", lambda name: name in modules or None
    )


def test_absent_peers_are_named(monkeypatch, capsys):
    install(monkeypatch, "keras_hub", "torch")
    ours_and_kerashub = [
        *("saved_model", "python", "kerashub_jit", "kerashub_no_jit")
    ]  # fmt: skip
    assert decode.present_sides(decode.SIDES) == ours_and_kerashub
    assert capsys.readouterr().out.splitlines() == [
        "decode: transformers, torch eager: not installed (pip install transformers), "
        "left out",
        "decode: CTranslate2: not installed (pip install ctranslate2 transformers), "
        "left out",
    ]


def test_present_peers_are_all_measured(monkeypatch, capsys):
    install(monkeypatch, "keras_hub", "torch", "transformers", "ctranslate2")
    assert decode.present_sides(decode.SIDES) == list(decode.SIDES)
    every = {*decode.SIDES, *devices.SHORT, *devices.LONG}
    assert every == set(decode_sides.SIDES)
    assert capsys.readouterr().out == ""


def test_sides_are_measured_in_turn(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(work, job):
        asked.append((work, len(job["prompts"])))
        return {
            "tokens_per_second": 20.0 if work == "saved_model" else 10.0,
            "first_token_seconds": 0.05,
            "peak_megabytes": 900.0,
            "beyond_import_megabytes": 400.0,
        }

    monkeypatch.setattr(decode, "in_own_process", measured)
    monkeypatch.setattr(decode, "MODEL", MODEL)
    install(monkeypatch, "torch", "transformers")
    result = tmp_path / "result.json"
    arguments = ["--part=peers", "--rounds=2", f"--json={result}"]
    assert cli.main(["benchmark", "decode", *arguments]) == 0
    in_turn = ["saved_model", "python", "transformers"] * 2
    assert asked == [("export", 1)] + [
        (side, batch) for batch in (1, 8) for side in in_turn
    ]
    output = capsys.readouterr().out
    assert "CTranslate2: not installed" in output and "2.00x       1.00x" in output
    peers = json.loads(result.read_text())["decode"]["peers"]
    ratios = {"saved_model": {"transformers": 2.0}, "python": {"transformers": 1.0}}
    assert peers["batch_1"]["ratios"] == peers["batch_8"]["ratios"] == ratios


def test_the_parts_beside_ourselves_are_printed(monkeypatch, capsys):
    asked = []

    def measured(work, job):
        asked.append((work, len(job["prompts"]), job["new_tokens"]))
        if work == "token_times":
            return [0.040, 0.050]
        return {
            "tokens_per_second": {"plain": 10.0, "prompt_lookup": 30.0},
            "ratio": 3.0,
            "acceptance_rate": 0.9,
            "same_text": True,
        }

    monkeypatch.setattr(decode, "in_own_process", measured)
    for part in ("position", "speculation"):
        arguments = [f"--part={part}", "--rounds=1"]
        assert cli.main(["benchmark", "decode", *arguments]) == 0
    assert asked == [
        ("token_times", 2, 32), ("speculation", 1, 64), ("speculation", 8, 64)
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "at 1000     50.0 ms   1.25x" in output
    assert "3.00x   90% of drafts accepted, same text: yes" in output


def test_vocabulary_and_merges_go_together(capsys):
    assert cli.main(["benchmark", "decode", "--vocabulary=vocab.json"]) == 2
    assert "vocabulary and merges must be given together" in capsys.readouterr().err


@pytest.mark.slow
def test_the_sides_of_litert_make_as_many_tokens(job, made_tokenizer):
    prompts = decode_prompts.plain_prompts(made_tokenizer, 1, num_tokens=8)
    job = {**job, "prompts": prompts}
    decode.in_own_process("export_tflite", job)
    for side in ("litert", "litert_int8", "litert_loop"):
        _, build = decode_sides.SIDES[side]
        generate = build(job)
        assert [generate(count) for count in (1, 6)] == [1, 6]


def test_devices_are_compared_in_turn(monkeypatch, capsys):
    asked = []

    def measured(work, job):
        asked.append((work, job["prompt_tokens"]))
        return {
            "tokens_per_second": 30.0 if work == "litert_int8" else 10.0,
            "first_token_seconds": 0.05,
            "peak_megabytes": 900.0,
            "beyond_import_megabytes": 400.0,
        }

    monkeypatch.setattr(decode, "in_own_process", measured)
    monkeypatch.setattr(decode, "MODEL", MODEL)
    install(
        *(monkeypatch, "torch", "transformers", "ctranslate2"),
        *("ai_edge_litert", "ai_edge_quantizer"),
    )
    assert cli.main(["benchmark", "devices", "--rounds=1"]) == 0
    assert asked == [
        *((work, 32) for work in ("export", "export_tflite", "convert")),
        *((side, 32) for side in devices.SHORT),
        *((side, 512) for side in devices.LONG),
    ]
    assert "LiteRT int8    generate" in capsys.readouterr().out
