"""The database as the query modules use it: single statements, and statements that share a round trip."""

import asyncio
from asyncio import Future
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial, wraps
from itertools import pairwise
from operator import itemgetter
from time import monotonic
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar

import asyncpg

from service.database.batching import BatchLoader, Row, WriteBatcher, reject, resolve, run_in_background, settle
from service.database.observer import Observer, Outcome
from service.database.pool import ConnectionPool, Usage
from service.database.pooled_connection import PooledConnection
from service.database.pooler import SHARED_SESSION_ERRORS
from service.database.single_flight import SingleFlight
from service.database.statement_errors import ROW_ERRORS, UNAVAILABLE
from service.database.transaction import Transaction
from service.errors import DatabaseUnavailable
from service.observability.context import current_requests

# Seconds after which a health probe reports that the database does not answer.
_PROBE_TIMEOUT: Final = 1

_FIRST: Final = itemgetter(0)

V = TypeVar("V")
P = ParamSpec("P")

Rows = list[asyncpg.Record]
Key = int | tuple[int | str, ...]
Call = tuple[Callable[..., Awaitable[Any]], Row]
Grouping = Callable[[Rows, Sequence[Key]], Iterable[Rows]]


class ConnectionLost(DatabaseUnavailable):
    """The connection was closed while a statement ran. It may or may not have been applied."""


