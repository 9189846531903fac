"""Speculation: the same tokens as plain decoding, whatever is drafted."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTBackbone, GPTCausalLM, generation
from keras_gpt.generation import DraftModel, PromptLookup
from keras_gpt.generation.drafts import Drafts

PROMPTS = ["The king", "", "a b c a b c a b", "O", "my lord, what say you to the"]


@pytest.fixture(scope="module")
def smaller_lm(causal_lm):
    """Another random model of the same vocabulary, of a context of 40."""
    keras.utils.set_random_seed(5)
    backbone = GPTBackbone.from_size(
        "gpt_nano",
        num_layers=1,
        max_sequence_length=40,
        vocabulary_size=causal_lm.backbone.config.vocabulary_size,
    )
    return GPTCausalLM(backbone)


class Oracle:
    """Drafts the true continuation, with a wrong token now and then."""

    num_tokens = 5

    def __init__(self, texts, *, every):
        self._texts = tf.constant(texts)  # (B, S) whole texts by row
        self._every = every

    def begin(self, batch_size):
        return ()

    def propose(self, state, request, choose):
        places = state.lengths[:, None] + tf.range(self.num_tokens)
        places = tf.minimum(places, tf.shape(self._texts)[1] - 1)
        tokens = tf.gather(self._texts, places, batch_dims=1)
        wrong = places % self._every == 0
        counts = tf.where(state.is_running, self.num_tokens, 0)
        left = state.limits - state.history.num_new_tokens - 1
        counts = tf.clip_by_value(left, 0, counts)
        return Drafts(tf.where(wrong, (tokens + 1) % 300, tokens), counts), ()


OPTIONS = [
    {"temperature": 0.0},
    {"seed": 3},
    {"seed": [1, 2, 3, 4, 5], "temperature": [0.0, 0.5, 1.0, 2.0, 0.1], "top_p": 0.9},
    {"temperature": 0.0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"seed": 4, "frequency_penalty": 0.5, "bad_words": ["z"], "min_new_tokens": 5},
    {"seed": 5, "stop_strings": ["e", "zz"], "logit_bias": {89: 3.0}},
    {"temperature": 0.0, "max_new_tokens": [0, 1, 2, 3, 40]},
    {"seed": 6, "sliding_window": True, "max_new_tokens": 150},
    {"temperature": 0.0, "sliding_window": True, "max_new_tokens": 90},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["prompt_lookup", "itself", "smaller"])
def test_drafts_change_nothing(causal_lm, smaller_lm, options, kind):
    draft = {"prompt_lookup": kind, "itself": causal_lm, "smaller": smaller_lm}[kind]
    plain = causal_lm.generate(PROMPTS, return_details=True, **options)
    drafted = causal_lm.generate(PROMPTS, return_details=True, draft=draft, **options)
    assert drafted.text == plain.text
    assert drafted.finish_reason == plain.finish_reason
    for ours, theirs in zip(drafted.token_ids, plain.token_ids, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(drafted.log_probs, plain.log_probs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # Drafts beyond a stop string are in vain, and none are made once a window slid.
    if kind == "itself" and not {"sliding_window", "stop_strings"} & set(options):
        assert drafted.acceptance_rate == 1.0


@pytest.mark.parametrize("every", [2, 3, 100])
def test_right_drafts_are_kept_up_to_the_first_wrong_one(causal_lm, every):
    options = {"seed": 3, "max_new_tokens": 30, "return_details": True}
    plain = causal_lm.generate(PROMPTS[:2], **options)
    prompts = [
        causal_lm._runner().encode(tf.constant([p]), prefix=None)[0]
        for p in PROMPTS[:2]
    ]
    texts = np.zeros([2, 60], np.int32)
    for row in range(2):
        whole = np.concatenate([prompts[row], plain.token_ids[row]])
        texts[row, : len(whole)] = whole
    drafted = causal_lm.generate(
        PROMPTS[:2], draft=Oracle(texts, every=every), **options
    )
    assert drafted.text == plain.text
    if every == 100:  # none is wrong
        assert drafted.acceptance_rate > 0.95
    else:
        assert 0.1 < drafted.acceptance_rate < 0.6


def test_speculation_takes_fewer_rounds(causal_lm):
    """Counted on the states between rounds: tokens that a round has brought."""
    runner, options = causal_lm._runner(), {"temperature": 0.0, "max_new_tokens": 24}
    from keras_gpt import GenerationOptions

    chosen = GenerationOptions(draft=causal_lm, num_draft_tokens=5, **options)
    _, batch = causal_lm._batch(tf.constant(["The"]), None, None, chosen)
    decoder, (prompts, request) = runner.decoder(chosen), runner._start(batch)
    state = decoder.begin(prompts, request)
    counts = []
    while state.is_running.numpy().any():
        before = int(state.lengths[0])
        state = decoder.advance(state, request, 1)
        counts.append(int(state.lengths[0]) - before)
    assert counts == [6, 6, 6, 6]


def lookup_oracle(text, *, num_tokens, longest_ngram):
    for size in range(longest_ngram, 0, -1):
        end = text[len(text) - size :]
        places = [
            place
            for place in range(size, len(text))
            if text[place - size : place] == end
        ]
        if places and len(end) == size:
            draft, text = [], list(text)
            for offset in range(num_tokens):
                draft.append(text[places[-1] + offset])
                text.append(draft[-1])
            return draft
    return []


def test_lookup_finds_the_latest_of_the_longest_ngrams():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 300).astype(np.int32)
    tokens = rng.integers(0, 3, (300, 20)).astype(np.int32)
    state = state_of(tokens, lengths)
    drafts, _ = PromptLookup(4, longest_ngram=3).propose(state, None, None)
    for row, length in enumerate(lengths):
        expected = lookup_oracle(
            tokens[row, :length].tolist(), num_tokens=4, longest_ngram=3
        )
        count = int(drafts.counts[row])
        assert count == len(expected)
        assert drafts.token_ids[row, :count].numpy().tolist() == expected


def state_of(tokens, lengths):
    """A running state of texts, the rest of no matter."""
    lengths = tf.constant(lengths)
    fields = dict.fromkeys(generation.DecodeState._fields, ())
    fields |= {
        "token_ids": tf.constant(tokens),
        "lengths": lengths,
        "prompt_lengths": lengths,
        "limits": tf.fill(tf.shape(lengths), 100),
        "finish_reason": tf.zeros_like(lengths),
    }
    return generation.DecodeState(**fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft": "magic"}, "draft must be 'prompt_lookup', a model or a drafter"),
        (
            {"draft": "prompt_lookup", "num_draft_tokens": 0},
            "num_draft_tokens must be a positive integer, got 0",
        ),
        ({"draft": "prompt_lookup", "num_beams": 2}, "draft must not be given with"),
    ],
)
def test_bad_drafts(causal_lm, options, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The", **options)


def test_a_draft_of_another_vocabulary_is_refused(causal_lm):
    other = GPTCausalLM(GPTBackbone.from_size("gpt_nano", vocabulary_size=30))
    with pytest.raises(ValueError, match="vocabulary of 300 tokens, got 30"):
        causal_lm.generate("The", draft=other)
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        DraftModel(other.backbone, 0)
    with pytest.raises(ValueError, match="longest_ngram must be at least 1, got 0"):
        PromptLookup(longest_ngram=0)
