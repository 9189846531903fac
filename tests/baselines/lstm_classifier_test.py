"""The LSTM classifier: its parts, its size, and that it learns."""

import keras
import numpy as np
import pytest

from keras_gpt.baselines import LSTMClassifier


def classifier_of(seed=0, **fields):
    keras.utils.set_random_seed(seed)
    sizes = {"num_classes": 3, "vocabulary_size": 11, "hidden_dim": 6}
    return LSTMClassifier(**{**sizes, **fields})


def rows_of(*lengths, width=5, seed=0):
    ids = np.random.default_rng(seed).integers(1, 11, [len(lengths), width])
    mask = np.arange(width) < np.array(lengths)[:, None]
    return {"token_ids": np.where(mask, ids, 0), "padding_mask": mask}


def test_it_reads_the_state_after_the_last_token():
    model, rows = classifier_of(), rows_of(5, 1, 3)
    hidden = np.asarray(model.network.forward(rows["token_ids"]).hidden)
    expected = hidden[[0, 1, 2], [4, 0, 2]] @ np.asarray(model.head.kernel)
    np.testing.assert_allclose(model(rows), expected, atol=1e-6)


def test_padding_changes_nothing():
    model, rows = classifier_of(), rows_of(3, 3)
    short = {name: value[:, :3] for name, value in rows.items()}
    np.testing.assert_allclose(model(rows), model(short), atol=1e-6)


def test_dropout_is_active_in_training_alone():
    model, rows = classifier_of(dropout=0.5), rows_of(5)
    np.testing.assert_array_equal(model(rows, training=False), model(rows))
    assert np.any(model(rows, training=True) != model(rows))


@pytest.mark.parametrize("num_parameters", [500, 33_000, 800_000])
def test_it_is_the_widest_of_at_most_so_many_weights(num_parameters):
    sizes = {"num_classes": 7, "vocabulary_size": 65, "num_layers": 2}
    model = LSTMClassifier.from_num_parameters(num_parameters, **sizes)
    wider = LSTMClassifier(hidden_dim=model.network.hidden_dim + 1, **sizes)
    assert model.count_params() <= num_parameters < wider.count_params()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_learns_what_a_bag_of_words_cannot(jit_compile):
    # Whether 1 or 2 comes first; between them are others.
    rng = np.random.default_rng(0)
    rows = rows_of(*rng.integers(4, 7, 200), width=6)
    rows["token_ids"] = np.where(rows["padding_mask"], rows["token_ids"] % 8 + 3, 0)
    labels = rng.integers(0, 2, 200)
    rows["token_ids"][:, 0] = labels + 1
    rows["token_ids"][:, 3] = 2 - labels
    model = classifier_of(num_classes=2, hidden_dim=16, num_layers=1, dropout=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(0.02),
        loss,
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    model.fit(rows, labels, batch_size=50, epochs=15, verbose=0)
    _, accuracy = model.evaluate(rows, labels, batch_size=50, verbose=0)
    assert accuracy > 0.95


def test_it_is_saved_and_loaded(tmp_path):
    model, rows = classifier_of(num_layers=1, dropout=0.3), rows_of(5, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(rows), model(rows))
    assert loaded.get_config() == model.get_config()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_classes must be a positive integer"):
        classifier_of(num_classes=0)
    with pytest.raises(ValueError, match="hidden_dim must be a positive integer"):
        classifier_of(hidden_dim=0)
    # 65 + 7 + 2 * (8 + 4) = 96 with a width of 1.
    with pytest.raises(ValueError, match="at least 96 .* got 95"):
        LSTMClassifier.from_num_parameters(95, num_classes=7, vocabulary_size=65)
