"""What a server counts, for Prometheus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import prometheus_client as prometheus

from keras_gpt.export.server.errors import Code, from_exception

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
# Of a request that fails before its signature is known to exist. Names that clients
# make up never become labels: each would take memory for ever.
NO_SIGNATURE = ""


class Call:
    """A request as it is counted; `signature` is set once it is known to exist."""

    def __init__(self) -> None:
        self.signature = NO_SIGNATURE
        self.code = Code.OK


class Metrics:
    """The counters of one server, apart from those of others in the process."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "keras_gpt_requests",
            "Requests by API, signature and status code.",
            ["api", "signature", "status"],
            registry=self._registry,
        )
        self._seconds = prometheus.Histogram(
            "keras_gpt_request_seconds",
            "Time from a request to its answer; of a stream, to its end.",
            ["api", "signature"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._rows = prometheus.Histogram(
            "keras_gpt_batch_rows",
            "Rows that ran together.",
            ["signature"],
            buckets=ROWS,
            registry=self._registry,
        )
        self.queued_rows = prometheus.Gauge(
            "keras_gpt_queued_rows", "Rows that wait.", registry=self._registry
        )
        self.loaded_versions = prometheus.Gauge(
            "keras_gpt_loaded_versions",
            "Versions in memory, those that are about to leave it included.",
            registry=self._registry,
        )

    @contextlib.contextmanager
    def request(self, api: str) -> Iterator[Call]:
        """Counts the request that is answered within, whatever becomes of it.

        Args:
            api: string, such as `"grpc"`.

        Raises:
            RequestError: in place of whatever failed within.
        """
        call, start = Call(), time.perf_counter()
        try:
            yield call
        except Exception as error:
            failure = from_exception(error)
            call.code = failure.code
            raise failure from error
        except BaseException:  # CancelledError: the client went away.
            call.code = Code.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - start
            self._requests.labels(api, call.signature, call.code.name).inc()
            self._seconds.labels(api, call.signature).observe(seconds)

    def batch(self, signature: str, rows: int) -> None:
        """Counts rows that ran together."""
        self._rows.labels(signature).observe(rows)

    def text(self) -> bytes:
        """Returns all of it in Prometheus' format."""
        return prometheus.generate_latest(self._registry)
