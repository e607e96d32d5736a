"""The connection pool."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from asyncpg import ReadOnlySQLTransactionError
from msgspec import Struct

from service.database.maintenance import check_deadlines, open_connections
from service.database.observer import Observer
from service.database.pooled_connection import MAX_UNCHECKED, PooledConnection, State
from service.database.pooler import SHARED_SESSION_ERRORS
from service.database.status import Status
from service.database.waiters import Waiters
from service.errors import DatabaseUnavailable


class Usage(Struct, frozen=True):
    """How many connections there are, and how many callers wait for one."""

    size: int  # the most
    open: int
    idle: int
    waiting: int
    available: bool


class ConnectionPool:
    """Lends each connection for one statement at a time. ``pooled_connection.py`` has the table of its states.

    asyncpg's own pool is not used. Its acquire and release cost more CPU than a statement by primary key, and they send
    a second statement to reset the session, which our statements leave as it was.

    Only one connection is CONNECTING at a time, so that a database that has just started is not flooded. Callers that
    wait for a connection get one in the order in which they asked.

    While the database is unavailable (``Status``), ``acquire`` fails at once. When a server turns out to be read-only,
    all connections are replaced, because the address may lead to a new primary by now. If it still leads to a read-only
    server, that one serves reads, and the pool keeps trying to find one that accepts writes.
    """

    def __init__(self, url: str, *, size: int, timeout: float, observer: Observer | None = None) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and each statement on it."""
        self._observer = observer
        self.url = url
        self.size = size
        self.timeout = timeout
        self.open: dict[Any, PooledConnection] = {}  # by asyncpg's connection, the oldest first
        self._idle: list[PooledConnection] = []
        self.waiters = Waiters()
        self.connection_needed = asyncio.Event()
        self.search_due = False  # for a server that accepts writes
        self.status = Status(timeout)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open connections when they are needed, the first one at once. The database need not be available yet."""
        tasks = [asyncio.create_task(work(self)) for work in (open_connections, check_deadlines)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for pooled in list(self.open.values()):
                self.close(pooled)
            self.status.available = False
            self.waiters.reject()

    def usage(self) -> Usage:
        return Usage(
            size=self.size,
            open=len(self.open),
            idle=len(self._idle),
            waiting=sum(not waiter.done() for waiter in self.waiters),
            available=self.status.available,
        )

    async def acquire(self) -> PooledConnection:
        """Take a connection for one statement. Raises ``DatabaseUnavailable``."""
        begun = monotonic()
        try:
            while self._idle:
                pooled = self._idle.pop()
                if pooled.connection.is_closed():
                    self.close(pooled)  # ``_on_terminated`` follows, unless it was closed before it was added
                    continue
                pooled.state = State.IN_USE
                if begun - pooled.last_response < MAX_UNCHECKED or await self._check(pooled):
                    return pooled
            if not self.status.available:
                raise DatabaseUnavailable
            self.connection_needed.set()
            try:
                return await self.waiters.wait(begun + self.timeout - monotonic(), self.release)
            except TimeoutError as error:
                in_use = f"{len(self.open)} of {self.size} connections (DATABASE_CONNECTIONS) were in use"
                self.status.log_failure("no connection became free", self.status.connect_error or TimeoutError(in_use))
                raise DatabaseUnavailable from error
        finally:
            if self._observer:
                self._observer.connection_awaited(monotonic() - begun)

    def release(self, pooled: PooledConnection) -> None:
        """Give a connection to the caller that has waited longest, or keep it idle. If it was retired, close it."""
        if pooled.state is not State.IN_USE:
            self.close(pooled)
            return
        pooled.last_response = monotonic()
        if self.waiters and self.waiters.assign(pooled):
            return
        pooled.state = State.IDLE
        self._idle.append(pooled)

    def release_after(self, error: Exception | None, pooled: PooledConnection) -> None:
        """Release a connection on which a statement may have failed, or close it if it cannot be used again."""
        # A timeout of ours means that not even PostgreSQL's shorter statement_timeout was reported.
        if pooled.connection.is_closed() or isinstance(error, (TimeoutError, *SHARED_SESSION_ERRORS)):
            self.close(pooled)
            self.close_idle(silent_since=monotonic())  # they are likely to be broken, too
            return
        if isinstance(error, ReadOnlySQLTransactionError) and pooled.state is not State.RETIRED:
            self._replace_read_only()
        self.release(pooled)

    def close(self, pooled: PooledConnection) -> None:
        """Close a connection. One in use is closed if it cannot be used again: its response may still be on the way."""
        if pooled.state is State.CLOSED:
            return
        if pooled in self._idle:
            self._idle.remove(pooled)
        pooled.state = State.CLOSED
        del self.open[pooled.connection]
        # Terminated, not closed: closing waits for a response, and a frozen database never sends it.
        pooled.connection.terminate()
        self.update_status()
        self.connection_needed.set()

    def close_idle(self, silent_since: float) -> None:
        """Close the idle connections whose last response came before that time."""
        for pooled in self._idle.copy():
            if pooled.last_response < silent_since:
                self.close(pooled)

    def accepts_writes(self) -> bool:
        """Whether the database does. If a server has just reported that it does not, its connections are replaced."""
        if any(pooled.state is not State.RETIRED and pooled.reports_read_only() for pooled in self.open.values()):
            self._replace_read_only()
        return not self.status.read_only

    async def _check(self, pooled: PooledConnection) -> bool:
        """Whether a connection that has been idle still works. If it does not, close it and those like it."""
        begun = monotonic()
        pooled.state = State.CHECKING
        works = False
        try:
            error = await pooled.check()
            works = not error and pooled.state is State.CHECKING  # it may have been retired or closed meanwhile
        finally:
            if works:
                pooled.state = State.IN_USE
                pooled.last_response = monotonic()
            else:
                self.close(pooled)
        if error:
            self.status.log_failure("idle connections are replaced", error)
            self.close_idle(silent_since=begun)
        return works

    def add(self, pooled: PooledConnection) -> None:
        """Add a connection that has just been opened."""
        if self.status.read_only and not pooled.is_read_only:
            self._retire_all()
        self.open[pooled.connection] = pooled
        pooled.connection.add_termination_listener(self._on_terminated)
        pooled.state = State.IN_USE
        self.status.connect_error = None
        self.update_status()
        self.status.set_read_only(read_only=pooled.is_read_only)
        if pooled.is_read_only and len(self.open) > self.size:
            self.close(pooled)  # the search has failed
        else:
            self.release(pooled)

    def _replace_read_only(self) -> None:
        if not self.status.read_only:
            self.status.set_read_only(read_only=True)
            self._retire_all()

    def _retire_all(self) -> None:
        for pooled in list(self.open.values()):
            self.retire(pooled)

    def retire(self, pooled: PooledConnection) -> None:
        """Close a connection now if it is idle, else after its statement."""
        if pooled.state is State.IDLE:
            self.close(pooled)
        else:
            pooled.state = State.RETIRED

    def _on_terminated(self, connection: Any) -> None:
        """Remove a connection that either side has closed. Another one may be opened in its place."""
        if pooled := self.open.get(connection):
            self.close(pooled)

    def update_status(self) -> None:
        self.status.update(connected=bool(self.open))
        if not self.status.available:
            self.waiters.reject()
