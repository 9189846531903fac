"""A fine-tuned GPT beside LoRA and other classifiers, on few and on all examples."""

from __future__ import annotations

import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags as absl_flags

from keras_gpt.tools import inputs
from keras_gpt.tools.benchmarks import decode_sides, own_process

MODELS = {
    "gpt": "pretrained GPT",
    "lora": "the same, LoRA",
    "random_gpt": "the same, untrained",
    "lstm": "LSTM",
    "words": "bag of words",
}
SIZES = ("few", "all")
NEEDED = ("model", "examples", "test")


class Recipe(NamedTuple):
    """How a network is trained.

    Attributes:
        learning_rate: float. Peak; it falls to 0 at the end.
        epochs: int. Passes over the examples, if there is time.
    """

    learning_rate: float
    epochs: int


# Rates are the best of those tried on 1,500 held-out training examples of Banking77,
# with a GPT of 1.3M weights, 10 examples a label and 40 epochs: GPT 1e-3 of 1e-3 and
# 3e-3, LoRA 5e-3 of 2e-3, 5e-3 and 2e-2, LSTM 5e-3 of 5e-3 and 1e-2. With all examples
# and for the untrained GPT they are the same.
RECIPES = {
    ("gpt", "few"): Recipe(1e-3, 40),
    ("gpt", "all"): Recipe(1e-3, 15),
    ("lora", "few"): Recipe(5e-3, 40),
    ("lora", "all"): Recipe(5e-3, 15),
    ("random_gpt", "few"): Recipe(1e-3, 40),
    ("random_gpt", "all"): Recipe(1e-3, 15),
    ("lstm", "few"): Recipe(5e-3, 40),
    ("lstm", "all"): Recipe(5e-3, 15),
}
# The best of 0, 1e-6, 1e-5, 3e-5, and of 1e-6, 3e-6, 1e-5, on 2,000 such examples.
L2 = {"few": 1e-5, "all": 3e-6}
LORA_RANK = 8  # on all four projections of a block; Hu et al. 2021
DROPOUT = 0.1  # Radford et al. 2018, section 4.1
WEIGHT_DECAY = 0.01  # Radford et al. 2018, section 4.1
CLIP_NORM = 1.0  # of the gradients, all together
WARMUP_SHARE = 0.1  # of the steps
JIT_COMPILE = True  # of all networks
BATCH_SIZE = 32  # Radford et al. 2018, section 4.1
MEASURED_STEPS = 20
LENGTH_MULTIPLE = 16  # of rows, in tokens
HELD_WHOLE = 0.99  # share of the examples that rows have room for


def run(flags: absl_flags.FlagValues) -> dict[str, Any]:
    """Trains all models with all seeds, one after the other, and prints a table."""
    if not all(flags[name].value for name in NEEDED):
        print("fine_tuning: needs --model, --examples and --test: left out")
        return {}
    job = {
        name: flags[name].value
        for name in (*NEEDED, "text_column", "label_column", "minutes", "per_class")
    }
    data = read(job)  # here, too: bad files are told before anything is trained
    print(
        f"fine_tuning: {len(data.texts):,} examples and {len(data.test_texts):,} to "
        f"test, {len(data.names)} labels; {flags.seeds} runs of each, at most "
        f"{flags.minutes:g} minutes"
    )
    results: dict[str, Any] = {}
    for size in SIZES if flags.size == "both" else [flags.size]:
        few = f"at most {flags.per_class} examples of each label"
        print(f"  {few if size == 'few' else 'all examples'}")
        results[size] = {}
        for model in MODELS:
            runs = [
                _in_own_process({**job, "model_kind": model, "size": size, "seed": s})
                for s in range(flags.seeds)
            ]
            results[size][model] = summary(runs)
            print(_line(model, results[size][model]), flush=True)
    return results


