"""TFLite files answer as the models do, from LiteRT's own ops."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM
from keras_gpt.export import ExportError, export_tflite
from keras_gpt.export.litert import convert, tflite, tflite_file
from keras_gpt.export.litert.graphs import LanguageModelGraphs
from keras_gpt.export.litert.network import LiteRTNetwork
from keras_gpt.generation import SETTINGS
from keras_gpt.models import (
    GPTMultipleChoice,
    GPTQuestionAnswering,
    GPTSimilarity,
    GPTTextClassifier,
    GPTTokenClassifier,
)
from keras_gpt.tokenizer import train_tokenizer
from keras_gpt.tools import demo
from keras_gpt.training import pretrain

KNOBS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 2**40 + 3},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": -5},
    {"temperature": 1.5, "typical_p": 0.7, "min_p": 0.01, "seed": 9},
    {
        **{"temperature": 0.7, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        **{"presence_penalty": 0.5, "frequency_penalty": 0.1, "seed": 3},
    },
]


@pytest.fixture(scope="module")
def written(causal_lm, tmp_path_factory):
    """An export of the shared language model, and its report."""
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    return path, export_tflite(causal_lm, path)


def text_inputs(token_ids, *, seed=0, stops=(), **knobs):
    """What `sample` and `generate` take of a text, in a context of 64."""
    tokens = np.zeros([1, 64], np.int32)
    tokens[0, : len(token_ids)] = token_ids
    stop_tokens = np.full([8], -1, np.int32)
    stop_tokens[: len(stops)] = stops
    settings = {
        name: np.array([knobs.get(name, setting.default)]).astype(
            setting.dtype.as_numpy_dtype
        )
        for name, setting in SETTINGS.items()
        if name != "seed"
    }
    return {
        "tokens": tokens,
        "num_tokens": np.array([len(token_ids)], np.int32),
        "stop_tokens": stop_tokens,
        "seed": np.array([seed], np.int64).view(np.int32),
        **settings,
    }


@pytest.fixture(scope="module", params=[True, False], ids=["xnnpack", "own"])
def generate(written, request):
    """Calls the signature `generate`; returns the new ids and the reason's code."""
    interpreter = tflite_file.open_file(written[0], by_xnnpack=request.param)
    signature = interpreter.get_signature_runner("generate")

    def run(token_ids, *, count=None, **kwargs):
        inputs = text_inputs(token_ids, **kwargs)
        if count is not None:
            inputs["num_tokens"][:] = count
        found = signature(**inputs)
        new = found["new_tokens"][: found["num_new_tokens"][0]]
        return new.tolist(), int(found["finish_reason"][0])

    return run


def prompts(size):
    """Twenty prompts, of lengths that fill chunks and do not."""
    random = np.random.default_rng(3)
    lengths = [*(1, 2, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 34, 40, 48, 49, 60), 61, 62]
    return [random.integers(size, size=n).tolist() for n in [*lengths, 63]]


def keras_ids(lm, token_ids, **knobs):
    rows = {"token_ids": [token_ids], "padding_mask": [[1] * len(token_ids)]}
    found = lm.generate(
        rows, max_length=64, stop_token_ids=None, strip_prompt=True, **knobs
    )
    return found["token_ids"][0][found["padding_mask"][0]].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("knobs", KNOBS, ids=["greedy", "seed", "top", "typical", "n"])
def test_generate_draws_the_tokens_of_keras(causal_lm, generate, knobs):
    on_ids = GPTCausalLM(causal_lm.backbone)
    for token_ids in prompts(causal_lm.backbone.vocabulary_size):
        want = keras_ids(on_ids, token_ids, max_new_tokens=20, **knobs)
        assert generate(token_ids, max_new_tokens=20, **knobs)[0] == want


