"""The LSTM baseline: against a NumPy LSTM, its size, and that it learns."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPTConfig
from keras_gpt.baselines import LSTMLanguageModel
from keras_gpt.baselines.lstm import count_weights
from keras_gpt.data import ExampleBatch
from keras_gpt.training import make_eval_step, make_train_step, training_optimizer

TEXT = "the king is dead, long live the king; "


def model_of(seed=0, **fields):
    keras.utils.set_random_seed(seed)
    defaults = {"vocabulary_size": 11, "hidden_dim": 6, "num_layers": 2}
    return LSTMLanguageModel(**{**defaults, **fields})


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def naive_logits(model, token_ids):
    """Runs the network row by row and position by position, in float64."""
    weights = {w.path: np.asarray(w, np.float64) for w in model.trainable_variables}
    (table,) = (w for path, w in weights.items() if path.endswith("embeddings"))
    layers = []
    for index in range(model.num_layers):
        own = {p: w for p, w in weights.items() if f"/lstm_{index}/" in p}
        named = {path.rsplit("/", 1)[1]: weight for path, weight in own.items()}
        layers.append((named["kernel"], named["recurrent_kernel"], named["bias"]))
    rows = []
    for ids in token_ids:
        states = [(np.zeros(table.shape[1]),) * 2 for _ in layers]
        for token in ids:
            x = table[token]
            for index, (kernel, recurrent, bias) in enumerate(layers):
                h, cell = states[index]
                gates = np.split(x @ kernel + h @ recurrent + bias, 4)
                i, forget, candidate, output = gates
                cell = sigmoid(forget) * cell + sigmoid(i) * np.tanh(candidate)
                x = sigmoid(output) * np.tanh(cell)
                states[index] = (x, cell)
            rows.append(table @ x)
    return np.reshape(rows, [*np.shape(token_ids), -1])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_logits_are_those_of_a_naive_lstm(num_layers):
    model = model_of(num_layers=num_layers, dropout=0.3)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape, scale=0.7))
    ids = rng.integers(0, 11, [3, 7])
    expected = naive_logits(model, ids)
    np.testing.assert_allclose(model(ids), expected, atol=1e-5)
    hidden = model.forward(tf.constant(ids), training=False).hidden
    assert hidden.shape == (3, 7, 6)
    np.testing.assert_allclose(model.logits(hidden), expected, atol=1e-5)


def test_dropout_is_active_in_training_alone():
    model, ids = model_of(dropout=0.5), tf.constant([[1, 2, 3]])
    plain = model.forward(ids).hidden
    np.testing.assert_array_equal(model.forward(ids, training=False).hidden, plain)
    dropped = model.forward(ids, training=True).hidden
    assert np.any(dropped != plain)
    assert np.any(dropped == 0) and np.all(plain != 0)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("num_parameters", [500, 33_000, 800_000])
def test_it_is_the_widest_of_at_most_so_many_weights(num_parameters, num_layers):
    sizes = {"vocabulary_size": 65, "num_layers": num_layers}
    model = LSTMLanguageModel.from_num_parameters(num_parameters, **sizes)
    assert model.count_params() == count_weights(
        65, hidden_dim=model.hidden_dim, num_layers=num_layers
    )
    wider = count_weights(65, hidden_dim=model.hidden_dim + 1, num_layers=num_layers)
    assert model.count_params() <= num_parameters < wider


def test_it_comes_close_to_a_gpts_size():
    config = GPTConfig.named("gpt_char")
    model = LSTMLanguageModel.from_num_parameters(
        config.num_parameters, vocabulary_size=config.vocabulary_size, dropout=0.0
    )
    assert model.count_params() == pytest.approx(config.num_parameters, rel=0.02)


def entropy_of_characters(ids):
    shares = np.bincount(ids) / len(ids)
    return -sum(share * math.log(share) for share in shares if share)


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_it_learns_a_tiny_text_by_the_training_step(jit_compile):
    letters = sorted(set(TEXT))
    ids = np.array([letters.index(letter) for letter in TEXT * 40], np.int32)
    windows = ids[: 33 * 40].reshape(40, 33)
    model = model_of(vocabulary_size=len(letters), hidden_dim=32, dropout=0.0)
    optimizer = training_optimizer(model.trainable_variables, learning_rate=2e-2)
    train = make_train_step(model, optimizer=optimizer, jit_compile=jit_compile)
    score = make_eval_step(model, jit_compile=jit_compile)

    def loss():
        sums = score(ExampleBatch(windows[:8]))
        return float(sums.total / sums.count)

    assert loss() == pytest.approx(math.log(len(letters)), abs=0.1)
    for step in range(60):
        train(ExampleBatch(windows[step % 5 * 8 :][:8]))
    # Letters alone, without what stands before them, cost more.
    assert loss() < 0.4 < entropy_of_characters(ids)


def test_it_is_saved_and_loaded(tmp_path):
    model = model_of()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ids = np.array([[1, 2, 3, 4]])
    np.testing.assert_array_equal(loaded(ids), model(ids))
    assert loaded.get_config() == model.get_config()


def test_mixed_precision_has_float32_weights_and_logits():
    model = model_of(dtype="mixed_bfloat16")
    assert {weight.dtype for weight in model.trainable_variables} == {"float32"}
    ids = np.array([[1, 2, 3]])
    assert model(ids).dtype == tf.float32
    assert model.forward(ids).hidden.dtype == tf.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be a positive integer, got 0"),
        ({"hidden_dim": 2.5}, "hidden_dim must be a positive integer, got 2.5"),
        ({"num_layers": True}, "num_layers must be a positive integer, got True"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        model_of(**fields)


@pytest.mark.parametrize("num_parameters", [-5, 0, 88])
def test_too_few_weights_are_named(num_parameters):
    # 65 + 2 * (8 + 4) = 89 with a width of 1.
    with pytest.raises(ValueError, match=f"at least 89 .* got {num_parameters}"):
        LSTMLanguageModel.from_num_parameters(num_parameters, vocabulary_size=65)
    with pytest.raises(ValueError, match="must be an integer, got 1000000.0"):
        LSTMLanguageModel.from_num_parameters(1e6, vocabulary_size=65)