def _in_own_process(job: dict[str, Any]) -> dict[str, Any]:
    arguments = ["-m", "keras_gpt.tools.benchmarks.fine_tuning"]
    return own_process.measured(arguments, name=job["model_kind"], job=job)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what runs with several seeds come to.

    Args:
        runs: what `train` returned.

    Returns:
        Mean and spread of the accuracy (the standard deviation over the seeds, 0 for
        one), the medians of all else, and the runs.
    """
    accuracies = [one["accuracy"] for one in runs]
    others = [name for name in runs[0] if name != "accuracy"]
    return {
        "accuracy": statistics.mean(accuracies),
        "spread": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
        **{name: statistics.median(one[name] for one in runs) for name in others},
        "runs": list(runs),
    }


def _line(model: str, found: dict[str, Any]) -> str:
    return (
        f"    {MODELS[model]:19} {found['accuracy']:6.1%} ± {found['spread']:.1%}  "
        f"{found['trained_parameters']:,.0f} of {found['parameters']:,.0f} weights "
        f"trained, {found['seconds_per_epoch']:.1f} s an epoch, "
        f"{found['epochs']:.0f} epochs, peak {found['peak_megabytes']:,.0f} MB"
    )


class Data(NamedTuple):
    """Labelled texts.

    Attributes:
        texts, test_texts: lists of strings.
        labels, test_labels: lists of ints, numbers of `names`.
        names: list of strings, the labels.
    """

    texts: list[str]
    labels: list[int]
    test_texts: list[str]
    test_labels: list[int]
    names: list[str]


def read(job: dict[str, Any]) -> Data:
    """Reads the examples and the test set of a job.

    Raises:
        ValueError: if a file is broken, or a label of the test set is in no example.
        OSError: if a file cannot be read.
    """
    from keras_gpt.data import Column, read_table

    columns = {
        "text": Column(job["text_column"]),
        "label": Column(job["label_column"], "label"),
    }
    tables = [
        read_table(inputs.text_paths([job[name]]), columns=columns)
        for name in ("examples", "test")
    ]
    names = sorted(set(tables[0].columns["label"]))
    numbers = {name: number for number, name in enumerate(names)}
    for label, place in zip(tables[1].columns["label"], tables[1].places, strict=True):
        if label not in numbers:
            raise ValueError(
                f"{place}: a label must be in the examples, too, got {label!r}."
            )
    train_labels, test_labels = (
        [numbers[name] for name in table.columns["label"]] for table in tables
    )
    train_texts, test_texts = (table.columns["text"] for table in tables)
    return Data(train_texts, train_labels, test_texts, test_labels, names)


def drawn(labels: Sequence[int], *, per_class: int, seed: int) -> list[int]:
    """Draws examples of each label.

    Args:
        labels: ints (B,).
        per_class: int. Examples of each label; of a label with fewer, all.
        seed: int.

    Returns:
        Their rows, in order.
    """
    rows: list[int] = []
    counts: dict[int, int] = {}
    for row in np.random.default_rng(seed).permutation(len(labels)).tolist():
        counts[labels[row]] = counts.get(labels[row], 0) + 1
        if counts[labels[row]] <= per_class:
            rows.append(row)
    return sorted(rows)


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains one model on a job's examples; returns its accuracy and what it took."""
    import keras

    data = read(job)
    rows = list(range(len(data.texts)))
    if job["size"] == "few":
        rows = drawn(data.labels, per_class=job["per_class"], seed=job["seed"])
    given = data._replace(
        texts=[data.texts[row] for row in rows],
        labels=[data.labels[row] for row in rows],
    )
    keras.utils.set_random_seed(job["seed"])
    learn = _train_words if job["model_kind"] == "words" else _train_network
    model, test, found = learn(job, given)
    chosen = model.predict(test, batch_size=256, verbose=0).argmax(axis=-1)
    return {
        "accuracy": float(np.mean(chosen == np.array(data.test_labels))),
        "examples": len(given.texts),
        "parameters": model.count_params(),
        "trained_parameters": sum(
            math.prod(weight.shape) for weight in model.trainable_variables
        ),
        **found,
        "peak_megabytes": decode_sides.memory_megabytes()[1],
    }


def _train_words(job: dict[str, Any], data: Data) -> tuple[Any, Any, dict[str, Any]]:
    import tensorflow as tf

    from keras_gpt.baselines import BagOfWordsClassifier

    started = time.monotonic()
    model = BagOfWordsClassifier(num_classes=len(data.names), l2=L2[job["size"]])
    steps = model.fit_to_convergence(
        data.texts, data.labels, seconds=job["minutes"] * 60
    )
    seconds = time.monotonic() - started
    found = {"epochs": steps, "seconds": seconds, "seconds_per_epoch": seconds / steps}
    return model, tf.constant(data.test_texts), found


