"""The comparison of fine-tuned models, on a small table and with tiny models."""

import json

import pytest

from keras_gpt.tools import cli
from keras_gpt.tools.benchmarks import fine_tuning
from keras_gpt.tools.benchmarks.fine_tuning import Recipe

WORDS = ["king", "lord", "queen", "man", "citizen", "patrician", "they", "you"]
NETWORKS = [model for model in fine_tuning.MODELS if model != "words"]


@pytest.fixture(scope="module")
def preset(causal_lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "preset"
    causal_lm.save_to_preset(str(path))
    return path


def write_csv(path, words):
    rows = [f"{kind} {word},{kind}" for kind in ("good", "bad") for word in words]
    path.write_text("\n".join(["said,sort", *rows]) + "\n")
    return str(path)


@pytest.fixture
def job(preset, tmp_path):
    return {
        "model": str(preset),
        "examples": write_csv(tmp_path / "train.csv", WORDS),
        "test": write_csv(tmp_path / "test.csv", ["people", "dead"]),
        "text_column": "said",
        "label_column": "sort",
        "minutes": 1.0,
        "per_class": 3,
        "size": "all",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("model", "learning_rate"), [("gpt", 0.01), ("lora", 0.1), ("lstm", 0.02)]
)
def test_each_network_learns_the_examples(model, learning_rate, job, monkeypatch):
    recipe = Recipe(learning_rate, 20)
    monkeypatch.setitem(fine_tuning.RECIPES, (model, "all"), recipe)
    monkeypatch.setattr(fine_tuning, "JIT_COMPILE", False)
    monkeypatch.setattr(fine_tuning, "epochs_within", lambda *_, at_most, **__: at_most)
    found = fine_tuning.train({**job, "model_kind": model})
    assert found["accuracy"] == 1.0
    assert found["examples"] == 16 and found["epochs"] == 20
    assert 0 < found["seconds_per_epoch"] < found["seconds"]
    assert found["peak_megabytes"] > 100
    share = found["trained_parameters"] / found["parameters"]
    assert share < 0.5 if model == "lora" else share == 1.0


def test_the_bag_of_words_learns_a_few_examples(job):
    found = fine_tuning.train({**job, "model_kind": "words", "size": "few"})
    assert found["accuracy"] == 1.0
    assert found["examples"] == 2 * 3
    assert found["epochs"] % 20 == 0


def embeddings_of(model):
    return model.backbone.token_embedding.embeddings.numpy()


def test_networks_begin_as_they_are_called(job, causal_lm):
    models = {
        name: fine_tuning._model({**job, "model_kind": name}, ["bad", "good"])
        for name in NETWORKS
    }
    pretrained = embeddings_of(causal_lm)
    for name in ("gpt", "lora"):
        assert (embeddings_of(models[name]) == pretrained).all()
    assert abs(embeddings_of(models["random_gpt"]) - pretrained).mean() > 0.01
    layers = causal_lm.backbone.config.num_layers
    # Two matrices of each of four projections, and the head.
    assert len(models["lora"].trainable_variables) == layers * 4 * 2 + 1
    ratio = models["lstm"].count_params() / models["gpt"].count_params()
    assert 0.9 < ratio <= 1.0


def test_rows_have_room_for_all_but_the_longest_examples(job, monkeypatch):
    data = fine_tuning.read(job)
    texts = [*data.texts, "king " * 20]
    rows, test_rows = fine_tuning._tokenized(job, data._replace(texts=texts))
    assert rows["token_ids"].shape == (17, 32)
    assert test_rows["padding_mask"].shape == (4, 32)
    monkeypatch.setattr(fine_tuning, "HELD_WHOLE", 0.9)
    rows, _ = fine_tuning._tokenized(job, data._replace(texts=texts))
    assert rows["token_ids"].shape == (17, 16)


def test_examples_of_each_label_are_drawn_by_the_seed():
    labels = [0] * 50 + [1] * 2 + [2] * 50
    rows = fine_tuning.drawn(labels, per_class=5, seed=1)
    assert [labels[row] for row in rows] == [0] * 5 + [1] * 2 + [2] * 5
    assert rows == fine_tuning.drawn(labels, per_class=5, seed=1)
    assert rows != fine_tuning.drawn(labels, per_class=5, seed=2)


def test_epochs_fill_the_time_that_compilation_leaves():
    now = [0.0]

    def fit(steps):
        now[0] += 10.0 if steps == 1 else steps * 0.5

    def epochs(seconds, at_most=9):
        return fine_tuning.epochs_within(
            seconds, fit=fit, per_epoch=8, at_most=at_most, clock=lambda: now[0]
        )

    assert epochs(10.0 + 3.5 * 8 * 0.5) == 3
    assert epochs(1.0) == 1
    assert epochs(1000.0) == 9


def test_a_label_of_the_test_alone_is_told(job, tmp_path):
    job["test"] = str(tmp_path / "odd.csv")
    (tmp_path / "odd.csv").write_text("said,sort\na,good\nb,fair\n")
    with pytest.raises(ValueError, match=r"line 3: a label must .* got 'fair'"):
        fine_tuning.read(job)


def benchmark(job, *flags):
    names = ("model", "examples", "test", "text_column", "label_column")
    given = [f"--{name}={job[name]}" for name in names]
    return cli.main(["benchmark", "fine_tuning", *given, *flags])


def test_all_are_run_with_all_seeds_and_compared(job, monkeypatch, tmp_path, capsys):
    asked = []

    def measure(given):
        asked.append((given["size"], given["model_kind"], given["seed"]))
        assert given["per_class"] == 7 and given["minutes"] == 0.5
        return {
            "accuracy": 0.5 + 0.1 * given["seed"],
            "parameters": 2000,
            "trained_parameters": 1000,
            "seconds_per_epoch": 1.0 + given["seed"] ** 2,
            "epochs": 3,
            "peak_megabytes": 1234.0,
        }

    monkeypatch.setattr(fine_tuning, "_in_own_process", measure)
    path = tmp_path / "result.json"
    flags = ("--minutes=0.5", "--seeds=3", "--per_class=7", f"--json={path}")
    assert benchmark(job, *flags) == 0
    assert asked == [
        (size, model, seed)
        for size in ("few", "all")
        for model in fine_tuning.MODELS
        for seed in range(3)
    ]
    printed = capsys.readouterr().out
    assert "16 examples and 4 to test, 2 labels; 3 runs of each" in printed
    line = (
        "LSTM                 60.0% ± 10.0%  1,000 of 2,000 weights trained, "
        "2.0 s an epoch, 3 epochs, peak 1,234 MB"
    )
    assert printed.count(line) == 2
    result = json.loads(path.read_text())["fine_tuning"]["few"]["gpt"]
    assert result["accuracy"] == pytest.approx(0.6)
    assert result["spread"] == pytest.approx(0.1)
    assert [run["accuracy"] for run in result["runs"]] == [0.5, 0.6, 0.7]


def test_each_run_is_a_process_of_its_own(job, monkeypatch, capsys):
    monkeypatch.setattr(fine_tuning, "MODELS", {"words": "bag of words"})
    assert benchmark(job, "--seeds=1", "--size=all") == 0
    assert "bag of words        100.0% ± 0.0%" in capsys.readouterr().out


def test_without_files_it_is_left_out(capsys):
    assert cli.main(["benchmark", "fine_tuning"]) == 0
    assert "needs --model, --examples and --test" in capsys.readouterr().out
