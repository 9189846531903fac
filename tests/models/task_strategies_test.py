"""`fit` and `evaluate` of tasks are the same on one device and on two replicas.

In processes of their own, for a CPU can be split into devices only before TensorFlow
uses it.
"""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.conftest import REPOSITORY

TOLERANCE = 1e-5
# Losses of single outputs, which Keras means over replicas whatever their rows.
OF_KERAS = {"start_loss", "end_loss"}

TRAIN = """
    import contextlib, json, sys
    import keras, tensorflow as tf
    from keras_gpt import models
    from keras_gpt.tokenizer import train_tokenizer
    from tests.conftest import TEXT
    from tests.models.tasks_test import CASES

    devices = int(sys.argv[1])
    if devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * devices,
        )
        scope = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"]).scope
    else:
        scope = contextlib.nullcontext
    tokenizer = train_tokenizer([TEXT], vocabulary_size=300)

    def sized(given, rows):
        if isinstance(given, dict):
            return {name: sized(part, rows) for name, part in given.items()}
        return given and (given * 2)[:rows]

    def run(name, *, rows, optimizer, weights=None, **options):
        cls, x, y, kwargs = CASES[name]
        x, y = sized(x, rows), sized(y, rows)
        keras.utils.set_random_seed(0)
        with scope():
            backbone = models.GPTBackbone.from_size(
                "gpt_nano", vocabulary_size=300, num_layers=1, dropout=0.1
            )
            preprocessor = cls.preprocessor_cls(tokenizer, sequence_length=24)
            task = cls(backbone, preprocessor=preprocessor, **kwargs)
            task.compile(
                keras.optimizers.deserialize(optimizer),
                jit_compile=False, seed=5, auxiliary_lm_weight=0.5, **options
            )
        weights = weights and tf.constant(weights)
        history = task.fit(
            x, y, batch_size=8, epochs=2, shuffle=False, sample_weight=weights,
            verbose=0,
        )
        measured = task.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
        squares = [float((weight**2).sum()) for weight in task.get_weights()]
        return [history.history, measured, squares]

    for arguments in json.loads(sys.argv[2]):
        print("RESULT", json.dumps(run(**arguments)))
"""


def optimizer(name, **config):
    return {"class_name": name, "config": {"global_clipnorm": 0.3, **config}}


SGD = optimizer("SGD", learning_rate=0.1, momentum=0.5)
RUNS = {
    # The last batch has one row, so that a replica has none.
    "classifier": {
        "rows": 9,
        "accumulate": 2,
        "optimizer": SGD,
        "weights": np.linspace(0.5, 2.0, 9).tolist(),
    },
    "responses": {
        "rows": 7,
        "optimizer": {
            "class_name": "LossScaleOptimizer",
            "config": {"inner_optimizer": {"module": "keras.optimizers", **SGD}},
        },
    },
    "answering": {"rows": 7, "optimizer": optimizer("AdamW", learning_rate=1e-3)},
}


def _start(devices):
    runs = [{"name": name, **options} for name, options in RUNS.items()]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN), str(devices), json.dumps(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _results(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    lines = [line for line in output.splitlines() if line.startswith("RESULT")]
    found = [json.loads(line.removeprefix("RESULT")) for line in lines]
    return dict(zip(RUNS, found, strict=True))


@pytest.mark.slow
def test_two_replicas_equal_one_device():
    one, two = (_results(process) for process in [_start(1), _start(2)])
    for name, (history, measured, squares) in one.items():
        found = two[name]
        assert history["loss"][1] < history["loss"][0]
        for expected, got in ((history, found[0]), (measured, found[1])):
            assert got.keys() == expected.keys()
            for key in expected.keys() - OF_KERAS:
                np.testing.assert_allclose(got[key], expected[key], rtol=TOLERANCE)
        np.testing.assert_allclose(found[2], squares, rtol=TOLERANCE, atol=TOLERANCE**2)