@pytest.fixture(scope="module")
def step_by_step(written):
    """Generates by `prefill_T`, `decode` and `sample`, as `generate` does."""
    network = LiteRTNetwork(written[0])
    interpreter = tflite_file.open_file(written[0])
    sample = interpreter.get_signature_runner("sample")

    def run(token_ids, **kwargs):
        ids, cache, count, reason = list(token_ids), network.empty_cache(), 0, 0
        while not reason:
            logits = network.feed(
                np.array(ids, np.int32), num_cached=count, cache=cache
            )
            count = len(ids)
            found = sample(
                logits=logits[None, None],
                num_prompt_tokens=np.array([len(token_ids)], np.int32),
                **text_inputs(ids, **kwargs),
            )
            reason = int(found["finish_reason"][0])
            log_probs = logits - np.logaddexp.reduce(logits)
            best = np.argsort(-log_probs, kind="stable")[:8]
            np.testing.assert_array_equal(found["top_tokens"], best)
            np.testing.assert_allclose(
                found["top_log_probs"], log_probs[best], atol=1e-4
            )
            if reason in (0, 2):
                ids.append(int(found["token"][0]))
                np.testing.assert_allclose(
                    found["log_prob"][0], log_probs[ids[-1]], atol=1e-4
                )
        return ids[len(token_ids) :], reason

    return run


@pytest.mark.slow
@pytest.mark.parametrize("knobs", KNOBS, ids=["greedy", "seed", "top", "typical", "n"])
def test_prefill_decode_and_sample_draw_the_tokens_of_keras(
    causal_lm, step_by_step, knobs
):
    on_ids = GPTCausalLM(causal_lm.backbone)
    for token_ids in prompts(causal_lm.backbone.vocabulary_size):
        want = keras_ids(on_ids, token_ids, max_new_tokens=20, **knobs)
        assert step_by_step(token_ids, max_new_tokens=20, **knobs)[0] == want


def test_sample_stops_and_refuses(step_by_step, generate, written):
    greedy = {"max_new_tokens": 9, "temperature": 0.0}
    whole, reason = step_by_step([5, 6, 7], **greedy)
    assert (len(whole), reason) == (9, 2)
    stops = [whole[4]]
    cut = step_by_step([5, 6, 7], **greedy, stops=stops)
    assert cut == generate([5, 6, 7], **greedy, stops=stops)
    interpreter = tflite_file.open_file(written[0])
    sample = interpreter.get_signature_runner("sample")
    logits = np.zeros(sample.get_input_details()["logits"]["shape"], np.float32)
    for token_ids, count, knobs, want in [
        ([1, 2, 3], 1, {"max_new_tokens": 2}, 2),  # has all its tokens
        ([1, 2, 3], 4, {}, 4),  # a prompt longer than its text
        ([1, 2, 3], 0, {}, 4),
        ([1, 2, 3], 3, {"top_p": 0.0}, 4),
        ([1] * 64, 63, {}, 2),
        ([1] * 64, 64, {}, 3),
    ]:
        inputs = text_inputs(token_ids, **knobs)
        prompt = np.array([count], np.int32)
        found = sample(logits=logits, num_prompt_tokens=prompt, **inputs)
        assert found["finish_reason"][0] == want
        assert found["token"][0] in (0, 1)
    for count in (-1, 65, 2**31 - 1):
        inputs = {**text_inputs([1]), "num_tokens": np.array([count], np.int32)}
        found = sample(
            logits=logits, num_prompt_tokens=np.array([1], np.int32), **inputs
        )
        assert found["finish_reason"][0] in (2, 4)
    found = sample(
        logits=logits * np.nan,
        num_prompt_tokens=np.array([1], np.int32),
        **text_inputs([1]),
    )
    assert found["finish_reason"][0] == 5


