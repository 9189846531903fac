"""`generate` and `stream`: results, details, options, and errors that name them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_gpt
from keras_gpt import GPTBackbone, GPTCausalLM, GPTCausalLMPreprocessor
from keras_gpt.generation import new_tokens
from keras_gpt.models.generation_options import GenerationOptions
from keras_gpt.models.text_stream import TextStream

PROMPTS = ["The king", "", "a\n\nb said", "O"]


# Details.


def test_details_agree_with_the_text_and_the_model(causal_lm):
    options = {"seed": 3, "max_new_tokens": 12, "num_alternatives": 3}
    got = causal_lm.generate(PROMPTS, return_details=True, **options)
    assert got.text == causal_lm.generate(PROMPTS, seed=3, max_new_tokens=12)
    tokenizer = causal_lm.preprocessor.tokenizer
    prompts = causal_lm._runner().encode(tf.constant(PROMPTS), prefix=None)
    for row, prompt in enumerate(prompts):
        ids = got.token_ids[row]
        new = tokenizer.detokenize(ids).numpy()
        assert got.text[row] == (PROMPTS[row].encode() + new).decode(errors="replace")
        whole = np.concatenate([prompt, ids])[None].astype(np.int32)
        logits = causal_lm.backbone.logits(causal_lm.backbone.forward(whole).hidden)
        log_probs = tf.nn.log_softmax(logits)[0, len(prompt) - 1 : -1].numpy()
        steps = np.arange(len(ids))
        np.testing.assert_allclose(got.log_probs[row], log_probs[steps, ids], atol=1e-4)
        best = np.argsort(-log_probs, axis=1, kind="stable")[:, :3]
        np.testing.assert_array_equal(got.alternatives[row].token_ids, best)
        np.testing.assert_allclose(
            got.alternatives[row].log_probs,
            np.take_along_axis(log_probs, best, axis=1),
            atol=1e-4,
        )
        assert got.score[row] == pytest.approx(np.mean(got.log_probs[row]))
        assert got.finish_reason[row] in ("length", "stop")
    assert got.acceptance_rate is None
    assert 0 < got.timings.first_token_seconds < got.timings.total_seconds
    count = sum(map(len, got.token_ids))
    assert got.timings.tokens_per_second == pytest.approx(
        count / got.timings.total_seconds
    )


def test_details_have_the_form_of_the_result(causal_lm):
    one = causal_lm.generate("The", seed=1, max_new_tokens=3, return_details=True)
    assert isinstance(one.text, str) and one.token_ids.shape == (3,)
    several = causal_lm.generate(
        ["The", "a"],
        seed=1,
        max_new_tokens=3,
        num_return_sequences=2,
        return_details=True,
    )
    assert [len(row) for row in several.text] == [2, 2]
    assert [ids.shape for row in several.token_ids for ids in row] == [(3,)] * 4
    dataset = tf.data.Dataset.from_tensor_slices(PROMPTS).batch(2)
    batched = causal_lm.generate(dataset, seed=1, max_new_tokens=3, return_details=True)
    assert batched.text == causal_lm.generate(PROMPTS, seed=1, max_new_tokens=3)
    beams = causal_lm.generate(
        "The", num_beams=3, num_return_sequences=3, return_details=True
    )
    assert beams.score == sorted(beams.score, reverse=True)
    ids = {"token_ids": [[5, 6]], "padding_mask": [[1, 1]]}
    bare = GPTCausalLM(causal_lm.backbone).generate(
        ids, max_length=6, stop_token_ids=None, return_details=True
    )
    assert bare.text is None and bare.token_ids[0].shape == (4,)


# Several draws.


def test_draws_of_a_prompt_differ_and_do_not_depend_on_the_batch(causal_lm):
    options = {"seed": 5, "max_new_tokens": 8, "num_return_sequences": 3}
    together = causal_lm.generate(PROMPTS, **options)
    alone = [causal_lm.generate(prompt, **options) for prompt in PROMPTS]
    assert together == alone
    assert all(len(set(row)) == 3 for row in together)
    # The first draw is what one draw would be.
    single = causal_lm.generate(PROMPTS, seed=5, max_new_tokens=8)
    assert [row[0] for row in together] == single


def test_best_of_returns_the_likeliest_draws(causal_lm):
    options = {"seed": 5, "max_new_tokens": 8, "return_details": True}
    every = causal_lm.generate(PROMPTS, num_return_sequences=6, **options)
    best = causal_lm.generate(PROMPTS, best_of=6, num_return_sequences=2, **options)
    for row in range(len(PROMPTS)):
        order = np.argsort([-score for score in every.score[row]], kind="stable")
        assert best.text[row] == [every.text[row][i] for i in order[:2]]
        assert best.score[row] == sorted(best.score[row], reverse=True)
    one = causal_lm.generate(PROMPTS, best_of=6, **options)
    assert one.text == [row[0] for row in best.text]


# Rules about tokens.


def test_rules_hold_in_every_row(causal_lm):
    allowed = [[5, 6, 7, 8], list(range(40, 90))]
    got = causal_lm.generate(
        ["The", "a"],
        seed=3,
        max_new_tokens=30,
        allowed_token_ids=allowed,
        suppress_tokens=[[5], [41]],
        begin_suppress_tokens=[6, 42],
        stop_token_ids=None,
        return_details=True,
    )
    for row in range(2):
        ids = set(got.token_ids[row].tolist())
        assert ids <= set(allowed[row]) - {5, 41} and len(ids) > 1
        assert got.token_ids[row][0] not in (6, 42)


def test_bad_words_never_come(causal_lm):
    options = {"max_new_tokens": 50, "temperature": 3.0}
    seeds = list(range(30))
    free = causal_lm.generate(["The"] * 30, seed=seeds, **options)
    assert any("king" in text for text in free)
    clean = causal_lm.generate(["The"] * 30, seed=seeds, bad_words=["king"], **options)
    tokenizer = causal_lm.preprocessor.tokenizer
    forms = [tokenizer.tokenize(w).numpy().tolist() for w in ("king", " king")]
    for text in clean:
        ids = tokenizer.tokenize(text).numpy().tolist()
        for form in forms:
            places = range(len(ids) - len(form) + 1)
            found = [ids[i : i + len(form)] == form for i in places]
            # Tokens may spell a word in other ways than the tokenizer's.
            assert sum(found) <= text.count("king")
    as_ids = causal_lm.generate(["The"] * 30, seed=seeds, bad_words=forms, **options)
    assert as_ids == clean and clean != free


def test_biases_of_one_prompt_leave_the_other_alone(causal_lm):
    options = {"seed": 3, "max_new_tokens": 20}
    plain = causal_lm.generate(["The", "a"], **options)
    biased = causal_lm.generate(["The", "a"], logit_bias=[{7: 50.0}, {}], **options)
    assert biased[1] == plain[1]
    tokenizer = causal_lm.preprocessor.tokenizer
    seven = tokenizer.detokenize([7]).numpy().decode()
    assert biased[0] == "The" + 20 * seven


def test_nothing_left_to_say_ends_the_text(causal_lm):
    got = causal_lm.generate(
        "The",
        temperature=0.0,
        suppress_tokens=list(range(300)),
        stop_token_ids=None,
        return_details=True,
    )
    assert got.finish_reason == "stop" and len(got.token_ids) == 0


def test_own_processors_see_the_text_and_are_traced_once(causal_lm):
    traces = []

    def never_the_same_again(logits, history):
        traces.append(1)
        last = history.ends(1)
        return tf.where(tf.range(tf.shape(logits)[1]) == last, -1e9, logits)

    def odd_only(logits, history):
        is_odd = tf.range(tf.shape(logits)[1]) % 2 == 1
        late = history.num_new_tokens[:, None] >= 3
        return tf.where(is_odd | ~late, logits, -1e9)

    options = {"temperature": 0.0, "max_new_tokens": 15, "stop_token_ids": None}
    processors = [never_the_same_again, odd_only]
    for _ in range(3):
        got = causal_lm.generate(
            PROMPTS, logits_processors=processors, return_details=True, **options
        )
    assert len(traces) <= 2  # one graph, and one more for the time of the first token
    for ids in got.token_ids:
        assert all(a != b for a, b in zip(ids, ids[1:], strict=False))
        assert all(token % 2 == 1 for token in ids[3:])


# One trace.


def test_one_trace_serves_a_hundred_settings(causal_lm):
    causal_lm.generate("warm", max_new_tokens=1)
    decoder = causal_lm._runner().decoder()
    rng = np.random.default_rng(0)
    for index in range(100):
        rows = 1 + index % 4
        causal_lm.generate(
            PROMPTS[:rows],
            max_new_tokens=int(rng.integers(0, 4)),
            min_new_tokens=index % 3,
            temperature=rng.uniform(0, 2, rows).tolist(),
            top_k=int(rng.integers(0, 400)),
            top_p=float(rng.uniform(0.1, 1.0)),
            min_p=float(rng.uniform(0.0, 0.3)),
            typical_p=float(rng.uniform(0.5, 1.0)),
            repetition_penalty=float(rng.uniform(0.5, 2.0)),
            presence_penalty=float(rng.uniform(-1, 1)),
            no_repeat_ngram_size=index % 4,
            stop_strings=["xy", "z"][: index % 3] or None,
            bad_words=[[1, 2], [3]][: index % 3] or None,
            logit_bias={5: 1.0, (1, 2, 3): 2.0} if index % 2 else None,
            suppress_tokens=list(range(index % 5)),
            stop_token_ids=[[1, 2], 3][: index % 3],
            sliding_window=bool(index % 2),
            seed=index,
        )
    assert causal_lm._runner().decoder() is decoder
    assert decoder.generate.experimental_get_tracing_count() == 1


# Streams.


@pytest.mark.parametrize("tokens_per_call", [1, 3, 100])
def test_a_stream_is_the_text_in_pieces(causal_lm, tokens_per_call):
    for options in (
        {"seed": 3},
        {"temperature": 0.0, "draft": "prompt_lookup"},
        {"seed": 4, "sliding_window": True, "max_new_tokens": 90},
        {"seed": 5, "max_new_tokens": 0},
    ):
        text = causal_lm.generate("The king", strip_prompt=True, **options)
        pieces = list(
            causal_lm.stream("The king", tokens_per_call=tokens_per_call, **options)
        )
        assert "".join(pieces) == text
        assert "" not in pieces
        if tokens_per_call == 1 and options.get("seed") == 3:
            assert len(pieces) > 10


def test_a_stream_never_shows_what_a_stop_takes_back(causal_lm):
    options = {"seed": 3, "max_new_tokens": 40, "return_details": True}
    free = causal_lm.generate("The king", strip_prompt=True, **options)
    for start in range(5, 20):
        strings = [free.text[start : start + 4]]
        sequence = free.token_ids[start : start + 3].tolist()
        for stops in ({"stop_strings": strings}, {"stop_token_ids": [sequence]}):
            text = causal_lm.generate("The king", strip_prompt=True, **options, **stops)
            pieces = causal_lm.stream(
                "The king", seed=3, max_new_tokens=40, tokens_per_call=1, **stops
            )
            assert "".join(pieces) == text.text


def test_time_ends_a_stream(causal_lm):
    options = {"seed": 3, "sliding_window": True, "stop_token_ids": None}
    long = causal_lm.stream("a", max_new_tokens=10**6, max_time=0.3, **options)
    text = "".join(long)
    assert text and len(text) < 10**5
    whole = causal_lm.generate("a", max_new_tokens=30, strip_prompt=True, **options)
    # Its end may be half a character.
    assert whole.startswith(text[:10]) or text.startswith(whole[:10])


def test_pieces_are_whole_characters():
    text = "naïve 中文 🙂 stop end".encode()
    stream = TextStream([b"stop"])
    pieces = [
        stream.grow(text[:count], is_whole=False) for count in range(len(text) + 1)
    ]
    pieces.append(stream.grow(text, is_whole=True))
    assert "".join(pieces) == text.decode()
    assert "\ufffd" not in "".join(pieces)
    held = TextStream([b"stop"])
    assert held.grow(b"a sto", is_whole=False) == "a "
    assert held.grow(b"a sto", is_whole=True) == "sto"
    broken = TextStream()
    assert broken.grow(b"a\xe4\xb8", is_whole=False) == "a"
    assert broken.grow(b"a\xe4\xb8", is_whole=True) == "\ufffd"


def test_a_state_goes_on_where_it_rests(causal_lm):
    options = GenerationOptions(seed=3, max_new_tokens=[20, 5, 9, 20])
    runner = causal_lm._runner()
    _, batch = causal_lm._batch(tf.constant(PROMPTS), None, "auto", options)
    prompts, request = runner._start(batch)
    whole = runner.decoder().generate(prompts, request)
    for steps in (1, 4, 16):
        state = runner.decoder().begin(prompts, request)
        while state.is_running.numpy().any():
            state = runner.decoder().advance(state, request, steps)
            # The state's tensors are all that there is to it.
            state = tf.nest.map_structure(
                lambda x: tf.io.parse_tensor(tf.io.serialize_tensor(x), x.dtype), state
            )
        tokens = new_tokens(state)
        np.testing.assert_array_equal(tokens.token_ids, whole.token_ids)
        np.testing.assert_array_equal(tokens.finish_reason, whole.finish_reason)
        np.testing.assert_allclose(tokens.log_probs, whole.log_probs, atol=1e-5)


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 301}, "num_beams must be at most the vocabulary's 300"),
        ({"length_penalty": 2.0}, "length_penalty must not be given with num_beams=1"),
        ({"diversity_penalty": 1.0}, "diversity_penalty must not be given"),
        ({"best_of": 0}, "best_of must be a positive integer, got 0"),
        ({"best_of": 2, "num_return_sequences": 3}, "best_of must be at least num_ret"),
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beam_groups must divide num_b"),
        ({"num_beams": 2, "diversity_penalty": -1.0}, "diversity_penalty must be at l"),
        ({"num_alternatives": -1}, "num_alternatives must be an integer of at least 0"),
        ({"logit_bias": {300: 1.0}}, r"logit_bias must be of ids in \[0, 300\), got 3"),
        ({"logit_bias": {5: np.nan}}, "logit_bias must be finite, got nan"),
        ({"logit_bias": [{}, {}]}, r"logit_bias must be one dict or .* prompt \(1\)"),
        ({"bad_words": [""]}, "bad_words must not be empty"),
        ({"bad_words": [[-1]]}, r"bad_words must be of ids in \[0, 300\), got -1"),
        ({"bad_words": 5}, "bad_words must be one list or one per prompt"),
        ({"suppress_tokens": [300]}, "suppress_tokens must be of ids in"),
        ({"allowed_token_ids": [1.5]}, "allowed_token_ids must be one list or one"),
        ({"logits_processors": [3]}, "logits_processors must be functions, got 3"),
        ({"num_alternatives": 301}, "num_alternatives must be at most the vocabulary"),
        ({"logit_bias": [(5, 1.0)]}, "logit_bias must be a dict, got"),
        ({"logit_bias": {5: "x"}}, "logit_bias must be finite, got 'x'"),
        ({"logit_bias": {5: 1e39}}, "logit_bias must be finite"),
        ({"repetition_penalty": 1e-50}, "repetition_penalty must be finite and above"),
        ({"temperature": 1e39}, "temperature must be finite and at least 0"),
        ({"draft": 5}, "draft must be 'prompt_lookup', a model or a drafter, got 5"),
        ({"num_draft_tokens": 3}, "num_draft_tokens must be None unless draft is"),
        ({"max_length": 2.5}, "max_length must be an integer of at least 1, got 2.5"),
        ({"truncate": "left", "max_new_tokens": "5"}, "max_new_tokens must be a whole"),
    ],
)
def test_options_out_of_range_are_named(causal_lm, options, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The", **options)


def test_unknown_options_are_named(causal_lm):
    with pytest.raises(TypeError, match="no option 'temprature'; did you mean 'temp"):
        causal_lm.generate("The", temprature=1.0)
    with pytest.raises(TypeError, match="there is no option 'xyz'"):
        list(causal_lm.stream("The", xyz=1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ["a"]}, "prompt must be one string, got list"),
        ({"prompt": "a", "tokens_per_call": 0}, "tokens_per_call must be at least 1"),
        ({"prompt": "a", "num_beams": 2}, "stream draws one text"),
        ({"prompt": "a", "penalty_alpha": 0.6}, "stream draws one text"),
        ({"prompt": "a", "temperature": -1.0}, "temperature must be finite"),
        ({"prompt": "word " * 200}, "shorter than the context of 64 tokens"),
    ],
)
def test_a_stream_checks_its_arguments(causal_lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.stream(**arguments)


@pytest.fixture(scope="module")
def other_lm(tokenizer):
    """A model whose weights may be broken, if they are mended again."""
    keras.utils.set_random_seed(0)
    backbone = GPTBackbone.from_size(
        "gpt_nano", vocabulary_size=tokenizer.vocabulary_size()
    )
    return GPTCausalLM(backbone, GPTCausalLMPreprocessor(tokenizer, sequence_length=64))


@contextlib.contextmanager
def broken(lm, *, path):
    """Some of a weight's values are NaN."""
    weight = next(w for w in lm.backbone.weights if path in w.path)
    whole = weight.numpy()
    array = whole.copy()
    array[..., 0] = np.nan
    weight.assign(array)
    yield
    weight.assign(whole)


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("transformer_layer_1/mlp/expand/kernel", "transformer_layer_1"),
        ("transformer_layer_0/attention/query_key_value/kernel", "transformer_layer_0"),
        ("position_embedding", "position_embedding"),
    ],
)
def test_logits_that_are_no_numbers_name_the_layer(other_lm, path, layer):
    methods = [
        *({"seed": 0}, {"seed": 0, "temperature": 0.0}),
        *({"seed": 0, "draft": "prompt_lookup"}, {"num_beams": 2}),
    ]
    message = f"logits must be finite.*began in {layer}"
    with broken(other_lm, path=path):
        for options in methods:
            with pytest.raises(ValueError, match=message):
                other_lm.generate(["The king", "a"], max_new_tokens=5, **options)
        with pytest.raises(ValueError, match=f"began in {layer}"):
            list(other_lm.stream("The king", max_new_tokens=5))


