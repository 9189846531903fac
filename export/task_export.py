"""What `export_saved_model` needs of a task, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.export.serving_files import Guide
from keras_gpt.export.signatures.inputs import Outputs, Signature
from keras_gpt.export.verify import Check


class TaskExport(NamedTuple):
    """A task as it is to be exported.

    Attributes:
        module: `tf.Module` of just the state that is served.
        signatures: `Signature` by name.
        requests: function that returns the warm-up requests: names of signatures, each
            with all of its inputs.
        checks: function that returns the checks of what was written.
        card: dict. The task's part of the model card.
        guide: `Guide`. The task's part of the README.
    """

    module: tf.Module
    signatures: dict[str, Signature]
    requests: Callable[[], Iterable[tuple[str, Outputs]]]
    checks: Callable[[], Sequence[Check]]
    card: dict[str, Any]
    guide: Guide