def test_prefill_and_decode_give_the_logits_of_keras(causal_lm, written):
    network = LiteRTNetwork(written[0])
    backbone = causal_lm.backbone
    for token_ids in prompts(backbone.vocabulary_size):
        hidden = backbone.forward(tf.constant([token_ids]), training=False).hidden
        want = backbone.logits(hidden[0, -1:]).numpy()[0]
        cache = network.empty_cache()
        got = network.feed(np.array(token_ids, np.int32), num_cached=0, cache=cache)
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
        # And from the cache of a part of it.
        longer = np.array([*token_ids, 7], np.int32)[:64]
        got = network.feed(longer, num_cached=len(token_ids) - 1, cache=cache)
        hidden = backbone.forward(tf.constant(longer[None]), training=False).hidden
        want = backbone.logits(hidden[0, -1:]).numpy()[0]
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_generate_stops_and_refuses(causal_lm, generate):
    whole, reason = generate([5, 6, 7], max_new_tokens=9, temperature=0.0)
    assert (len(whole), reason) == (9, 2)
    stop = whole[4]
    cut, reason = generate([5, 6, 7], max_new_tokens=9, temperature=0.0, stops=[stop])
    assert (cut, reason) == (whole[: whole.index(stop)], 1)
    assert len(generate([1] * 60, max_new_tokens=9, temperature=0.0)[0]) == 4
    assert generate([1] * 64, max_new_tokens=9) == ([], 3)  # no room
    assert generate([1], max_new_tokens=9, top_p=0.0) == ([], 4)  # out of range
    assert generate([causal_lm.backbone.vocabulary_size], max_new_tokens=9) == ([], 4)
    assert generate([], max_new_tokens=9) == ([], 4)
    for count, reason in [(-1, 4), (65, 3), (2**31 - 1, 3)]:
        assert generate([1], count=count, max_new_tokens=9) == ([], reason)


@pytest.mark.slow
def test_a_file_holds_its_weights_once(tmp_path):
    # Large enough to outweigh the graph.
    backbone = GPTBackbone.from_size(
        "gpt_nano", hidden_dim=512, vocabulary_size=20_000, num_heads=8
    )
    path = tmp_path / "model.tflite"
    report = export_tflite(GPTCausalLM(backbone), path, "int8")
    assert report.num_bytes == path.stat().st_size
    assert 1.0 < report.num_bytes / (report.weight_bytes / 4) < 1.08


@pytest.fixture(scope="module")
def demo_lm(tmp_path_factory):
    """The model of `keras-gpt demo`, trained for a fifth of its time, and its text."""
    folder = tmp_path_factory.mktemp("demo")
    corpus = demo._python_reference(folder / "corpus.txt")
    tokenizer = train_tokenizer([corpus], vocabulary_size=demo.VOCABULARY_SIZE)
    config = demo._config(120, tokenizer.vocabulary_size())
    result = pretrain(
        config, corpus_paths=[corpus], tokenizer=tokenizer, output_dir=folder / "run"
    )
    return result.model, corpus.read_text()[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "share", "most", "tolerance"),
    [
        ("none", 1, 1.08, 1e-4),
        ("float16", 1 / 2, 1.08, 1e-3),
        ("dynamic_int8", 1 / 4, 1.08, 0.02),
        ("int8", 1 / 4, 1.08, 0.02),
        ("int4", 1 / 8 + 1 / 64, 1.1, 0.1),  # half a byte, and two for each 32
    ],
)
def test_perplexity_and_size_of_a_trained_model(
    demo_lm, tmp_path, quantization, share, most, tolerance
):
    lm, text = demo_lm
    path = tmp_path / "model.tflite"
    report = export_tflite(lm, path, quantization, text=text)
    before = report.costs.perplexity_before
    assert before < 200  # of 1,024 tokens: it has learnt something
    assert report.costs.perplexity == pytest.approx(before, rel=tolerance)
    about = tflite_file.about(path)
    assert about["quantization"] == quantization
    assert 1 < report.num_bytes / (share * report.weight_bytes) < most


def test_the_interpreter_runs_graphs_by_xnnpack(written):
    for by_xnnpack in (True, False):
        interpreter = tflite_file.open_file(written[0], by_xnnpack=by_xnnpack)
        interpreter.allocate_tensors()
        names = {op["op_name"] for op in interpreter._get_ops_details()}
        assert ("DELEGATE" in names) == by_xnnpack


def test_ops_are_builtin_and_about_tells_the_tokenizer(causal_lm, written):
    ops = tflite_file.ops_of(written[0].read_bytes())
    assert {"EMBEDDING_LOOKUP", "DYNAMIC_UPDATE_SLICE", "FULLY_CONNECTED"} <= ops
    assert not any(op.startswith("custom") for op in ops)
    about = tflite_file.about(written[0])
    assert about["prefill_lengths"] == [16, 32]
    assert len(about["tokenizer"]["sha256"]) == 64


