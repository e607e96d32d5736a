"""The asyncpg pool, the lease of its connections, and the statements that run on them."""

import asyncio
import logging
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.batching import Row, Turn, Writes, answer, fail, start
from service.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

# The statements are few, fixed and served by an index each: planning them anew for every set of arguments, or
# compiling them, costs more than it finds.
SERVER_SETTINGS: Final = {
    "application_name": "accounts-and-posts",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "timezone": "UTC",
}

# What says that the database cannot serve now, not that the statement is wrong: lost, refused or slow connections
# (class 08), a shutdown or cancelled statement (57), no room (53), a disk fault (58), a standby (25006).
_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that the server ended while it lay idle
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)

# What says that a statement failed because of a row in it, and wrote nothing: values (class 22), constraints (23),
# deadlocks (40), locks (55).
_ROW_FAULTS = (
    ValueError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)

# Of one kind of read. More of them would be smaller, and so cost more for each of their keys.
BATCHES_AT_ONCE: Final = 2

# How long the end of the process waits for PostgreSQL to say goodbye, in seconds.
_GOODBYE: Final = 1

Connection = PoolConnectionProxy
Rows = list[asyncpg.Record]
SharedRead = tuple[Callable[..., Awaitable[Any]], Row]


class Database:
    """Runs one statement at a time, each in a transaction of its own.

    The connections are the pool's, which makes them, but they are taken from it once and lent from here: the pool's own
    acquire and release cost more than a statement by primary key, and send a second one to reset the session. That is
    sound because our statements leave nothing behind in a session.
    """

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and then each statement."""
        self._url = url
        self._limit = connections
        self._timeout = timeout
        self._held = 0
        self._idle: list[Connection] = []
        self._reads_by_key: dict[tuple[str, Row], Turn[int, Rows]] = {}
        self._writes: dict[str, Writes[Any]] = {}
        self._waiting: deque[Future[Connection | None]] = deque()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Hold the pool open. It connects on demand: the service starts while the database is still away."""
        self.shared: Turn[SharedRead, Any] = Turn(self._read_shared, at_once=1)
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._limit,
            max_inactive_connection_lifetime=0,
            max_queries=2**62,
            timeout=self._timeout,
            command_timeout=self._timeout,
            server_settings=SERVER_SETTINGS,
        )
        async with self._pool:
            try:
                yield
            finally:
                for connection in self._idle:
                    with suppress(*_UNAVAILABLE):
                        await connection.close(timeout=_GOODBYE)
                self._pool.terminate()

    async def fetch(self, statement: str, *arguments: Any) -> Rows:
        """Run a statement and return all of its rows. Raises ``DatabaseUnavailable``, as all of these do."""
        connection = await self._take()
        try:
            rows = await connection.fetch(statement, *arguments)
        except BaseException as error:
            # asyncpg says with a ValueError that it cannot encode an argument, which is a fault of ours.
            if isinstance(error, _UNAVAILABLE) and not isinstance(error, ValueError):
                self._discard(connection)
                raise _unavailable(error) from error
            if isinstance(error, (asyncpg.PostgresError, ValueError)):
                self._give_back(connection)  # the statement failed, not the connection
            else:
                self._discard(connection)
            raise
        self._give_back(connection)
        return rows

    async def fetch_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement and return its first row."""
        rows = await self.fetch(statement, *arguments)
        return rows[0] if rows else None

    async def fetch_by_key(self, statement: str, key: int, *arguments: Any) -> Rows:
        """Run a statement of many keys (its first parameter) for all who ask with it now.

        Its first column is the key; returns the rows of ``key``.
        """
        group = (statement, arguments)
        if (turn := self._reads_by_key.get(group)) is None:
            turn = self._reads_by_key[group] = Turn(partial(self._fetch_keys, group), at_once=BATCHES_AT_ONCE)
        return await turn.join(key)

    async def _read_shared(self, batch: dict[SharedRead, list[Future[Any]]]) -> None:
        for (read, arguments), futures in batch.items():
            start(answer(futures, read(self, *arguments)))

    async def _fetch_keys(self, group: tuple[str, Row], batch: dict[int, list[Future[Rows]]]) -> None:
        statement, arguments = group
        found: dict[int, Rows] = {key: [] for key in batch}
        try:
            for row in await self.fetch(statement, list(batch), *arguments):
                found[row[0]].append(row)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for it are told
            for futures in batch.values():
                fail(futures, error)
            return
        for key, futures in batch.items():
            for future in futures:
                if not future.done():
                    future.set_result(found[key])

    async def write(self, statement: str, of_many: str, *row: Any, key: int | None = None) -> Any:
        """Write a row, together with others that come while a statement is under way.

        ``statement`` writes one row and returns it; ``of_many`` takes an array for each of its parameters and returns
        before each row its number among them. ``None``: the row was not written.
        """
        if (writes := self._writes.get(statement)) is None:
            writes = self._writes[statement] = Writes(
                partial(self._write_all, of_many), lambda alone: self.fetch_row(statement, *alone), _ROW_FAULTS
            )
        return await writes.join(row, key)

    async def _write_all(self, of_many: str, rows: list[Row]) -> dict[int, Row]:
        written = await self.fetch(of_many, *zip(*rows, strict=True))
        return {row[0] - 1: row[1:] for row in written}

    async def answers(self) -> bool:
        """Whether the database serves now."""
        try:
            await self.fetch_row("select 1")
        except DatabaseUnavailable:
            return False
        return True

    async def _take(self) -> Connection:
        """A connection for one statement; who waits longest gets the next. Raises ``DatabaseUnavailable``."""
        while self._held >= self._limit and not self._idle:
            if connection := await self._wait():
                return connection
        while self._idle:
            if _is_open(connection := self._idle.pop()):
                return connection
            _end(connection)
            self._held -= 1
        return await self._connect()

    async def _wait(self) -> Connection | None:
        """The next connection that comes back, or ``None`` when there is room to make one."""
        waiter: Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # served at the very moment in which it gave up
                if given := waiter.result():
                    self._give_back(given)
                else:
                    self._pass_on(None)
            if isinstance(error, TimeoutError):
                raise _unavailable(error) from error
            raise

    async def _connect(self) -> Connection:
        self._held += 1
        try:
            return await self._pool.acquire(timeout=self._timeout)
        except BaseException as error:
            self._lose_one()
            # Whatever stands in the way of a connection is the database's, not the statement's.
            if isinstance(error, (*_UNAVAILABLE, asyncpg.PostgresError)):
                raise _unavailable(error) from error
            raise

    def _give_back(self, connection: Connection) -> None:
        if not self._pass_on(connection):
            self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        """Nobody gets it again, in whatever state it is: its answer may still be under way."""
        _end(connection)
        self._lose_one()

    def _lose_one(self) -> None:
        self._held -= 1
        self._pass_on(None)

    def _pass_on(self, connection: Connection | None) -> bool:
        """Serve who waits longest: with a connection, or with ``None``, the room to make one."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return True
        return False


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back, as it does when the server ends it
        return False


def _end(connection: Connection) -> None:
    """Give its place in the pool back, which a connection that broke keeps until it is terminated as well."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    logger.warning("the database does not answer: %s: %s", type(error).__name__, error)
    return DatabaseUnavailable()
