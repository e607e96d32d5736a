"""The asyncpg pool and the lease of its connections."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

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


class Database:
    """Runs one statement at a time, each in a transaction of its own."""

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and then each statement."""
        self._url = url
        self._connections = connections
        self._timeout = timeout

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Hold the pool open. It connects on demand: the service starts while the database is still away."""
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._connections,
            max_inactive_connection_lifetime=0,
            max_queries=2**62,
            timeout=self._timeout,
            command_timeout=self._timeout,
            server_settings=SERVER_SETTINGS,
        )
        async with self._pool:
            yield

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[PoolConnectionProxy]:
        try:
            connection = await self._pool.acquire(timeout=self._timeout)
        except (*_UNAVAILABLE, asyncpg.PostgresError) as error:  # whatever stands in the way of a connection
            raise _unavailable(error) from error
        try:
            yield connection
        except asyncpg.DataError:
            raise  # an argument that no column can hold: a fault of ours, although it is an InterfaceError
        except _UNAVAILABLE as error:
            connection.terminate()  # in whatever state it is, nobody gets it again
            raise _unavailable(error) from error
        finally:
            await self._pool.release(connection)

    async def fetch_row(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement and return its first row. Raises ``DatabaseUnavailable``, as all of these do."""
        async with self._lease() as connection:
            return await connection.fetchrow(statement, *arguments)

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement and return all of its rows."""
        async with self._lease() as connection:
            return await connection.fetch(statement, *arguments)

    async def answers(self) -> bool:
        """Whether the database serves now."""
        try:
            await self.fetch_row("select 1")
        except DatabaseUnavailable:
            return False
        return True


def _unavailable(error: Exception) -> DatabaseUnavailable:
    logger.warning("the database does not answer: %s: %s", type(error).__name__, error)
    return DatabaseUnavailable()