def test_an_adapter_is_written_merged(causal_lm, tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=64)
    backbone.enable_lora(2)
    for weight in backbone.trainable_weights:
        weight.assign(keras.random.normal(weight.shape, seed=1))
    report = export_tflite(GPTCausalLM(backbone), tmp_path / "model.tflite")
    assert report.costs.largest_error < 1e-4 * report.costs.largest_output
    assert backbone.adapters.active == "default"


@pytest.mark.parametrize(
    "fields",
    [
        {"normalize_first": False, "use_bias": False, "activation": "silu"},
        {"tie_embeddings": False, "activation": "gelu"},
        {"scale_attention_by_inverse_layer": True, "activation": "relu"},
    ],
)
def test_networks_of_other_kinds(tmp_path, fields):
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=64, max_sequence_length=30, **fields
    )
    report = export_tflite(GPTCausalLM(backbone), tmp_path / "model.tflite")
    assert report.costs.largest_error < 1e-4 * report.costs.largest_output


def test_perplexity_of_a_text(causal_lm, tmp_path):
    text = "The king is dead, long live the king!"
    report = export_tflite(
        *(causal_lm, tmp_path / "model.tflite", "dynamic_int8"), text=text
    )
    token_ids = causal_lm.preprocessor.tokenizer.tokenize(text).numpy()
    backbone = causal_lm.backbone
    hidden = backbone.forward(tf.constant(token_ids[None]), training=False).hidden
    losses = keras.losses.sparse_categorical_crossentropy(
        token_ids[1:], backbone.logits(hidden)[0, :-1], from_logits=True
    )
    want = np.exp(np.mean(losses))
    assert report.costs.perplexity_before == pytest.approx(want, rel=1e-4)
    assert report.costs.perplexity == pytest.approx(
        report.costs.perplexity_before, rel=0.05
    )


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize(
    "make",
    [
        lambda backbone: GPTTextClassifier(backbone, num_classes=3),
        lambda backbone: GPTTextClassifier(backbone, num_classes=3, multi_label=True),
        lambda backbone: GPTTextClassifier(backbone, num_classes=1),
        lambda backbone: GPTSimilarity(backbone, num_classes=1),
        lambda backbone: GPTMultipleChoice(backbone),
        lambda backbone: GPTTokenClassifier(backbone, num_classes=4),
        lambda backbone: GPTQuestionAnswering(backbone),
    ],
)
def test_heads(causal_lm, tmp_path, make, quantization):
    task, path = make(causal_lm.backbone), tmp_path / "head.tflite"
    report = export_tflite(task, path, quantization, context_length=32)
    most = {"none": 1e-4, "int8": 0.3}[quantization]  # of a random network
    assert report.costs.largest_error < most * report.costs.largest_output


def test_scores_of_choices_are_those_of_a_row(causal_lm, tmp_path):
    task, path = GPTMultipleChoice(causal_lm.backbone), tmp_path / "head.tflite"
    export_tflite(task, path, context_length=16)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 17, size=(1, 3, 1))
    row = {
        "token_ids": rng.integers(causal_lm.backbone.vocabulary_size, size=(1, 3, 16)),
        "padding_mask": np.arange(16) < lengths,
    }
    row = {name: ids.astype(np.int32) for name, ids in row.items()}
    choose = tflite_file.open_file(path).get_signature_runner("choose")
    scores = [
        choose(**{name: ids[:, [number]] for name, ids in row.items()})["score"][0]
        for number in range(3)
    ]
    np.testing.assert_allclose(scores, task(row)[0], rtol=1e-4)


