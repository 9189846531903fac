"""Tests of finding the workers of a run, and of waiting for them."""

import json
import socket
import threading
import time

import pytest

from keras_gpt.training import Cluster, find_cluster, make_strategy
from keras_gpt.training.cluster import wait_for_workers
from tests.free_addresses import free_addresses


def _config(cluster, kind, index):
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_tf_config():
    workers = ["a:1", "b:2"]
    environ = _config({"worker": workers}, "worker", 1)
    assert find_cluster(environ=environ) == Cluster(("a:1", "b:2"), 1)
    # A chief comes first.
    with_chief = {"chief": ["c:3"], "worker": workers}
    found = find_cluster(environ=_config(with_chief, "worker", 1))
    assert found == Cluster(("c:3", "a:1", "b:2"), 2)
    assert find_cluster(environ=_config(with_chief, "chief", 0)).task_id == 0


def test_kubernetes():
    environ = {"JOB_COMPLETION_INDEX": "1"}
    assert find_cluster(["a:1", "b:2"], environ=environ) == Cluster(("a:1", "b:2"), 1)


def test_slurm(monkeypatch):
    environ = {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    workers = ("node07:12345", "node07:12346", "node08:12345", "node08:12346")
    assert find_cluster() == Cluster(workers, 2)


@pytest.mark.parametrize(
    "environ, workers, message",
    [
        ({}, None, "needs TF_CONFIG, Slurm's variables"),
        ({"TF_CONFIG": "{"}, None, "TF_CONFIG must be JSON like .*got '{'"),
        ({"TF_CONFIG": "[]"}, None, "TF_CONFIG must be JSON like"),
        ({"TF_CONFIG": '{"cluster": {}}'}, None, "TF_CONFIG must be JSON.*no 'task'"),
        (_config({"worker": ["a"]}, "worker", 0), None, "host:port, got 'a'"),
        (_config({"worker": ["a:1"]}, "worker", 1), None, r"in \[0, 1\), got 1"),
        (_config({"worker": ["a:1"]}, "evaluator", 0), None, "task 'evaluator'"),
        (_config({"ps": ["a:1"]}, "ps", 0), None, "at most a chief"),
        ({}, ["a:1", "b:2"], "JOB_COMPLETION_INDEX"),
        ({"JOB_COMPLETION_INDEX": "2"}, ["a:1", "b:2"], r"in \[0, 2\), got 2"),
    ],
)
def test_bad_clusters(environ, workers, message):
    with pytest.raises(ValueError, match=message):
        find_cluster(workers, environ=environ)


def test_a_worker_that_never_comes_is_named():
    here, there = free_addresses(2)
    with pytest.raises(ConnectionError, match=f"no answer from {there}"):
        wait_for_workers(Cluster((here, there), 0), timeout=0.5)
    # Through the strategy too, which TensorFlow would make wait for ever.
    with pytest.raises(ConnectionError, match=f"waited 0.3 s.*{there}"):
        make_strategy(
            "multi_worker", cluster=Cluster((here, there), 0), worker_timeout=0.3
        )


def test_workers_wait_for_a_late_one():
    workers = tuple(free_addresses(2))
    late = threading.Timer(
        1.0, wait_for_workers, (Cluster(workers, 1),), {"timeout": 20.0}
    )
    late.start()
    started = time.monotonic()
    wait_for_workers(Cluster(workers, 0), timeout=20.0)
    assert 0.9 < time.monotonic() - started < 15.0
    late.join()


def test_an_address_in_use_is_named():
    here, there = free_addresses(2)
    with socket.socket() as taken:
        taken.bind(("", int(here.rsplit(":")[-1])))
        taken.listen()
        with pytest.raises(ValueError, match=f"{here} cannot be taken"):
            wait_for_workers(Cluster((here, there), 0), timeout=0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "two_devices"}, "strategy must be one of one_device, mirrored"),
        ({"name": "one_device", "mesh": {"batch": 2}}, "mesh must be given for"),
        ({"name": "mesh"}, "mesh must be given for"),
        ({"name": "one_device", "devices": 2}, "devices must be given for"),
    ],
)
def test_strategies_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(**arguments)


def test_a_missing_tpu_is_told():
    with pytest.raises(ConnectionError, match="tpu must name a TPU"):
        make_strategy("tpu", tpu="")
