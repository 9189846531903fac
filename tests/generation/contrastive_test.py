"""Contrastive search against whole forward passes, in ragged batches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTCausalLM

PROMPTS = ["The king", "", "my lord, what say you to the", "O"]


def oracle(backbone, prompt, *, alpha, top_k, count):
    """Equation 5 of Su et al. 2022, a forward pass for each candidate."""
    ids = list(prompt)
    for _ in range(count):
        hidden = backbone.forward(np.array([ids], np.int32)).hidden
        probabilities = tf.nn.softmax(backbone.logits(hidden)[0, -1]).numpy()
        candidates = sorted(
            range(len(probabilities)), key=lambda i: (-probabilities[i], i)
        )[:top_k]
        scores = []
        for token in candidates:
            longer = backbone.forward(np.array([[*ids, token]], np.int32)).hidden[0]
            unit = tf.math.l2_normalize(longer, axis=-1).numpy()
            likeness = float(np.max(unit[:-1] @ unit[-1]))
            scores.append((1 - alpha) * probabilities[token] - alpha * likeness)
        ids.append(candidates[int(np.argmax(scores))])
    return ids[len(prompt) :]


def test_rows_of_their_own_settings_equal_the_oracle(causal_lm):
    settings = {"penalty_alpha": [0.6, 0.0, 0.9, 0.3], "top_k": [4, 5, 1, 7]}
    got = causal_lm.generate(
        PROMPTS,
        max_new_tokens=[8, 5, 6, 3],
        stop_token_ids=None,
        return_details=True,
        **settings,
    )
    prompts = causal_lm._runner().encode(tf.constant(PROMPTS), prefix=None)
    for row, count in enumerate([8, 5, 6, 3]):
        expected = oracle(
            causal_lm.backbone,
            prompts[row],
            alpha=settings["penalty_alpha"][row],
            top_k=settings["top_k"][row],
            count=count,
        )
        assert got.token_ids[row].tolist() == expected


def test_alpha_of_zero_is_greedy(causal_lm):
    options = {"max_new_tokens": 10}
    contrast = causal_lm.generate(PROMPTS, penalty_alpha=0.0, **options)
    assert contrast == causal_lm.generate(PROMPTS, temperature=0.0, **options)


def test_the_context_ends_the_text(causal_lm):
    ids = np.ones([2, 62], np.int32)
    mask = np.arange(62) < np.array([[62], [3]])
    got = GPTCausalLM(causal_lm.backbone).generate(
        {"token_ids": ids, "padding_mask": mask},
        max_length=64,
        max_new_tokens=5,
        penalty_alpha=0.6,
        stop_token_ids=None,
        return_details=True,
    )
    assert [len(row) for row in got.token_ids] == [2, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_alpha": 1.5}, r"penalty_alpha must be in \[0, 1\], got 1.5"),
        ({"penalty_alpha": np.nan}, "penalty_alpha must be finite, got nan"),
        ({"penalty_alpha": 0.6, "top_k": 0}, "top_k must be at least 1"),
        ({"penalty_alpha": 0.6, "seed": 1}, "seed must not be given with penalty_alph"),
        ({"penalty_alpha": 0.6, "num_beams": 2}, "penalty_alpha must not be given"),
    ],
)
def test_bad_arguments(causal_lm, options, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.generate("The", **options)