def test_bad_arguments(causal_lm, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    half = GPTBackbone.from_size("gpt_nano", vocabulary_size=64, dtype="bfloat16")
    integers = GPTBackbone.from_size("gpt_nano", vocabulary_size=64)
    integers.quantize("int8")
    for arguments, message in [
        (dict(quantization="int3"), "quantization must be of none, float16"),
        (dict(context_length=65), r"context_length must be an integer in \[2, 64\]"),
        (dict(prefill_lengths=[]), "prefill_lengths must rise"),
        (dict(prefill_lengths=[16, 24]), "prefill_lengths must rise"),
        (dict(prefill_lengths=[3]), "prefill_lengths must rise"),
        (dict(prefill_lengths=16), "prefill_lengths must rise"),
        (dict(prefill_lengths=[16.0]), "prefill_lengths must rise"),
        (dict(context_length=True), "context_length must be an integer"),
        (dict(task=causal_lm.backbone), "task must be of GPTCausalLM.*GPTBackbone"),
        (dict(text=""), "text must have two tokens"),
        (dict(task=GPTCausalLM(half)), "task must compute in float32"),
        (dict(task=GPTCausalLM(integers)), "task must not be quantized by Keras"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_tflite(**{"task": causal_lm, "path": path, **arguments})
    monkeypatch.setattr(convert, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="weights must have at most 1,000 bytes"):
        export_tflite(causal_lm, path)
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="path must be new"):
        export_tflite(causal_lm, path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["ai_edge_litert.interpreter", "ai_edge_quantizer"])
def test_without_litert_the_message_tells_what_to_install(
    causal_lm, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'keras-gpt\[litert\]'"):
        export_tflite(causal_lm, tmp_path / "model.tflite", "int8")
    assert not list(tmp_path.iterdir())


def test_an_op_that_litert_lacks_is_named(tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=64)
    backbone.transformer_layers[1].mlp.activation = tf.math.erfinv
    with pytest.raises(ExportError, match="Erfinv in .*transformer_layer_1.*mlp"):
        export_tflite(GPTCausalLM(backbone), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_is_not_written(causal_lm, tmp_path, monkeypatch):
    monkeypatch.setitem(tflite.TOLERANCES, "none", 1e-12)
    with pytest.raises(ExportError, match="outputs must be within 1e-12"):
        export_tflite(causal_lm, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["_prefill", "_decode", "_sample", "_generate"])
def test_each_signature_is_run(causal_lm, tmp_path, monkeypatch, name):
    right = getattr(LanguageModelGraphs, name)

    def wrong(self, *args, **kwargs):
        found = right(self, *args, **kwargs)
        return {key: x + tf.ones([], x.dtype) for key, x in found.items()}

    monkeypatch.setattr(LanguageModelGraphs, name, wrong)
    with pytest.raises(ExportError, match="must (be within|take the likeliest)"):
        export_tflite(causal_lm, tmp_path / "model.tflite", text="The king is dead.")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers(tmp_path):
    backbone = GPTBackbone.from_size("gpt_nano", vocabulary_size=64)
    backbone.weights[0].assign(backbone.weights[0] * np.nan)
    with pytest.raises(ValueError, match="weights must be finite"):
        export_tflite(GPTCausalLM(backbone), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_integers_of_numpy(causal_lm, tmp_path):
    path = tmp_path / "model.tflite"
    export_tflite(
        *(causal_lm, path),
        context_length=np.int64(32),
        prefill_lengths=np.array([8, 16]),
    )
    about = tflite_file.about(path)
    assert (about["context_length"], about["prefill_lengths"]) == (32, [8, 16])


def test_a_file_of_others(tmp_path):
    double = tf.function(
        lambda x: 2.0 * x, input_signature=[tf.TensorSpec([1], tf.float32)]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [double.get_concrete_function()]
    )
    (tmp_path / "other.tflite").write_bytes(converter.convert())
    with pytest.raises(ValueError, match="path must be a file of export_tflite"):
        LiteRTNetwork(tmp_path / "other.tflite")


def test_files_that_are_none(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be a TFLite file"):
        LiteRTNetwork(tmp_path / "absent")
    data = written[0].read_bytes()
    for part in (data[: len(data) // 2], b"", b"no model at all, but some bytes"):
        (tmp_path / "part").write_bytes(part)
        with pytest.raises(ValueError, match="path must be a whole TFLite file"):
            LiteRTNetwork(tmp_path / "part")
