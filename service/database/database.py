"""The database, as the query modules see it: statements, and those that go together."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg

from service.database.batching import Row, Turn, Writes, answer, fail, start
from service.database.pool import Leases
from service.database.transaction import Transaction
from service.errors import DatabaseUnavailable

# What says that a statement failed because of a row in it, and wrote nothing: values (class 22), constraints (23),
# deadlocks (40), locks (55).
_ROW_FAULTS = (
    ValueError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)

# What says that the database cannot serve now, not that the statement is wrong: a shutdown, a statement that took too
# long (class 57), no room (53), a disk fault (58), a standby (25006). The statement has done nothing.
_UNAVAILABLE = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)

# Seconds after which the database counts as not serving, for who asks about its health.
_PATIENCE: Final = 1

V = TypeVar("V")

Rows = list[asyncpg.Record]
SharedRead = tuple[Callable[..., Awaitable[Any]], Row]


class ConnectionLost(DatabaseUnavailable):
    """The connection ended under the statement: whether that was carried out nobody knows."""


class Database:
    """Runs one statement at a time, each in a transaction of its own unless ``transaction()`` joins several."""

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and then each statement."""
        self._timeout = timeout
        self._leases = Leases(url, connections=connections, timeout=timeout)
        self._reads_by_key: dict[tuple[str, Row], Turn[int, Any]] = {}
        self._writes: dict[str, Writes[Any]] = {}
        self._asking: asyncio.Task[bool] | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Hold the connections open. They are made on demand: the service starts while the database is still away."""
        self.shared: Turn[SharedRead, Any] = Turn(self._read_shared)
        async with self._leases.opened():
            yield

    async def fetch(self, statement: str, *arguments: Any) -> Rows:
        """Read all rows of a statement that writes nothing. Raises ``DatabaseUnavailable``, as all of these do."""
        try:
            return await self.run(statement, *arguments)
        except ConnectionLost:
            return await self.run(statement, *arguments)

    async def fetch_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Read the first row of a statement that writes nothing."""
        rows = await self.fetch(statement, *arguments)
        return rows[0] if rows else None

    async def write_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement that writes, once and never again, and return its first row."""
        rows = await self.run(statement, *arguments)
        return rows[0] if rows else None

    async def run(self, statement: str, *arguments: Any) -> Rows:
        """Run a statement once. Where that raises ``DatabaseUnavailable``, what it writes may be written or not."""
        connection = await self._leases.take()
        try:
            rows = await connection.fetch(statement, *arguments)
        except Exception as error:
            lost = connection.is_closed()
            # After a timeout not even PostgreSQL's own limit, which is shorter, was heard of.
            if lost or isinstance(error, TimeoutError):
                self._leases.distrust(connection)
            else:
                self._leases.give_back(connection)  # the statement failed, not the connection
                if not isinstance(error, _UNAVAILABLE):
                    raise
            self._leases.complain(error)
            raise (ConnectionLost if lost else DatabaseUnavailable) from error
        except BaseException:  # cancelled: its answer may still be under way
            self._leases.discard(connection)
            raise
        self._leases.give_back(connection)
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run several statements as one transaction, within the time that one statement has.

        It is committed at the end of the block. It is rolled back if the block raises or a statement has failed.
        Raises ``DatabaseUnavailable``, as all of these do; after that it may or may not have been applied.
        """
        connection = await self._leases.take()
        transaction = Transaction(connection)
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                await transaction.run("begin")
                yield transaction
                await transaction.commit()
        except Exception as error:
            lost, late = connection.is_closed(), deadline.expired()
            if lost or isinstance(transaction.failure, TimeoutError):
                self._leases.distrust(connection)
            elif late:  # a statement may still be running
                self._leases.discard(connection)
            else:
                await self._roll_back(connection)
            of_block = error is not transaction.failure and not late
            if of_block or not (lost or isinstance(error, (TimeoutError, *_UNAVAILABLE))):
                raise
            self._leases.complain(error)
            raise (ConnectionLost if lost else DatabaseUnavailable) from error
        except BaseException:  # cancelled: a statement may still be running
            self._leases.discard(connection)
            raise
        self._leases.give_back(connection)

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        """Give a connection back without what was done on it, or discard it where that cannot be known."""
        try:
            await connection.execute("rollback")
        except BaseException as error:
            self._leases.discard(connection)
            if not isinstance(error, Exception):
                raise
        else:
            self._leases.give_back(connection)

    def fetch_by_key(self, statement: str, make: Callable[..., V], key: int, *arguments: Any) -> "Future[V]":
        """Run a statement of many keys (its first parameter) for all who ask with it now.

        Its first column is the key. All who ask for one get the same: what ``make`` returns for the rows of that key,
        in their order and perhaps none, and ``arguments``. Nobody may change it.
        """
        group = (statement, arguments)
        if (turn := self._reads_by_key.get(group)) is None:
            turn = self._reads_by_key[group] = Turn(partial(self._fetch_keys, statement, make, arguments))
        return turn.join(key)

    async def _fetch_keys(
        self, statement: str, make: Callable[..., V], arguments: Row, batch: dict[int, list["Future[V]"]]
    ) -> None:
        rows: dict[int, Rows] = {key: [] for key in batch}
        try:
            for row in await self.fetch(statement, list(batch), *arguments):
                rows[row[0]].append(row)
            made = {key: make(rows[key], *arguments) for key in batch}
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for it are told
            for futures in batch.values():
                fail(futures, error)
            return
        for key, futures in batch.items():
            for future in futures:
                if not future.done():
                    future.set_result(made[key])

    async def _read_shared(self, batch: dict[SharedRead, list["Future[Any]"]]) -> None:
        for (read, arguments), futures in batch.items():
            start(answer(futures, read(self, *arguments)))

    async def write(self, statement: str, of_many: str, *row: Any, key: int | None = None) -> Any:
        """Write a row, together with others that come while a statement is under way.

        ``statement`` writes one row and returns it; ``of_many`` takes an array for each of its parameters and returns
        before each row its number among them. ``None``: the row was not written.
        """
        if (writes := self._writes.get(statement)) is None:
            writes = self._writes[statement] = Writes(
                partial(self._write_all, of_many),
                lambda alone: self.write_row(statement, *alone),
                _ROW_FAULTS,
                ConnectionLost,
            )
        return await writes.join(row, key)

    async def _write_all(self, of_many: str, rows: list[Row]) -> dict[int, Row]:
        written = await self.run(of_many, *zip(*rows, strict=True))
        return {row[0] - 1: row[1:] for row in written}

    async def answers(self) -> bool:
        """Whether the database serves now. Who asks while somebody else does shares that answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answers())
        asked = self._asking
        await asyncio.wait([asked], timeout=_PATIENCE)
        return asked.done() and asked.result()

    async def _answers(self) -> bool:
        try:
            await self.fetch("select 1")
        except DatabaseUnavailable:
            return False
        return True
