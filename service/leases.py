"""The asyncpg pool, and the lease of its connections."""

import asyncio
import logging
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy as Connection

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
UNAVAILABLE = (
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

# How long the end of the process waits for PostgreSQL to say goodbye, in seconds.
_GOODBYE: Final = 1


class Leases:
    """Lends the pool's connections, for one statement each.

    The pool makes them, but they are taken from it once and lent from here: its own acquire and release cost more than
    a statement by primary key, and send a second one to reset the session. That is sound because our statements leave
    nothing behind in a session.
    """

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and each statement on it."""
        self._url = url
        self._limit = connections
        self._timeout = timeout
        self._held = 0
        self._idle: list[Connection] = []
        self._waiting: deque[Future[Connection | None]] = deque()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Hold the pool open. It connects on demand: the service starts while the database is still away."""
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
                    with suppress(*UNAVAILABLE):
                        await connection.close(timeout=_GOODBYE)
                self._pool.terminate()

    async def take(self) -> Connection:
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
                    self.give_back(given)
                else:
                    self._pass_on(None)
            if isinstance(error, TimeoutError):
                raise unavailable(error) from error
            raise

    async def _connect(self) -> Connection:
        self._held += 1
        try:
            return await self._pool.acquire(timeout=self._timeout)
        except BaseException as error:
            self._lose_one()
            # Whatever stands in the way of a connection is the database's, not the statement's.
            if isinstance(error, (*UNAVAILABLE, asyncpg.PostgresError)):
                raise unavailable(error) from error
            raise

    def give_back(self, connection: Connection) -> None:
        if not self._pass_on(connection):
            self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
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


def unavailable(error: BaseException) -> DatabaseUnavailable:
    logger.warning("the database does not answer: %s: %s", type(error).__name__, error)
    return DatabaseUnavailable()
