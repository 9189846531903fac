"""Scores of texts: against plain forward passes, and against what generation says."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTCausalLM, scoring
from keras_gpt.scoring import score_tokens

TEXTS = ["The king is dead", "", "O my lord, the queen hath said", "a"]


def oracle(causal_lm, text):
    """A forward pass for each token."""
    ids = causal_lm.preprocessor.tokenizer.tokenize(text).numpy()
    seen = [causal_lm.preprocessor.tokenizer.end_token_id]
    log_probs = []
    for token in ids:
        hidden = causal_lm.backbone.forward(np.array([seen], np.int32)).hidden
        logits = causal_lm.backbone.logits(hidden)[0, -1]
        log_probs.append(float(tf.nn.log_softmax(logits)[token]))
        seen.append(token)
    return ids, log_probs


def test_scores_equal_plain_forward_passes_in_any_batch(causal_lm):
    together = causal_lm.score(TEXTS)
    for text, score in zip(TEXTS, together, strict=True):
        ids, log_probs = oracle(causal_lm, text)
        np.testing.assert_array_equal(score.token_ids, ids)
        np.testing.assert_allclose(score.log_probs, log_probs, rtol=1e-4, atol=1e-5)
        assert score.total_log_prob == pytest.approx(sum(log_probs), rel=1e-5)
        alone = causal_lm.score(text)
        np.testing.assert_allclose(alone.log_probs, score.log_probs, atol=1e-5)


def test_chunks_of_positions_change_nothing(causal_lm, monkeypatch):
    ids = np.random.default_rng(0).integers(0, 300, (5, 17)).astype(np.int32)
    whole = score_tokens(causal_lm.backbone, tf.constant(ids), start_id=0)
    for chunk in (1, 7, 85, 100):
        monkeypatch.setattr(scoring, "CHUNK", chunk)
        parts = score_tokens(causal_lm.backbone, tf.constant(ids), start_id=0)
        np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_generated_text_scores_as_it_was_generated(causal_lm):
    generator = causal_lm.text_generator()
    end_id = generator.tokenizer.end_token_id
    result = GPTCausalLM(causal_lm.backbone).generate(
        {"token_ids": [[end_id]], "padding_mask": [[1]]},
        max_length=40,
        seed=3,
        stop_token_ids=None,
        strip_prompt=True,
    )
    ids = tf.constant(result["token_ids"][:, : result["padding_mask"].sum()])
    scored = score_tokens(causal_lm.backbone, ids, start_id=end_id)
    assert scored.shape == (1, 39)
    # Likelier than the same tokens in another order.
    shuffled = tf.reverse(ids, axis=[1])
    other = score_tokens(causal_lm.backbone, shuffled, start_id=end_id)
    assert float(tf.reduce_sum(scored)) > float(tf.reduce_sum(other))


def test_bad_texts(causal_lm):
    with pytest.raises(ValueError, match="context of 64 tokens, got .* in text 1"):
        causal_lm.score(["a", "king " * 100])
    with pytest.raises(ValueError, match=r"valid UTF-8, got b'\\xff' in text 0"):
        causal_lm.score([b"\xff"])
    with pytest.raises(ValueError, match="preprocessor must be set"):
        GPTCausalLM(causal_lm.backbone).score("a")


def test_a_text_as_long_as_the_context(causal_lm):
    tokenizer = causal_lm.preprocessor.tokenizer
    text = "a b" * 60
    while len(tokenizer.tokenize(text)) > 64:
        text = text[:-1]
    score = causal_lm.score(text)
    assert len(score.log_probs) == len(tokenizer.tokenize(text)) >= 63
    assert np.isfinite(score.log_probs).all()
