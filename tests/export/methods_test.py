"""Methods fixed at export: beams, contrastive search, drafts, own processors."""

import types

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTCausalLM
from keras_gpt.export import export_saved_model
from keras_gpt.export.run_saved_model import signature_defaults
from keras_gpt.export.served_options import served_options

TEXTS = ["The king", "O my lord", ""]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"num_beams": 2, "early_stopping": True, "repetition_penalty": 1.5},
    ],
    ids=["beams", "groups", "early"],
)
def test_beams_are_those_of_python(build, call, causal_lm, options):
    options = {"max_new_tokens": 9, **options}
    made = build(**options)
    assert "prefill" not in made  # a search has no stream
    result = call("generate", _signatures=made, text=TEXTS)
    details = causal_lm.generate(
        TEXTS, return_details=True, strip_prompt=True, **options
    )
    is_single = options.get("num_return_sequences", 1) == 1
    ids, scores, texts = (
        [[x] for x in field] if is_single else field
        for field in (details.token_ids, details.score, details.text)
    )
    np.testing.assert_allclose(result["beam_scores"], scores, rtol=1e-4)
    for row, beams in enumerate(ids):
        for place, beam in enumerate(beams):
            count = result["beam_num_tokens"][row, place]
            got = result["beam_token_ids"][row, place, :count]
            assert got.tolist() == beam.tolist()
            assert result["beam_texts"][row, place].decode() == texts[row][place]
        assert result["generated_text"][row] == result["beam_texts"][row, 0]


def test_beams_take_their_own_knobs_by_row(build, call, causal_lm):
    made = build(num_beams=3, max_new_tokens=9)
    inputs = made["generate"].inputs
    assert {"length_penalty", "diversity_penalty", "stop_strings"} <= set(inputs)
    assert not {"temperature", "top_k", "seed"} & set(inputs)
    result = call(
        "generate",
        _signatures=made,
        text=TEXTS,
        length_penalty=[-2.0, 3.0, np.inf],
        diversity_penalty=[0.0, 0.0, 0.0],
    )
    expected = [
        causal_lm.generate(
            text, num_beams=3, max_new_tokens=9, length_penalty=p, strip_prompt=True
        )
        for text, p in zip(TEXTS[:2], [-2.0, 3.0], strict=True)
    ]
    assert [x.decode() for x in result["generated_text"]] == [*expected, ""]
    assert result["finish_reason"][2] == b"invalid_input"


def test_contrastive_search_is_that_of_python(build, call, causal_lm):
    options = {"penalty_alpha": 0.6, "top_k": 5, "max_new_tokens": 9}
    result = call("generate", _signatures=build(**options), text=TEXTS)
    expected = causal_lm.generate(TEXTS, strip_prompt=True, **options)
    assert [text.decode() for text in result["generated_text"]] == expected


def test_speculation_gives_the_same_tokens(build, call):
    options = {"temperature": 0.4, "seed": 3, "max_new_tokens": 40}
    knobs = {name: [value] for name, value in options.items()}
    plain = call("generate", text=TEXTS, **knobs)
    drafted = call(
        "generate", _signatures=build(draft="prompt_lookup", **options), text=TEXTS
    )
    for name in ("token_ids", "num_tokens", "finish_reason", "generated_bytes"):
        assert drafted[name].tolist() == plain[name].tolist()


def no_vowels(logits, history):
    banned = tf.constant([97, 101, 105, 111, 117], tf.int32)
    mask = tf.reduce_any(tf.range(tf.shape(logits)[1])[:, None] == banned, axis=1)
    return tf.where(mask & (history.num_new_tokens < 5)[:, None], -1e30, logits)


def test_own_processors_are_in_the_graph(build, call, causal_lm):
    options = {"logits_processors": [no_vowels], "seed": 1, "max_new_tokens": 9}
    result = call("serving_default", _signatures=build(**options), text=TEXTS)
    expected = causal_lm.generate(TEXTS, strip_prompt=True, **options)
    assert [text.decode() for text in result["generated_text"]] == expected


class Biases(tf.Module):
    """A processor with a variable, and a static table of what to ban."""

    def __init__(self, size, banned):
        super().__init__()
        self.bias = tf.Variable(tf.linspace(0.0, 3.0, size))
        table = tf.lookup.KeyValueTensorInitializer(banned, [1] * len(banned))
        self.banned = tf.lookup.StaticHashTable(table, 0)

    def __call__(self, logits, history):
        is_banned = self.banned.lookup(tf.range(tf.shape(logits)[1]))
        return tf.where(is_banned > 0, -1e30, logits + self.bias)

    def process(self, logits, history):
        return self(logits, history)


