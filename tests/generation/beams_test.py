"""Beam search over a model: against a search without a cache, in ragged batches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import generation
from keras_gpt.generation import Request, Stops, search_tokens
from keras_gpt.sampling.beam_search import BeamSettings

PROMPTS = ["The king", "", "a\n\nb said", "O", "my lord, what say you to the"]


def search_oracle(backbone, prompt, *, num_beams, count):
    """Beam search without a cache, end tokens or ties: the best `count` tokens."""
    beams = [(0.0, list(prompt))]
    for _ in range(count):
        hidden = backbone.forward(np.array([ids for _, ids in beams], np.int32)).hidden
        log_probs = tf.nn.log_softmax(backbone.logits(hidden)[:, -1]).numpy()
        longer = [
            (total + log_probs[row, token], [*ids, token])
            for row, (total, ids) in enumerate(beams)
            for token in range(log_probs.shape[1])
        ]
        beams = sorted(longer, reverse=True)[:num_beams]
    return [ids[len(prompt) :] for _, ids in beams]


def test_search_equals_uncached_search_with_ragged_rows(
    causal_lm, causal_lm_on_ids, ragged
):
    lengths = [3, 9, 1]
    rows, inputs = ragged(lengths, seed=1)
    got = causal_lm_on_ids.generate(
        inputs,
        max_length=64,
        max_new_tokens=[6, 4, 5],
        num_beams=3,
        num_return_sequences=3,
        stop_token_ids=None,
        strip_prompt=True,
    )
    for row, (ids, count) in enumerate(zip(rows, [6, 4, 5], strict=True)):
        expected = search_oracle(causal_lm.backbone, ids, num_beams=3, count=count)
        for beam in range(3):
            place = 3 * row + beam
            tokens = got["token_ids"][place][got["padding_mask"][place]]
            assert tokens.tolist() == expected[beam]


def test_searched_texts_are_the_same_in_any_batch(causal_lm):
    options = {"num_beams": 4, "max_new_tokens": 7, "num_return_sequences": 2}
    penalties = [0.0, 1.0, 3.0, -1.0, 1.0]
    together = causal_lm.generate(PROMPTS, length_penalty=penalties, **options)
    alone = [
        causal_lm.generate(prompt, length_penalty=penalty, **options)
        for prompt, penalty in zip(PROMPTS, penalties, strict=True)
    ]
    assert together == alone
    assert all(len(texts) == 2 and len(set(texts)) == 2 for texts in together)
    assert all(
        t.startswith(p) for p, ts in zip(PROMPTS, together, strict=True) for t in ts
    )


def test_search_returns_one_text_by_default(causal_lm):
    options = {"num_beams": 3, "max_new_tokens": 5}
    best = causal_lm.generate("The king", **options)
    several = causal_lm.generate("The king", num_return_sequences=3, **options)
    assert best == several[0]
    assert causal_lm.generate(["The king"], **options) == [best]


def test_one_trace_serves_every_setting_of_a_search(causal_lm):
    causal_lm.generate("warm", max_new_tokens=1, num_beams=2)
    search = causal_lm._runner().decoder().search(2, 1)
    for index in range(6):
        causal_lm.generate(
            PROMPTS[: 1 + index % 4],
            max_new_tokens=index,
            num_beams=2,
            length_penalty=index / 3,
            early_stopping=[True, False, "never"][index % 3],
        )
    assert causal_lm._runner().decoder().search(2, 1) is search
    assert search.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams must be a positive integer, got 0"),
        ({"num_beams": 2.0}, "num_beams must be a positive integer, got 2.0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "at most num_beams, 2, got 3"),
        ({"num_beams": 2, "top_k": 3}, "top_k must not be given with num_beams=2"),
        ({"num_beams": 2, "early_stopping": "yes"}, "early_stopping must be True, Fal"),
        ({"num_beams": 2, "length_penalty": [1.0, 2.0]}, "length_penalty must be one"),
        ({"num_beams": 2, "length_penalty": np.nan}, "length_penalty must be finite"),
    ],
)
def test_arguments_of_a_search_are_checked(causal_lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The king", **arguments)


def test_a_bad_row_does_not_disturb_a_search(causal_lm, settings_of):
    generator = causal_lm.text_generator()
    texts = ["The king", "b\xff".encode("latin-1"), "word " * 200, "O my"]
    settings = settings_of(4)._replace(max_new_tokens=tf.constant([4, 4, 4, 0]))
    found = search_tokens(
        generator.decoder,
        generator.prompts(tf.constant(texts), settings=settings),
        Request.of(settings, stops=Stops.at([])),
        settings=BeamSettings(tf.ones([4]), tf.zeros([4], tf.int32)),
        num_beams=2,
    )
    names = [generation.FINISH_REASONS[code] for code in found.finish_reason[:, 0]]
    assert names == ["length", "invalid_input", "prompt_too_long", "length"]
    assert found.num_tokens[:, 0].numpy().tolist() == [4, 0, 0, 0]
    expected = causal_lm.generate(
        "The king", max_new_tokens=4, num_beams=2, return_details=True
    )
    np.testing.assert_array_equal(found.token_ids[0, 0], expected.token_ids)