class Database:
    """Runs statements, each in a transaction of its own unless ``transaction()`` joins several.

    All of these raise ``DatabaseUnavailable``, or the error that asyncpg raises for a faulty statement.
    """

    transaction_class: ClassVar = Transaction

    def __init__(self, url: str, *, connections: int, timeout: float, observer: Observer | None = None) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and then each statement."""
        self.observer = observer
        self._timeout = timeout
        self._pool = ConnectionPool(url, size=connections, timeout=timeout, observer=observer)
        self._loaders: dict[tuple[str, Row], BatchLoader[Any, Any]] = {}
        self._batchers: dict[str, WriteBatcher[Any]] = {}
        self._probe: asyncio.Task[bool] | None = None
        self.single_flight = SingleFlight(timeout)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open connections on demand, and close them at the end. The database need not be available at the start."""
        self.coalescer: BatchLoader[Call, Any] = BatchLoader(self._run_calls)
        async with self._pool.lifespan():
            yield

    async def fetch(self, statement: str, *arguments: Any) -> Rows:
        """Read all rows. If the connection is lost, read again."""
        try:
            return await self.run(statement, *arguments)
        except ConnectionLost:
            return await self.run(statement, *arguments)

    async def fetch_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Read the first row. If the connection is lost, read again."""
        rows = await self.fetch(statement, *arguments)
        return rows[0] if rows else None

    async def write_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement that writes, and return its first row. It is never run again."""
        rows = await self.run(statement, *arguments)
        return rows[0] if rows else None

    async def run(self, statement: str, *arguments: Any) -> Rows:
        """Run a statement once. If this raises ``DatabaseUnavailable``, a write may or may not have been applied."""
        begun = monotonic() if self.observer else 0.0
        outcome: Outcome = "error"
        try:
            pooled = await self._pool.acquire()
            try:
                rows: Rows = await pooled.connection.fetch(statement, *arguments)
            except BaseException as error:
                self._release_after(error, pooled)
                raise
            self._pool.release(pooled)
            outcome = "ok"
        except DatabaseUnavailable:
            outcome = "unavailable"
            raise
        finally:
            if self.observer:
                self.observer.statement_ended(outcome, monotonic() - begun)
        return rows

    def _release_after(self, error: BaseException, pooled: PooledConnection) -> None:
        """Release the connection of a statement that failed. Raises ``DatabaseUnavailable`` if that is the cause."""
        if not isinstance(error, Exception):  # cancelled: the response may still be on the way
            self._pool.close(pooled)
            return
        lost = pooled.connection.is_closed()
        self._pool.release_after(error, pooled)
        if lost or isinstance(error, UNAVAILABLE):
            self._pool.status.log_failure("a statement failed", error)
            raise (ConnectionLost if lost else DatabaseUnavailable) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run several statements as one transaction, within the timeout of one statement.

        The transaction is committed at the end of the block. It is rolled back if the block raises or a statement has
        failed. If this raises ``DatabaseUnavailable``, it may or may not have been applied.
        """
        pooled = await self._pool.acquire()
        transaction = self.transaction_class(pooled.connection)
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                await transaction.run("begin")
                yield transaction
                await transaction.commit()
        except Exception as error:
            lost, timed_out = pooled.connection.is_closed(), deadline.expired()
            if lost or isinstance(transaction.failure, (TimeoutError, *SHARED_SESSION_ERRORS)):
                self._pool.release_after(transaction.failure or error, pooled)
            elif timed_out:  # a statement may still be running
                self._pool.close(pooled)
            else:
                await self._roll_back(pooled, transaction.failure)
            raised_by_block = error is not transaction.failure and not timed_out
            if raised_by_block or not (lost or isinstance(error, UNAVAILABLE)):
                raise
            self._pool.status.log_failure("a transaction failed", error)
            raise (ConnectionLost if lost else DatabaseUnavailable) from error
        except BaseException:  # cancelled: a statement may still be running
            self._pool.close(pooled)
            raise
        self._pool.release(pooled)

    async def _roll_back(self, pooled: PooledConnection, failure: Exception | None) -> None:
        """Roll back and release the connection, or close it if the rollback fails."""
        try:
            await pooled.connection.execute("rollback")
        except BaseException as error:
            self._pool.close(pooled)
            if not isinstance(error, Exception):
                raise
        else:
            self._pool.release_after(failure, pooled)

    def fetch_by_key(self, statement: str, build: Callable[..., V], key: Key, *arguments: Any) -> "Future[V]":
        """Read the rows of one key, together with the other keys that are requested now.

        The statement takes an array of keys as its first parameter and returns the key as its first column. A key of
        several values has an array and a column for each. ``build`` gets the rows of one key, in their order and
        possibly none, and ``arguments``. All callers that request the same key share its result, so they must not
        modify it.
        """
        return self._loader(_rows_by_key, statement, build, arguments, None).load(key)

    def fetch_list_by_key(
        self, statement: str, build: Callable[..., V], key: Key, *arguments: Any, max_keys: int
    ) -> "Future[V]":
        """Read many rows of one key, as ``fetch_by_key`` does, together with up to ``max_keys`` - 1 other keys.

        Instead of the key, the statement returns its number in the arrays, from 1, and sorts its rows by it.
        """
        return self._loader(_rows_by_number, statement, build, arguments, max_keys).load(key)

    def _loader(
        self, group: Grouping, statement: str, build: Callable[..., V], arguments: Row, max_keys: int | None
    ) -> BatchLoader[Key, V]:
        kind = (statement, arguments)
        if (loader := self._loaders.get(kind)) is None:
            send = partial(self._fetch_keys, statement, group, build, arguments)
            loader = self._loaders[kind] = BatchLoader(send, max_keys)
        return loader

    async def _fetch_keys(
        self,
        statement: str,
        group: Grouping,
        build: Callable[..., V],
        arguments: Row,
        batch: dict[Key, list["Future[V]"]],
    ) -> None:
        if self.observer:
            self.observer.batch_sent("read", len(batch))
        keys = [*batch]
        columns = zip(*keys, strict=True) if isinstance(keys[0], tuple) else [keys]
        try:
            rows = await self.fetch(statement, *columns, *arguments)
            built = [build(of_key, *arguments) for of_key in group(rows, keys)]
        except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
            for futures in batch.values():
                reject(futures, error)
            return
        for futures, result in zip(batch.values(), built, strict=True):
            resolve(futures, result)

    async def _run_calls(self, batch: dict[Call, list["Future[Any]"]]) -> None:
        requests: Any = current_requests.get()
        for (read, arguments), futures in batch.items():
            current_requests.set({future: requests[future] for future in futures})
            run_in_background(settle(futures, read(self, *arguments)))

    async def write(self, statement: str, batch_statement: str, *row: Any, key: int | None = None) -> Any:
        """Write a row, together with the other rows that are queued while a statement is in flight.

        ``statement`` writes one row and returns it. ``batch_statement`` takes an array for each of its parameters, and
        returns the number of each row, from 1, before its columns. Rows with the same ``key`` never share a statement.
        Returns ``None`` if the row was not written. Raises ``Overloaded`` if too many writes of the kind are queued.
        """
        if (batcher := self._batchers.get(statement)) is None:
            batcher = self._batchers[statement] = WriteBatcher(
                partial(self._write_all, batch_statement),
                partial(self._write_one, statement),
                ROW_ERRORS,
                ConnectionLost,
            )
        return await batcher.write(row, key)

    async def _write_all(self, batch_statement: str, rows: list[Row]) -> dict[int, Row]:
        if self.observer:
            self.observer.batch_sent("write", len(rows))
        written = await self.run(batch_statement, *zip(*rows, strict=True))
        return {row[0] - 1: row[1:] for row in written}

    async def _write_one(self, statement: str, row: Row) -> asyncpg.Record | None:
        if self.observer:
            self.observer.batch_sent("write", 1)
        return await self.write_row(statement, *row)

    def usage(self) -> Usage:
        return self._pool.usage()

    async def answers(self) -> bool:
        """Whether the database answers now, and accepts writes. Concurrent callers share one probe."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._run_probe())
        probe = self._probe
        await asyncio.wait([probe], timeout=_PROBE_TIMEOUT)
        return probe.done() and probe.result()

    async def _run_probe(self) -> bool:
        try:
            await self.fetch("select 1")
        except DatabaseUnavailable:
            return False
        return self._pool.accepts_writes()


def _rows_by_key(rows: Rows, keys: Sequence[Key]) -> Iterable[Rows]:
    by_key: dict[Key, Rows] = {key: [] for key in keys}
    key_of = itemgetter(*range(len(keys[0]))) if isinstance(keys[0], tuple) else _FIRST
    for row in rows:
        by_key[key_of(row)].append(row)
    return by_key.values()


def _rows_by_number(rows: Rows, keys: Sequence[Key]) -> Iterable[Rows]:
    ends = [bisect_right(rows, number, key=_FIRST) for number in range(len(keys) + 1)]
    return [rows[start:end] for start, end in pairwise(ends)]


def coalesced(
    read: Callable[Concatenate[Database, P], Coroutine[Any, Any, V]],
) -> Callable[Concatenate[Database, P], Awaitable[V]]:
    """Make equal calls in the same iteration of the event loop one call.

    All callers share its result, so they must not modify it. Arguments are passed by position.
    """

    @wraps(read)
    def load(db: Database, /, *arguments: P.args, **_: P.kwargs) -> Awaitable[V]:
        return db.coalescer.load((read, arguments))

    return load
