"""Distribution strategies by name."""

from __future__ import annotations

import tensorflow as tf

STRATEGIES = ("one_device",)


def make_strategy(name: str = "one_device") -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy of that name.

    Args:
        name: string. `"one_device"`: the first GPU, or the CPU where there is none.

    Raises:
        ValueError: if no strategy has that name.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}."
        )
    device = "/gpu:0" if tf.config.list_physical_devices("GPU") else "/cpu:0"
    return tf.distribute.OneDeviceStrategy(device)