def test_no_prompts_give_no_texts(causal_lm):
    assert causal_lm.generate([]) == []
    details = causal_lm.generate([], return_details=True)
    assert details.text == [] and details.token_ids == []
    with pytest.raises(ValueError, match="inputs must have a prompt to prefill"):
        causal_lm.prefill([])


def test_ids_are_checked(causal_lm):
    bare = GPTCausalLM(causal_lm.backbone)
    for inputs, message in (
        ({"token_ids": [[1, 2]], "padding_mask": [[0, 1]]}, "padding_mask must be"),
        ({"token_ids": [[1, 2]], "padding_mask": [[1]]}, "padding_mask must be of the"),
        (
            {"token_ids": [[1, 300]], "padding_mask": [[1, 1]]},
            r"in \[0, 300\), got 300",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bare.generate(inputs, stop_token_ids=None)


def test_empty_draws_are_never_the_best(causal_lm):
    end_id = causal_lm.preprocessor.tokenizer.end_token_id
    options = {"seed": 0, "max_new_tokens": 6, "logit_bias": {end_id: 8.0}}
    draws = causal_lm.generate("The", num_return_sequences=12, **options)
    assert "The" in draws and any(draw != "The" for draw in draws)
    assert causal_lm.generate("The", best_of=12, **options) != "The"


def test_banned_tokens_never_come_by_any_method(causal_lm):
    options = {"allowed_token_ids": [40, 41], "max_new_tokens": 8}
    options |= {"stop_token_ids": None, "return_details": True}
    for method in (
        {"penalty_alpha": 0.9, "top_k": 6},
        {"num_beams": 4, "num_return_sequences": 4},
        {"temperature": 1e30, "seed": 1},
        {"num_beams": 4, "suppress_tokens": [40]},
    ):
        got = causal_lm.generate("The", **options, **method)
        texts = [got.token_ids] if isinstance(got.text, str) else got.token_ids
        for ids in texts:
            assert set(ids.tolist()) <= {40, 41} and len(ids) == 8
    # With one token allowed there is one beam, and no three more of banned ones.
    only = causal_lm.generate(
        "The", **{**options, "allowed_token_ids": [40]}, num_beams=4,
        num_return_sequences=4,
    )  # fmt: skip
    assert [ids.tolist() for ids in only.token_ids] == [[40] * 8, [], [], []]
    assert only.score[0] > only.score[1] == -np.inf
    assert only.text[1:] == ["The"] * 3


def test_a_prefix_of_another_model_is_refused(causal_lm, other_lm):
    with pytest.raises(ValueError, match="prefix must be what this model's prefill"):
        causal_lm.generate("a", prefix=other_lm.prefill("The king"))


def test_a_word_alone_is_one_bad_word(causal_lm):
    options = {"seed": 3, "max_new_tokens": 20}
    alone = causal_lm.generate("The", bad_words="king", **options)
    assert alone == causal_lm.generate("The", bad_words=["king"], **options)


def test_a_processor_that_makes_nan_is_found(causal_lm):
    def broken(logits, history):
        late = history.num_new_tokens[:, None] >= 2
        is_first = tf.range(tf.shape(logits)[1]) == 0
        return tf.where(late & is_first, np.nan, logits)

    with pytest.raises(ValueError, match="after 2 new tokens.*a logits processor"):
        causal_lm.generate("The", seed=0, max_new_tokens=5, logits_processors=[broken])
    with pytest.raises(ValueError, match="logits must be finite.*a logits processor"):
        causal_lm.generate(
            "The", num_beams=2, max_new_tokens=5, logits_processors=[broken]
        )


def test_options_are_documented():
    documented = GenerationOptions.__doc__
    for name in GenerationOptions.__dataclass_fields__:
        assert f"        {name}: " in documented
    assert keras_gpt.GenerationOptions is GenerationOptions
