"""Distribution strategies by name, and what a training loop asks of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_gpt.data.batch import ExampleBatch
from keras_gpt.training.cluster import Cluster, find_cluster, wait_for_workers
from keras_gpt.training.mesh import MeshStrategy

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu", "mesh")
WORKER_TIMEOUT = 600.0  # seconds

Strategy: TypeAlias = tf.distribute.Strategy | MeshStrategy


class Rows(NamedTuple):
    """A share of a batch's rows.

    Attributes:
        first: int. Number of the first row in the whole batch.
        size: int.
    """

    first: int
    size: int


def make_strategy(
    name: str = "one_device",
    *,
    devices: int | None = None,
    mesh: Mapping[str, int] | None = None,
    cluster: Cluster | None = None,
    worker_timeout: float = WORKER_TIMEOUT,
    tpu: str = "",
) -> Strategy:
    """Returns the strategy of that name.

    Call it before anything else uses TensorFlow's devices: afterwards a CPU cannot
    be split, and workers cannot connect.

    Args:
        name: string. `"one_device"`: the first GPU, or the CPU where there is none.
            `"mirrored"`: a copy of the model on each of several devices of this
            machine. `"multi_worker"`: a copy on each device of several machines.
            `"tpu"`: a copy on each TPU core. `"mesh"`: the model split over devices
            (`MeshStrategy`).
        devices: int. For `"mirrored"`: how many, defaults to all GPUs or, without
            one, 1. A CPU is split into so many logical devices where there are no
            GPUs.
        mesh: mapping of `"batch"` and `"model"` to sizes, for `"mesh"`.
        cluster: `Cluster`, for `"multi_worker"`. Defaults to what `find_cluster`
            finds in the environment.
        worker_timeout: float, in seconds. How long to wait for the other workers.
            Defaults to 600.
        tpu: string. Name or address, for `"tpu"`; defaults to the local one.

    Raises:
        ValueError: if no strategy has that name, an argument does not belong to it,
            or there are too few devices.
        ConnectionError: if a worker does not come, or there is no TPU.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}."
        )
    if (mesh is not None) != (name == "mesh"):
        raise ValueError(f"mesh must be given for strategy 'mesh' alone, got {name!r}.")
    if devices is not None and name != "mirrored":
        raise ValueError(
            f"devices must be given for strategy 'mirrored' alone, got {name!r}."
        )
    if name == "one_device":
        gpus = tf.config.list_physical_devices("GPU")
        return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    if name == "mirrored":
        names = _local_devices(devices)
        # Between parts of one CPU there is nothing to gain from collectives, and two
        # strategies of one process would share their keys.
        on_cpu = names[0].startswith("/cpu")
        reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
        return tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)
    if name == "mesh":
        sizes = dict(mesh)  # type: ignore[arg-type]
        _local_devices(sizes.get("batch", 1) * sizes.get("model", 1))
        return MeshStrategy(sizes)
    if name == "tpu":
        return _tpu_strategy(tpu)
    return _multi_worker_strategy(cluster or find_cluster(), worker_timeout)


