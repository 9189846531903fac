"""Who trains together: from TF_CONFIG, Slurm or Kubernetes; and waiting for them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DEFAULT_PORT = 12345
MAX_TASKS_PER_NODE = 1024
_PROBE_SECONDS = 0.2


class Cluster(NamedTuple):
    """The processes of a training run, in order.

    Attributes:
        workers: tuple of strings `host:port`. The first is the chief.
        task_id: int. Which of them this process is.
    """

    workers: tuple[str, ...]
    task_id: int


def find_cluster(
    workers: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None
) -> Cluster:
    """Finds the cluster in the environment.

    In this order: `TF_CONFIG`; a list of workers, with the index from Kubernetes'
    `JOB_COMPLETION_INDEX` or Slurm's `SLURM_PROCID`; Slurm's variables alone (one
    worker a task, all on port 12345 + its number on the machine).

    Args:
        workers: list of strings `host:port`. Optional.
        environ: mapping. Defaults to the process's environment.

    Raises:
        ValueError: if there is no cluster, or it does not parse; the message names
            the variable and what it holds.
    """
    environ = os.environ if environ is None else environ
    if environ.get("TF_CONFIG"):
        return _from_tf_config(environ["TF_CONFIG"])
    if workers:
        return _checked(workers, _index(environ), "workers")
    if "SLURM_PROCID" in environ:
        return _from_slurm(environ)
    raise ValueError(
        "strategy 'multi_worker' needs TF_CONFIG, Slurm's variables (SLURM_PROCID), "
        "or workers with JOB_COMPLETION_INDEX; none of them is set."
    )


def wait_for_workers(cluster: Cluster, *, timeout: float) -> None:
    """Returns once every other worker's address can be reached.

    While it waits it listens at its own address, for the others to find.

    Args:
        cluster: `Cluster`.
        timeout: float, in seconds.

    Raises:
        ConnectionError: if some do not come in time, naming them.
        ValueError: if this worker's own address cannot be taken.
    """
    missing = [w for i, w in enumerate(cluster.workers) if i != cluster.task_id]
    deadline = time.monotonic() + timeout
    with _listening(cluster.workers[cluster.task_id]):
        while missing:
            missing = [address for address in missing if not _answers(address)]
            if missing and time.monotonic() > deadline:
                raise ConnectionError(
                    f"Worker {cluster.task_id} waited {timeout:g} s for all "
                    f"{len(cluster.workers)} workers; no answer from "
                    f"{', '.join(missing)}."
                )
            if missing:
                time.sleep(_PROBE_SECONDS)
        # Those who look for this worker just now still find somebody here.
        time.sleep(2 * _PROBE_SECONDS if len(cluster.workers) > 1 else 0.0)


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        roles = dict(config["cluster"])
        task = config["task"]
        kind, number = task["type"], int(task["index"])
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            'TF_CONFIG must be JSON like {"cluster": {"worker": ["host:port"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}, got {text!r} ({reason}).'
        ) from error
    unknown = sorted(set(roles) - {"chief", "worker"})
    if unknown or kind not in roles:
        raise ValueError(
            "TF_CONFIG must have workers and at most a chief, each process one of "
            f"them, got task {kind!r} and {', '.join(sorted(roles))}."
        )
    chiefs = list(roles.get("chief", []))
    index = number + (len(chiefs) if kind == "worker" else 0)
    return _checked(chiefs + list(roles.get("worker", [])), index, "TF_CONFIG")


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    import tensorflow as tf

    count = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or "1"
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            {"worker": int(count)},
            port_base=DEFAULT_PORT,
            # Enough that it never limits the tasks of a node.
            gpus_per_node=MAX_TASKS_PER_NODE,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        workers = resolver.cluster_spec().as_dict()["worker"]
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Slurm's variables must name the tasks and their nodes, got {count} tasks "
            f"on {hosts!r}: {error}"
        ) from error
    return _checked(workers, int(environ["SLURM_PROCID"]), "SLURM_PROCID")


def _index(environ: Mapping[str, str]) -> int:
    for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID"):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    raise ValueError(
        "workers need the number of this one, in JOB_COMPLETION_INDEX (Kubernetes "
        "sets it in an Indexed Job); it is not set."
    )


def _checked(workers: Sequence[Any], index: int, source: str) -> Cluster:
    for address in workers:
        host, _, port = str(address).rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(
                f"{source} must name workers as host:port, got {address!r}."
            )
    if not 0 <= index < len(workers):
        raise ValueError(
            f"{source} must number this worker in [0, {len(workers)}), got {index}."
        )
    return Cluster(tuple(map(str, workers)), index)


@contextlib.contextmanager
def _listening(address: str) -> Any:
    _, port = address.rsplit(":", 1)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", int(port)))
        except OSError as error:
            raise ValueError(
                f"This worker's own address {address} cannot be taken: "
                f"{error.strerror}."
            ) from error
        server.listen(128)
        yield


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False
