"""Joins the rows of requests that wait at the same time, and splits the results."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_gpt.export.server.errors import Code, RequestError, from_exception
from keras_gpt.export.server.loaded_model import LoadedModel
from keras_gpt.export.server.metrics import Metrics
from keras_gpt.export.server.options import ServerOptions
from keras_gpt.export.server.signature import Arrays, Signature


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A request that waits. `deadline` and `since` are in the loop's seconds."""

    inputs: Arrays
    rows: int
    deadline: float | None
    since: float
    result: asyncio.Future[Arrays]


class _Queue:
    """Requests that can be joined, the oldest first."""

    def __init__(self, model: LoadedModel, signature: Signature):
        self.model = model
        self.signature = signature
        self.requests: collections.deque[_Waiting] = collections.deque()

    @property
    def rows(self) -> int:
        return sum(request.rows for request in self.requests)


class Batcher:
    """Runs requests on a model, several together where they fit.

    Joined are requests for the same version and signature whose inputs agree in
    everything but dimension 0. All methods are for the thread of the event loop.

    Args:
        options: `ServerOptions`.
        metrics: `Metrics`.
    """

    def __init__(self, options: ServerOptions, metrics: Metrics):
        self._options = options
        self._metrics = metrics
        self._queues: dict[Hashable, _Queue] = {}
        self._queued_rows = 0
        self._num_streams = 0
        self._num_running = 0
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(
            options.num_batch_threads, thread_name_prefix="batch"
        )

    @property
    def is_idle(self) -> bool:
        """Whether no batch runs."""
        return not self._num_running

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Holds the place of a stream, whose further requests are `admitted`.

        Raises:
            RequestError: if there are as many as are allowed.
        """
        if self._num_streams >= self._options.max_queued_rows:
            raise RequestError(
                Code.UNAVAILABLE, f"{self._num_streams} streams are open: try later."
            )
        self._num_streams += 1
        try:
            yield
        finally:
            self._num_streams -= 1

    async def run(
        self,
        model: LoadedModel,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        *,
        deadline: float | None = None,
        is_admitted: bool = False,
    ) -> Arrays:
        """Returns the outputs of a request. Cancelled while it waits, it never runs.

        Args:
            model: `LoadedModel`.
            signature: one of the model.
            inputs: name to array; those with defaults may be left out.
            deadline: seconds on the loop's clock. Optional.
            is_admitted: bool. Whether to run it whatever its size and the queue's, as
                a part of something that was let in before.

        Raises:
            RequestError: if the request is wrong or too large, the queue is full, the
                deadline passes, or the model fails.
        """
        whole, rows = signature.complete(
            inputs,
            max_rows=self._options.max_rows_per_request,
            max_bytes=sys.maxsize if is_admitted else self._options.max_request_bytes,
        )
        loop = asyncio.get_running_loop()
        self._check_open(rows, is_admitted=is_admitted)
        if deadline is not None and deadline <= loop.time():
            raise _deadline_exceeded()
        waiting = _Waiting(whole, rows, deadline, loop.time(), loop.create_future())
        key = _key(model, signature, whole)
        queue = self._queues.setdefault(key, _Queue(model, signature))
        queue.requests.append(waiting)
        self._count(rows)
        self._start_batches()
        try:
            async with asyncio.timeout_at(deadline):
                return await waiting.result
        except TimeoutError as error:
            raise _deadline_exceeded() from error
        finally:
            self._leave(queue, waiting)

    def _check_open(self, rows: int, *, is_admitted: bool) -> None:
        if self._is_closed:
            raise RequestError(Code.UNAVAILABLE, "the server is stopping.")
        limit = self._options.max_queued_rows
        if not is_admitted and self._queued_rows + rows > limit:
            raise RequestError(
                Code.UNAVAILABLE,
                f"{self._queued_rows} of at most {limit} rows are waiting, so that "
                f"{rows} more cannot: try later.",
            )

    def _leave(self, queue: _Queue, waiting: _Waiting) -> None:
        if waiting in queue.requests:  # Cancelled, or its deadline passed.
            queue.requests.remove(waiting)
            self._count(-waiting.rows)

    def _count(self, rows: int) -> None:
        self._queued_rows += rows
        self._metrics.queued_rows.set(self._queued_rows)

    def _start_batches(self) -> None:
        """Starts what is due while there are threads, and sets the timer."""
        now = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._num_running < self._options.num_batch_threads:
            self._queues = {k: v for k, v in self._queues.items() if v.requests}
            if not self._queues:
                return
            due, queue = min(
                ((self._due(queue), queue) for queue in self._queues.values()),
                key=lambda pair: pair[0],
            )
            if due > now:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_at(due, self._start_batches)
                return
            batch = self._take(queue, now)
            if batch:
                self._start(queue, batch)

    def _due(self, queue: _Queue) -> float:
        """Returns when a queue's first batch should start; full ones go at once."""
        since = queue.requests[0].since
        if queue.rows >= self._max_rows(queue):
            return since
        return since + self._options.batch_timeout_ms / 1000

    def _max_rows(self, queue: _Queue) -> int:
        return queue.signature.fixed_rows or self._options.max_batch_rows

    def _take(self, queue: _Queue, now: float) -> list[_Waiting]:
        """Takes the requests of the next batch; those that nobody awaits end here."""
        batch: list[_Waiting] = []
        rows = 0
        while queue.requests:
            request = queue.requests[0]
            is_late = request.deadline is not None and request.deadline <= now
            is_wanted = not request.result.done() and not is_late
            if is_wanted and batch and rows + request.rows > self._max_rows(queue):
                break
            queue.requests.popleft()
            self._count(-request.rows)
            if is_wanted:
                batch.append(request)
                rows += request.rows
            elif not request.result.done():
                request.result.set_exception(_deadline_exceeded())
        return batch

    def _start(self, queue: _Queue, batch: list[_Waiting]) -> None:
        model, signature = queue.model, queue.signature
        # Beyond the requests' own holds: a client may go away while its batch runs.
        hold = contextlib.ExitStack()
        hold.enter_context(model.hold())
        self._num_running += 1
        self._metrics.batch(signature.name, sum(request.rows for request in batch))
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, _run_batch, model, signature, batch
        )

        def finish(done: asyncio.Future[list[Arrays | RequestError]]) -> None:
            self._num_running -= 1
            hold.close()
            for request, result in zip(batch, _results(done, batch), strict=True):
                if request.result.done():
                    continue
                if isinstance(result, RequestError):
                    request.result.set_exception(result)
                else:
                    request.result.set_result(result)
            if not self._is_closed:
                self._start_batches()

        running.add_done_callback(finish)

    def close(self) -> None:
        """Turns away all that waits, and starts nothing any more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            for request in queue.requests:
                request.result.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _key(model: LoadedModel, signature: Signature, inputs: Arrays) -> Hashable:
    # The model itself, not its number: versions may be replaced.
    kinds = [(name, inputs[name].dtype, inputs[name].shape[1:]) for name in inputs]
    return model, signature.name, frozenset(kinds)


def _results(
    done: asyncio.Future[list[Arrays | RequestError]], batch: Sequence[_Waiting]
) -> Sequence[Arrays | RequestError]:
    if done.cancelled():
        error = RequestError(Code.UNAVAILABLE, "the server is stopping.")
        return [error.again() for _ in batch]
    return done.result()


def _run_batch(
    model: LoadedModel, signature: Signature, batch: Sequence[_Waiting]
) -> list[Arrays | RequestError]:
    """Returns outputs or the error of each request. Runs in a thread."""
    if len(batch) > 1:
        try:
            return [*_run_joined(model, signature, batch)]
        except Exception:  # noqa: S110
            pass  # Whose fault it is shows when each runs alone.
    return [_run_alone(model, signature, request) for request in batch]


def _run_joined(
    model: LoadedModel, signature: Signature, batch: Sequence[_Waiting]
) -> Iterator[Arrays]:
    joined = {
        name: np.concatenate([request.inputs[name] for request in batch])
        for name in signature.inputs
    }
    rows = [request.rows for request in batch]
    outputs = model.run(signature, joined, timeout=_timeout(batch))
    signature.check_rows(outputs, sum(rows))
    ends = np.cumsum(rows)
    for start, end in zip(ends - rows, ends, strict=True):
        # Copied, so that nobody's result keeps the whole batch in memory.
        yield {name: array[start:end].copy() for name, array in outputs.items()}


def _run_alone(
    model: LoadedModel, signature: Signature, request: _Waiting
) -> Arrays | RequestError:
    if request.result.done():
        return RequestError(Code.CANCELLED, "the request was cancelled.")
    try:
        outputs = model.run(signature, request.inputs, timeout=_timeout([request]))
        signature.check_rows(outputs, request.rows)
        return outputs
    except Exception as error:
        return from_exception(error)


def _timeout(batch: Sequence[_Waiting]) -> float | None:
    """Returns the seconds after which nobody awaits a batch any more."""
    deadlines = [request.deadline for request in batch if request.deadline is not None]
    if len(deadlines) < len(batch):
        return None
    return max(deadlines) - time.monotonic()  # the clock of the loop too


def _deadline_exceeded() -> RequestError:
    return RequestError(
        Code.DEADLINE_EXCEEDED, "the deadline passed before there was a result."
    )