def _train_network(job: dict[str, Any], data: Data) -> tuple[Any, Any, dict[str, Any]]:
    """Trains a GPT or an LSTM, for a number of epochs that is set beforehand.

    So the learning rate comes down when the time is over.
    """
    import keras

    rows, test_rows = _tokenized(job, data)
    per_epoch = math.ceil(len(data.labels) / BATCH_SIZE)
    recipe = RECIPES[job["model_kind"], job["size"]]

    def trainer(epochs: int) -> tuple[Any, Callable[[int], None]]:
        keras.utils.set_random_seed(job["seed"])
        model = _model(job, data.names)
        _compile(
            model,
            learning_rate=recipe.learning_rate,
            total_steps=epochs * per_epoch,
        )
        batches = _batches(rows, data.labels, seed=job["seed"])
        return model, lambda steps: _fit(model, batches, steps)

    epochs = epochs_within(
        job["minutes"] * 60,
        fit=trainer(recipe.epochs)[1],
        per_epoch=per_epoch,
        at_most=recipe.epochs,
    )
    gc.collect()  # so that the peak of memory is that of one model
    started = time.monotonic()
    model, fit = trainer(epochs)
    fit(1)  # with the compilation, which is no part of an epoch
    compiled = time.monotonic()
    steps = epochs * per_epoch - 1
    fit(steps)
    ended = time.monotonic()
    found = {
        "epochs": epochs,
        "seconds": ended - started,
        "seconds_per_epoch": (ended - compiled) * per_epoch / steps,
    }
    return model, test_rows, found


def epochs_within(
    seconds: float,
    *,
    fit: Callable[[int], None],
    per_epoch: int,
    at_most: int,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Returns how many epochs fit into a time, at least one.

    Args:
        seconds: The time of a training run, with its compilation.
        fit: Trains so many steps; not compiled yet. It is called for 1 step and for
            `MEASURED_STEPS`.
        per_epoch: Steps of an epoch.
        at_most: Most epochs.
        clock: Seconds since any moment.
    """
    started = clock()
    fit(1)
    compilation = clock() - started  # the run itself compiles its step again
    started = clock()
    fit(MEASURED_STEPS)
    per_step = (clock() - started) / MEASURED_STEPS
    fitting = int((seconds - compilation) / (per_step * per_epoch))
    return min(max(fitting, 1), at_most)


def _tokenized(job: dict[str, Any], data: Data) -> list[dict[str, np.ndarray]]:
    """Returns rows of the examples and of the test; few examples are cut."""
    import tensorflow as tf

    from keras_gpt import GPTTextClassifierPreprocessor

    context = inputs.load_config(job["model"]).max_sequence_length
    preprocessor = GPTTextClassifierPreprocessor.from_preset(
        job["model"], sequence_length=context
    )
    mask = preprocessor.rows(tf.constant(data.texts), count=False)["padding_mask"]
    needed = np.quantile(mask.numpy().sum(axis=1), HELD_WHOLE)
    length = math.ceil(needed / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    preprocessor.sequence_length = min(length, context)
    return [
        {
            name: tensor.numpy()
            for name, tensor in preprocessor.rows(tf.constant(texts)).items()
        }
        for texts in (data.texts, data.test_texts)
    ]


def _batches(rows: dict[str, np.ndarray], labels: Sequence[int], *, seed: int) -> Any:
    """Returns an endless dataset of batches of one size, which compile once."""
    import tensorflow as tf

    from keras_gpt.models.fit_data import untuned

    data = tf.data.Dataset.from_tensor_slices((rows, np.array(labels, np.int32)))
    data = data.shuffle(len(labels), seed=seed).repeat().batch(BATCH_SIZE)
    return untuned(data.prefetch(2))  # for the LSTM, too


def _fit(model: Any, batches: Any, steps: int) -> None:
    model.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)


def _model(job: dict[str, Any], names: list[str]) -> Any:
    from keras_gpt import GPTTextClassifier
    from keras_gpt.baselines import LSTMClassifier
    from keras_gpt.models.lora import TARGETS

    if job["model_kind"] == "lstm":
        config = inputs.load_config(job["model"])
        return LSTMClassifier.from_num_parameters(
            config.num_parameters + len(names) * config.hidden_dim,
            num_classes=len(names),
            vocabulary_size=config.vocabulary_size,
            dropout=DROPOUT,
        )
    task = GPTTextClassifier.from_preset(
        job["model"],
        load_weights=job["model_kind"] != "random_gpt",
        label_names=names,
        dropout=DROPOUT,
        embedding_dropout=None,
        attention_dropout=None,
    )
    task.preprocessor = None  # it is given tokens, as the LSTM is
    if job["model_kind"] == "lora":
        task.backbone.enable_lora(LORA_RANK, TARGETS)
    return task


def _compile(model: Any, *, learning_rate: float, total_steps: int) -> None:
    import keras

    from keras_gpt.training import WarmupLinear
    from keras_gpt.training.optimizers import is_decayed

    schedule = WarmupLinear(
        learning_rate,
        total_steps=total_steps,
        warmup_steps=int(WARMUP_SHARE * total_steps),
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM
    )
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if not is_decayed(v)]
    )
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=JIT_COMPILE,
    )


if __name__ == "__main__":
    import sys

    print(json.dumps(train(json.load(sys.stdin))))