def test_what_processors_hold_is_exported_with_them(causal_lm, tmp_path):
    size = causal_lm.backbone.config.vocabulary_size
    whole, by_method = Biases(size, banned=[101]), Biases(size, banned=[111])
    options = {"seed": 1, "max_new_tokens": 9}
    one_less = causal_lm.generate(TEXTS, logits_processors=[whole], **options)
    options["logits_processors"] = [whole, by_method.process]
    path = export_saved_model(causal_lm, tmp_path, batch_sizes=[1], **options)
    expected = causal_lm.generate(TEXTS, strip_prompt=True, **options)
    assert causal_lm.generate(TEXTS, **options) != one_less
    served = tf.saved_model.load(path).signatures["serving_default"]
    got = served(text=tf.constant(TEXTS))["generated_text"].numpy()
    assert [text.decode() for text in got] == expected


def with_variable(variable):
    def of_nobody(logits, history):
        return logits + variable

    return of_nobody


def counting(logits, history):
    return logits + COUNTS.count.assign_add(1.0)


def from_file(logits, history):
    return logits + tf.strings.to_number(tf.io.read_file("bias"))


COUNTS = tf.Module()
COUNTS.count = tf.Variable(0.0)
COUNTS.process = types.MethodType(lambda self, *given: counting(*given), COUNTS)


def in_python(logits, history):
    return tf.py_function(lambda x: x, [logits], tf.float32)


def by_chance(logits, history):
    return logits + tf.random.normal(tf.shape(logits))


def by_hand(logits, history):
    return logits.numpy()


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (in_python, r"logits_processors\[0\] .* in_python holds EagerPyFunc calls Py"),
        (by_chance, r"by_chance holds RandomStandardNormal is stateful"),
        (from_file, r"from_file holds ReadFile reads files"),
        (with_variable(tf.Variable(1.0)), r"must be a tf.Module, .* of_nobody uses"),
        (COUNTS.process, r"holds AssignAddVariableOp is stateful"),
        (by_hand, r"logits_processors\[0\] .* by_hand fails: "),
    ],
    ids=lambda value: getattr(value, "__name__", "message"),
)
def test_processors_that_cannot_be_served_are_named(
    causal_lm, tmp_path, processor, message
):
    with pytest.raises(ValueError, match=message):
        export_saved_model(causal_lm, tmp_path, logits_processors=[processor])
    assert list(tmp_path.iterdir()) == []


def test_the_sampler_of_compile_gives_the_defaults(causal_lm, tokenizer):
    lm = GPTCausalLM(causal_lm.backbone, causal_lm.preprocessor)
    lm.compile(sampler="greedy")
    assert served_options(lm, {}, stop_token_ids="auto").defaults["temperature"] == 0.0
    lm.compile(sampler="beam")
    served = served_options(lm, {}, stop_token_ids=None)
    assert served.method == "beam_search"
    assert served.defaults["stop_token_ids"] == []


def test_xla_gives_the_same_tokens(causal_lm, tmp_path):
    options = {"max_new_tokens": 12, "stop_token_ids": [5, [6, 7]], "bad_words": ["e"]}
    folder = export_saved_model(causal_lm, tmp_path, xla=True, **options)
    model = tf.saved_model.load(folder)
    knobs = {"temperature": [0.0, 1.0, 0.5], "seed": [1, 2, 3], "top_k": [0, 5, 0]}
    knobs |= {"no_repeat_ngram_size": [2, 0, 3], "max_new_tokens": [12, 40, 0]}
    found = []
    for name in ("generate", "generate_xla"):
        defaults = signature_defaults(folder)[name]
        specs = model.signatures[name].structured_input_signature[1]
        given = {key: tf.constant(x, specs[key].dtype) for key, x in knobs.items()}
        inputs = {**defaults, **given, "text": tf.constant(TEXTS)}
        found.append(model.signatures[name](**inputs))
    plain, compiled = found
    assert plain.keys() == compiled.keys()
    assert plain["num_tokens"].numpy().max() > 12
    for name in ("token_ids", "num_tokens", "finish_reason", "generated_text"):
        assert compiled[name].numpy().tolist() == plain[name].numpy().tolist()
    readme = (tmp_path / "README.md").read_text()
    assert "the server needs --xla_cpu_compilation_enabled" in readme


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"stop_strings": ["x"]}], ids=str
)
def test_xla_of_what_it_cannot_do_is_refused(causal_lm, tmp_path, options):
    with pytest.raises(ValueError, match="xla must be False for a search, or with"):
        export_saved_model(causal_lm, tmp_path, xla=True, **options)
