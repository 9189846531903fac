"""Training is the same on one device, on replicas, workers and meshes.

Each strategy runs in processes of its own: a CPU can be split into devices only
before TensorFlow uses it.
"""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.free_addresses import free_addresses

STEPS = 20
TOLERANCE = 1e-4

# Dropout, clipping that clips, decay, a tied embedding that the mesh splits; masked
# targets and packed documents in one of the two kinds of batches.
TRAIN = """
    import json, os, sys
    import keras, numpy as np
    from keras_gpt.data import ExampleBatch
    from keras_gpt.models import GPTBackbone
    from keras_gpt.training import (
        Cluster, make_eval_step, make_strategy, make_train_step, training_optimizer,
    )
    from keras_gpt.training.strategy import barrier, local_rows, read_variable

    PROJECTIONS = ["query_key_value", "output_projection", "expand", "contract"]

    def train(strategy, *, packed=False, optimizer="adamw", lora=False, **options):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            backbone = GPTBackbone.from_size(
                "gpt_nano", vocabulary_size=64, num_heads=4, dropout=0.1,
                num_layers=2 if lora else 1,
            )
            if lora:
                backbone.enable_lora(4, PROJECTIONS, dropout=0.1)
                for weight in backbone.trainable_variables:
                    rng = np.random.default_rng(weight.shape[0])
                    weight.assign(rng.normal(0.0, 0.2, weight.shape))
            keras_optimizer = training_optimizer(
                backbone.trainable_variables, kind=optimizer, learning_rate=0.01
            )
        step = make_train_step(
            backbone, optimizer=keras_optimizer, strategy=strategy, clip_norm=0.5,
            seed=7, **options
        )
        evaluate = make_eval_step(backbone, strategy=strategy)
        first, number = local_rows(strategy, 8)
        losses = []
        for index in range(20):
            rng = np.random.default_rng(index)
            batch = ExampleBatch(rng.integers(0, 64, [8, 17]).astype(np.int32) // 8)
            if packed:
                segments = np.sort(rng.integers(1, 4, [8, 17]), axis=1)
                batch = ExampleBatch(
                    batch.windows, rng.random([8, 16]) < 0.6, segments.astype(np.int32)
                )
            mine = batch.map(lambda field: field[first : first + number])
            losses.append(float(step(mine).loss))
        sums = evaluate(mine)
        losses.append(float(sums.total) / float(sums.count))
        weights = [np.asarray(read_variable(strategy, v)) for v in backbone.weights]
        barrier(strategy)
        return losses, float(sum((w.astype(np.float64) ** 2).sum() for w in weights))

    for arguments in json.loads(sys.argv[1]):
        make = arguments.pop("make")
        if "cluster" in make:
            make["cluster"] = Cluster(*make["cluster"])
        print("RESULT", json.dumps(train(make_strategy(**make), **arguments)))
"""


def _start(runs):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN), json.dumps(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _results(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    lines = [line for line in output.splitlines() if line.startswith("RESULT")]
    return [json.loads(line.removeprefix("RESULT")) for line in lines]


PACKED = {"packed": True, "optimizer": "adafactor"}
KINDS = [{}, PACKED, {"lora": True}]
ONE = {"name": "one_device"}
MIRRORED = {"name": "mirrored", "devices": 2}
MESH = {"name": "mesh", "mesh": {"batch": 2, "model": 2}}


@pytest.fixture(scope="module")
def one_device():
    """Losses of one device by the kind of batches and the optimizer."""
    results = _results(_start([{"make": ONE, **kind} for kind in KINDS]))
    for losses, _ in results:
        assert losses[0] - losses[STEPS - 1] > 0.1
    return {json.dumps(k): r for k, r in zip(KINDS, results, strict=True)}


def _check(result, expected):
    losses, squares = result
    np.testing.assert_allclose(losses, expected[0], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(squares, expected[1], rtol=TOLERANCE)


@pytest.mark.parametrize("make", [ONE, MIRRORED, MESH], ids=lambda make: make["name"])
def test_losses_equal_those_of_one_device(one_device, make):
    options = [{"accumulate": 2, "remat": True}, {"accumulate": 4}, {"remat": True}]
    if make == ONE:
        options = [*options[1:], {"jit_compile": False}]
    else:
        options = [*KINDS, options[0]]
    results = _results(_start([{"make": make, **option} for option in options]))
    for option, result in zip(options, results, strict=True):
        _check(result, one_device[json.dumps(option if option in KINDS else {})])


@pytest.mark.distributed
def test_two_workers_equal_one_device(one_device):
    workers = free_addresses(2)
    makes = [{"name": "multi_worker", "cluster": [workers, i]} for i in range(2)]
    processes = [_start([{"make": make, **PACKED}]) for make in makes]
    for process in processes:
        _check(_results(process)[0], one_device[json.dumps(PACKED)])
