"""One version of a model, loaded and run as TF Serving does it: in a session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_gpt.export.server.errors import RequestError, invalid, one_line
from keras_gpt.export.server.signature import Arrays, Signature

SAVED_MODEL = "saved_model.pb"
# Where TF Serving looks for requests to run before a version takes others.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
DEFAULT_SIGNATURE = "serving_default"
MAX_MILLISECONDS = 2**31 - 1  # 24 days


class LoadedModel:
    """A SavedModel in memory; `close` frees it.

    Args:
        folder: the version folder.
        version: int.

    Attributes:
        folder: path.
        version: int.
        signature_defs: name to `SignatureDef`, as written.
        signatures: name to `Signature`, of those that requests can ask for.

    Raises:
        Exception: whatever TensorFlow raises for a broken SavedModel.
    """

    def __init__(self, folder: Path, version: int):
        self.folder = folder
        self.version = version
        self._holds = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default(), _without_deprecations():
                loaded = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], str(folder)
                )
            self.signature_defs = dict(loaded.signature_def)
            self.signatures = {
                name: Signature.of(name, proto)
                for name, proto in self.signature_defs.items()
                if not name.startswith("__") and _is_dense(proto)
            }
        except BaseException:
            self._session.close()
            raise

    def signature(self, name: str) -> Signature:
        """Returns a signature; `""` is `serving_default`.

        Raises:
            RequestError: if there is none of the name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            known = ", ".join(sorted(self.signatures)) or "none"
            raise invalid(f"signature must be of {known}, got {name!r}.")
        return self.signatures[name]

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        *,
        timeout: float | None = None,
    ) -> Arrays:
        """Returns all outputs by name. Threads may call it at the same time.

        Args:
            signature: one of this model.
            inputs: every input, all with the same rows.
            timeout: seconds that it may take. Optional.

        Raises:
            tf.errors.OpError: if the model fails, or is too late.
        """
        fetches = {name: spec.tensor for name, spec in signature.outputs.items()}
        feeds = {signature.inputs[name].tensor: inputs[name] for name in inputs}
        options = None
        if timeout is not None:
            # 0 would be no limit.
            milliseconds = min(max(int(timeout * 1000), 1), MAX_MILLISECONDS)
            options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        return self._session.run(fetches, feed_dict=feeds, options=options)

    @contextlib.contextmanager
    def hold(self) -> Iterator[LoadedModel]:
        """Keeps the version in memory within. For the thread of the event loop."""
        self._holds += 1
        self._is_idle.clear()
        try:
            yield self
        finally:
            self._holds -= 1
            if not self._holds:
                self._is_idle.set()

    async def wait_until_idle(self) -> None:
        """Waits until nothing holds the version."""
        await self._is_idle.wait()

    def warm_up(self) -> int:
        """Runs the requests that were exported with the model, if any.

        They are trusted like the model, so that no limit of requests holds for them.

        Returns:
            how many there were.

        Raises:
            RuntimeError: if one of them cannot be run; the version is broken then.
        """
        count = 0
        for request in self._warmup_requests():
            try:
                signature = self.signature(request.model_spec.signature_name)
                inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
                whole, _ = signature.complete(inputs)
                self.run(signature, whole)
            except (RequestError, tf.errors.OpError, ValueError, TypeError) as error:
                raise RuntimeError(
                    f"warm-up record {count} of {self.folder / WARMUP_FILE} fails: "
                    f"{one_line(str(error))}"
                ) from error
            count += 1
        return count

    def _warmup_requests(self) -> Iterator:
        path = self.folder / WARMUP_FILE
        if not path.exists():
            return
        for record in tf.data.TFRecordDataset(str(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if log.HasField("predict_log"):  # The others are of calls not served.
                yield log.predict_log.request

    def close(self) -> None:
        """Frees the weights. No call may be running."""
        self._session.close()
        self.signatures = {}


def _is_dense(proto: tf.compat.v1.SignatureDef) -> bool:
    """Whether inputs and outputs are plain tensors, the only ones a request has."""
    infos = [*proto.inputs.values(), *proto.outputs.values()]
    return all(info.WhichOneof("encoding") == "name" for info in infos)


class _without_deprecations(logging.Filter):  # noqa: N801
    """Hides that TensorFlow calls its loader for sessions old; it is what serves."""

    def __enter__(self) -> None:
        tf.get_logger().addFilter(self)

    def __exit__(self, *unused: object) -> None:
        tf.get_logger().removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps what is about the model."""
        return "deprecated" not in record.getMessage()
