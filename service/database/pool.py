"""The connection pool."""

import asyncio
import logging
import time
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from asyncpg import Connection

from service.database.connecting import connect
from service.database.pooler import REMEDY, SHARED_SESSION_ERRORS
from service.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

# Seconds between two attempts to connect. The service must work again within a second of the database's return.
_RETRY_INTERVAL: Final = 0.2

# Seconds before the same failure is logged again. During an outage every request would log it.
_LOG_INTERVAL: Final = 60


class ConnectionPool:
    """Lends each connection for one statement at a time.

    asyncpg's own pool is not used. Its acquire and release cost more CPU than a statement by primary key, and they send
    a second statement to reset the session, which our statements leave as it was.

    A connection is connecting, idle, in use or closed. Only one connects at a time, so that a database that has just
    started is not flooded. Idle ones are in ``_idle``, idle and used ones in ``_open``. Callers that wait for a
    connection get one in the order in which they asked.

    The database is unavailable if no connection is open and the last attempt to connect has failed. ``acquire`` then
    fails at once, until an attempt succeeds.
    """

    def __init__(self, url: str, *, size: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and each statement on it."""
        self._url = url
        self._size = size
        self._timeout = timeout
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiters: deque[Future[Connection]] = deque()
        self._connection_needed = asyncio.Event()
        self._connect_error: Exception | None = None  # of the last attempt
        self._available = True
        self._logged_at: dict[tuple[str, type[BaseException]], float] = {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open connections when they are needed, the first one at once. The database need not be available yet."""
        connecting = asyncio.create_task(self._open_connections())
        try:
            yield
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            self._available = False
            self._reject_waiters()
            # Terminated, not closed: closing waits for a response, and a frozen database never sends it.
            for connection in self._open:
                connection.remove_termination_listener(self._on_terminated)
                connection.terminate()

    async def acquire(self) -> Connection:
        """Take a connection for one statement. Raises ``DatabaseUnavailable``."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        if not self._available:
            raise DatabaseUnavailable
        waiter: Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._connection_needed.set()
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter
        except BaseException as error:
            # A connection may have been assigned just before the timeout or the cancellation.
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.release(waiter.result())
            if isinstance(error, TimeoutError):
                in_use = f"{len(self._open)} of {self._size} connections (DATABASE_CONNECTIONS) were in use"
                self.log_failure("no connection became free", self._connect_error or TimeoutError(in_use))
                raise DatabaseUnavailable from error
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection to the caller that has waited longest, or keep it idle."""
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Close a connection in use that cannot be used again: its response may still be on the way."""
        connection.terminate()

    def evict_idle(self) -> None:
        """Close the idle connections, because one like them has just broken."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    def log_failure(self, what: str, error: BaseException) -> None:
        """Log a failure of the database, but not the same one again within a minute."""
        now = time.monotonic()
        kind = (what, type(error))
        if now - self._logged_at.get(kind, -_LOG_INTERVAL) >= _LOG_INTERVAL:
            self._logged_at[kind] = now
            logger.warning("%s: %s", what, self._describe(error))

    async def _open_connections(self) -> None:
        while True:
            try:
                connection = await connect(self._url, timeout=self._timeout)
            except Exception as error:  # noqa: BLE001 - any failure means that the database is unavailable
                self._connect_error = error
                self._update_availability()
                await asyncio.sleep(_RETRY_INTERVAL)
            else:
                connection.add_termination_listener(self._on_terminated)
                self._open.add(connection)
                self._connect_error = None
                self._update_availability()
                self.release(connection)
            while self._available and not (self._waiters and len(self._open) < self._size):
                self._connect_error = None
                self._connection_needed.clear()
                await self._connection_needed.wait()

    def _on_terminated(self, connection: Any) -> None:
        """Remove a connection that either side has closed. Another one may be opened in its place."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._update_availability()
        self._connection_needed.set()

    def _update_availability(self) -> None:
        # While a connection is open, a failed attempt may only mean that PostgreSQL has no free slot: callers wait.
        if self._connect_error and not self._open:
            if self._available:
                logger.warning(
                    "the database is unavailable: %s. Requests get a 503 until the service has reconnected by itself. "
                    "Check that PostgreSQL runs and that DATABASE_URL is right",
                    self._describe(self._connect_error),
                )
                self._available = False
                self._reject_waiters()
        elif not self._available:
            logger.warning("the database is available again")
            self._available = True

    def _reject_waiters(self) -> None:
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                waiter.set_exception(DatabaseUnavailable())

    def _describe(self, error: BaseException) -> str:
        reason = str(error)
        if not reason and isinstance(error, TimeoutError):
            reason = f"no response within {self._timeout:g} seconds (DATABASE_TIMEOUT_SECONDS)"
        if isinstance(error, SHARED_SESSION_ERRORS):
            reason = f"{error.args[0]}: {REMEDY}"  # without asyncpg's hint, which has ten lines
        return ": ".join(filter(None, (type(error).__name__, reason)))
