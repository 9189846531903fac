"""Times the loading of a SavedModel and its first requests, with tensorflow alone.

Usage: python load_saved_model.py FOLDER RUNNER

RUNNER is export/run_saved_model.py. Prints, as JSON, the seconds to read the folder's
files and to load it, and those of ten requests once the warm-up records have run.
"""

import json
import os
import runpy
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NUM_REQUESTS = 10
NUM_TOKENS = 16  # of each


def main() -> None:
    """Measures and prints."""
    import tensorflow as tf

    folder, runner = sys.argv[1], runpy.run_path(sys.argv[2])
    _read(folder)  # so that both, the next and the load, find the files in memory
    reading = _seconds(lambda: _read(folder))
    models = []
    loading = _seconds(lambda: models.append(tf.saved_model.load(folder)))
    (model,) = models
    warming = _seconds(lambda: runner["run_warm_up"](model, folder))
    defaults = runner["signature_defaults"](folder)["generate"]
    inputs = {**defaults, "max_new_tokens": tf.constant([NUM_TOKENS])}
    generate = model.signatures["generate"]
    text = tf.constant(["Once upon a time"])
    requests = [
        _seconds(lambda: generate(text=text, **inputs)["token_ids"].numpy())
        for _ in range(NUM_REQUESTS)
    ]
    result = {"read": reading, "load": loading, "warm_up": warming}
    print(json.dumps({**result, "requests": requests}))


def _read(folder):  # type: ignore[no-untyped-def]
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                while file.read(1 << 24):
                    pass


def _seconds(work):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
