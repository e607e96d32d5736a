"""Batches: reads that arrive together share a statement, and writes of one kind share a commit.

A round trip costs the event loop, the kernel and PostgreSQL much more than a row does. Nothing is cached: a read joins
only a batch that has not been sent yet. Every read is therefore sent after its request arrived, and a client always
reads its own writes.
"""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from service.errors import Overloaded
from service.observability.context import Requests, current_requests

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Row = Sequence[Any]

# Rows in one statement. In a larger batch the first row would wait too long for the last.
MAX_BATCH_ROWS: Final = 100

# Batches of one loader in flight at the same time. With only one the service would be idle while PostgreSQL works on
# it; with more the batches would be smaller.
_MAX_IN_FLIGHT: Final = 2

# Seconds that a read waits for the batches in flight before its own is sent all the same. Batches normally take much
# less than that.
_MAX_DELAY: Final = 0.01

# Writes of one kind in the queue. A lock that blocks one kind must not use up the capacity for all other requests.
MAX_QUEUED_WRITES: Final = 3 * MAX_BATCH_ROWS

_background_tasks: set[asyncio.Task[None]] = set()


def run_in_background(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` as a task. It must handle its own errors."""
    task = asyncio.get_running_loop().create_task(work)
    _background_tasks.add(task)  # the event loop keeps only weak references to its tasks
    task.add_done_callback(_background_tasks.discard)


def resolve(futures: Sequence["Future[V]"], result: V) -> None:
    for future in futures:
        if not future.done():  # it may have been cancelled
            future.set_result(result)


def reject(futures: Sequence["Future[V]"], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


async def settle(futures: Sequence["Future[V]"], work: Awaitable[V]) -> None:
    """Resolve all of ``futures`` with the result of ``work``, or reject them with its error."""
    try:
        result = await work
    except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
        reject(futures, error)
    else:
        resolve(futures, result)


class BatchLoader(Generic[K, V]):
    """Collects reads by key during one iteration of the event loop, and sends them as one batch.

    While two batches are in flight, the next one keeps collecting: a larger batch costs less per key. It waits for a
    bounded time only, because a statement that is blocked need not block the next one. A batch of ``max_keys`` is sent
    at once.
    """

    def __init__(
        self, send: Callable[[dict[K, list["Future[V]"]]], Coroutine[Any, Any, None]], max_keys: int | None = None
    ) -> None:
        """``send`` settles the futures of a batch and handles its own errors. Requires a running event loop."""
        self._loop = asyncio.get_running_loop()  # kept, because looking it up is a system call each time
        self._send = send
        self._max_keys = max_keys
        self._in_flight = 0
        self._batch: dict[K, list[Future[V]]] = {}
        self._requests: dict[Future[V], Requests] = {}  # that wait for each future of the batch
        self._dispatch_handle: asyncio.Handle | None = None

    def load(self, key: K) -> "Future[V]":
        if not self._batch:
            if self._in_flight >= _MAX_IN_FLIGHT:
                self._dispatch_handle = self._loop.call_later(_MAX_DELAY, self._dispatch)
            else:
                self._dispatch_handle = self._loop.call_soon(self._dispatch)
        # Every caller has a future of its own, so that cancelling one does not cancel the others.
        future: Future[V] = self._loop.create_future()
        self._requests[future] = current_requests.get()
        if futures := self._batch.get(key):
            futures.append(future)
        else:
            self._batch[key] = [future]
            if len(self._batch) == self._max_keys:
                self._dispatch_now()
        return future

    def _dispatch_now(self) -> None:
        if self._batch and self._dispatch_handle:
            self._dispatch_handle.cancel()
            self._dispatch()

    def _dispatch(self) -> None:
        batch, self._batch = self._batch, {}
        requests, self._requests = self._requests, {}
        self._in_flight += 1
        run_in_background(self._run(batch, requests))

    async def _run(self, batch: dict[K, list["Future[V]"]], requests: Mapping["Future[V]", Requests]) -> None:
        current_requests.set(requests)
        await self._send(batch)
        self._in_flight -= 1
        self._dispatch_now()


class WriteBatcher(Generic[V]):
    """Group commit: writes of one kind that arrive while a statement is in flight share the next statement.

    Each write is acknowledged only after its statement has been committed, and each succeeds or fails by itself: a row
    that makes a batch fail, or that the batch leaves out, is written alone. If the outcome of a statement is unknown,
    nothing is repeated.
    """

    def __init__(
        self,
        write_all: Callable[[list[Row]], Awaitable[Mapping[int, V]]],
        write_one: Callable[[Row], Awaitable[V]],
        row_errors: tuple[type[Exception], ...],
        connection_lost: type[Exception],
    ) -> None:
        """``write_all`` returns its results by the position of the row. Requires a running event loop.

        An error of ``row_errors`` means that nothing has been written: each row is then written alone. Any other error
        rejects the whole batch. Unless it is ``connection_lost``, it rejects the queued writes as well: their batches
        would wait for the same obstacle, one after the other.
        """
        self._loop = asyncio.get_running_loop()
        self._write_all = write_all
        self._write_one = write_one
        self._row_errors = row_errors
        self._connection_lost = connection_lost
        self._queue: list[tuple[Hashable, Row, Future[V]]] = []
        self._requests: dict[Future[V], Requests] = {}  # that wait for each future of the queue
        self._running = False

    def write(self, row: Row, key: Hashable = None) -> "Future[V]":
        """Queue a row. Two rows with the same ``key`` never share a statement, unless it is ``None``.

        Raises ``Overloaded``.
        """
        if len(self._queue) >= MAX_QUEUED_WRITES:
            raise Overloaded
        future: Future[V] = self._loop.create_future()
        self._queue.append((key, row, future))
        self._requests[future] = current_requests.get()
        if not self._running:
            self._running = True
            self._loop.call_soon(lambda: run_in_background(self._run()))
        return future

    async def _run(self) -> None:
        while self._queue:
            batch: list[tuple[Row, Future[V]]] = []
            later, keys = [], set()
            for key, row, future in self._queue:
                if future.done():
                    del self._requests[future]
                    continue  # cancelled before it was sent: it is not written
                if len(batch) == MAX_BATCH_ROWS or key in keys:
                    later.append((key, row, future))
                    continue
                batch.append((row, future))
                if key is not None:
                    keys.add(key)
            self._queue = later
            await self._write(batch)
        self._running = False

    async def _write(self, batch: list[tuple[Row, "Future[V]"]]) -> None:
        written: Mapping[int, V] = {}
        requests = {future: self._requests.pop(future) for _, future in batch}
        current_requests.set(requests)
        if len(batch) > 1:
            try:
                written = await self._write_all([row for row, _ in batch])
            except self._row_errors:
                pass
            except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
                reject([future for _, future in batch], error)
                if not isinstance(error, self._connection_lost):
                    queue, self._queue = self._queue, []
                    self._requests.clear()
                    reject([future for _, _, future in queue], error)
                return
        for position, (row, future) in enumerate(batch):
            if position in written:
                resolve([future], written[position])
                continue
            current_requests.set(requests[future])
            alone = settle([future], self._write_one(row))
            # A batch of one row is awaited, so that the next batch can collect meanwhile. Rows that a larger batch has
            # left out must not delay the next batch.
            if len(batch) == 1:
                await alone
            else:
                run_in_background(alone)