def local_rows(strategy: Strategy, batch_size: int) -> Rows:
    """Returns which rows of each batch this process feeds.

    Raises:
        ValueError: if the rows cannot be shared evenly among the replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if isinstance(strategy, MeshStrategy):
        replicas = strategy.sizes["batch"]
    if batch_size % replicas:
        raise ValueError(
            f"batch_size must be a multiple of the number of replicas = {replicas}, "
            f"got {batch_size}."
        )
    worker, num_workers = _place(strategy)
    count = batch_size // num_workers
    return Rows(worker * count, count)


def is_chief(strategy: Strategy) -> bool:
    """Returns whether this process is the one that writes files."""
    return _place(strategy)[0] == 0


def num_workers(strategy: Strategy) -> int:
    """Returns how many processes train together."""
    return _place(strategy)[1]


def num_devices(strategy: Strategy) -> int:
    """Returns how many devices train together; the parts of one CPU are one."""
    if not tf.config.list_physical_devices("GPU") and not isinstance(
        strategy, tf.distribute.TPUStrategy
    ):
        return num_workers(strategy)
    if isinstance(strategy, MeshStrategy):
        return strategy.mesh.size
    return strategy.num_replicas_in_sync


def barrier(strategy: Strategy) -> None:
    """Returns when every worker has come here."""
    if not isinstance(strategy, MeshStrategy) and num_workers(strategy) > 1:

        @tf.function
        def meet() -> Any:
            return strategy.run(
                lambda: tf.distribute.get_replica_context().all_reduce(
                    tf.distribute.ReduceOp.SUM, [tf.ones([1])]
                )
            )

        meet()


def agree(strategy: Strategy, value: int) -> bool:
    """Returns whether every worker came with the same number."""
    if isinstance(strategy, MeshStrategy) or num_workers(strategy) == 1:
        return True

    @tf.function
    def sums(number: tf.Tensor) -> Any:
        # Equal numbers are those whose squares' mean is the square of their mean.
        return strategy.run(
            lambda x: tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.MEAN, [tf.identity(x), x * x]
            ),
            args=(number,),
        )

    mean, square = (
        float(strategy.experimental_local_results(total)[0])
        for total in sums(tf.constant(value, tf.float64))
    )
    return square == mean * mean == float(value) ** 2


def read_variable(strategy: Strategy, variable: Any) -> tf.Tensor | np.ndarray:
    """Returns the value that a Keras variable has in training, whole.

    It stays what it is while training goes on.
    """
    if isinstance(strategy, MeshStrategy):
        return strategy.read(variable)
    return variable.value.read_value()


def on_replicas(
    strategy: tf.distribute.Strategy, batch: ExampleBatch
) -> tuple[ExampleBatch, Any]:
    """Hands the rows of this process to its replicas.

    Args:
        strategy: `tf.distribute.Strategy`.
        batch: arrays, with the rows that `local_rows` names.

    Returns:
        The batch and the number of its first row in the whole batch, each one value
        per replica.

    Raises:
        ValueError: if the rows cannot be shared evenly.
    """
    rows = len(batch.windows)
    worker, workers = _place(strategy)
    replicas = strategy.num_replicas_in_sync // workers
    if rows % replicas:
        raise ValueError(
            f"rows must be a multiple of the replicas of a process = {replicas}, got "
            f"{rows}."
        )
    share = rows // replicas

    if replicas == 1:
        first_row = tf.constant(worker * rows, tf.int64)
        return batch.map(tf.convert_to_tensor), first_row

    def each(value_of: Callable[[int], Any]) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                value_of(context.replica_id_in_sync_group * share)
            )
        )

    def part(field: Any) -> Any:
        return each(lambda row: field[row - worker * rows :][:share])

    return batch.map(part), each(np.int64)


def _place(strategy: Strategy) -> tuple[int, int]:
    """Returns the number of this worker and how many there are."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        resolver = strategy.cluster_resolver
        return resolver.task_id, resolver.cluster_spec().num_tasks("worker")
    return 0, 1


def _local_devices(count: int | None) -> list[str]:
    """Returns that many devices of this machine; without GPUs, parts of the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if count is not None and count > len(gpus):
            raise ValueError(
                f"devices must be at most the number of GPUs = {len(gpus)}, "
                f"got {count}."
            )
        return [f"/gpu:{index}" for index in range(count or len(gpus))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    wanted = count or 1
    parts = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(parts) < wanted:
        configuration = [tf.config.LogicalDeviceConfiguration()] * wanted
        try:
            tf.config.set_logical_device_configuration(cpu, configuration)
        except RuntimeError as error:
            raise ValueError(
                f"devices must be at most {len(parts)} now that TensorFlow uses the "
                f"CPU, got {wanted}: make the strategy before anything else."
            ) from error
    return [f"/cpu:{index}" for index in range(wanted)]


def _tpu_strategy(address: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConnectionError(
            f"tpu must name a TPU that can be reached, got {address!r}: {reason}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _multi_worker_strategy(
    cluster: Cluster, timeout: float
) -> tf.distribute.MultiWorkerMirroredStrategy:
    # TensorFlow itself would wait for ever, naming nobody.
    wait_for_workers(cluster, timeout=timeout)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.task_id,
        rpc_layer="grpc",
    )
    # TensorFlow takes SIGTERM for itself, and then nothing ends the process.
    handler = signal.getsignal(signal.SIGTERM)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    return strategy
