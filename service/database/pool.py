"""The connections to PostgreSQL, how they are made, and their lease."""

import asyncio
import logging
import time
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
from asyncpg import Connection

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

# Of the time that a statement has, PostgreSQL itself gets this part: it ends what a lock holds up, and says so, before
# we would have to leave it behind there. Only where nothing answers at all the whole of the time runs out.
_SERVERS_PART: Final = 0.9

# Seconds between two attempts to connect. Full service within a second of the database's return is a promise.
_PAUSE: Final = 0.2

# Seconds in which the same complaint is not made again: in trouble there would be one for each request.
_QUIET: Final = 60


class Leases:
    """Lends connections, for one statement each.

    No pool of asyncpg's: its acquire and release cost more than a statement by primary key, and send a second one to
    reset the session, which our statements leave as it was.

    One task makes all connections, one after the other, and the longest waiter gets the next: a database that comes
    back meets no crowd. While no connection is there and none can be made, the database is *away*: nobody waits, and
    that task tries until it is back.
    """

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        """``timeout`` in seconds bounds the wait for a connection, and each statement on it."""
        self._url = url
        self._limit = connections
        self._timeout = timeout
        self._settings = SERVER_SETTINGS | {"statement_timeout": str(max(1, int(timeout * 1000 * _SERVERS_PART)))}
        self._open: set[Connection] = set()  # lent or idle
        self._idle: list[Connection] = []
        self._waiting: deque[Future[Connection]] = deque()
        self._wanted = asyncio.Event()
        self._failure: Exception | None = None  # of the last attempt to connect
        self._away = False
        self._complained: dict[type[BaseException], float] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make connections, the first at once. The service starts while the database is still away."""
        making = asyncio.create_task(self._make_connections())
        try:
            yield
        finally:
            making.cancel()
            with suppress(asyncio.CancelledError):
                await making
            self._away = True
            self._refuse_waiters()
            # Without a goodbye, for which a frozen database would keep us waiting.
            for connection in self._open:
                connection.remove_termination_listener(self._forget)
                connection.terminate()

    async def take(self) -> Connection:
        """A connection for one statement; who waits longest gets the next. Raises ``DatabaseUnavailable``."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        if self._away:
            raise DatabaseUnavailable
        waiter: Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.give_back(waiter.result())  # served at the very moment in which it gave up
            if isinstance(error, TimeoutError):
                self.complain(error)
                raise DatabaseUnavailable from error
            raise

    def give_back(self, connection: Connection) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Nobody gets it again, in whatever state it is: its answer may still be under way."""
        connection.terminate()

    def distrust(self, connection: Connection) -> None:
        """Discard a connection that broke or does not answer, and the idle ones: they may be no better."""
        for suspect in (connection, *self._idle):
            self.discard(suspect)
        self._idle.clear()

    def complain(self, error: BaseException) -> None:
        """Log why the database does not serve, once in a while for each kind of error."""
        now = time.monotonic()
        if now - self._complained.get(type(error), -_QUIET) >= _QUIET:
            self._complained[type(error)] = now
            logger.warning("the database does not serve: %s", _described(error))

    async def _make_connections(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=self._timeout,
                    command_timeout=self._timeout,
                    max_cached_statement_lifetime=0,  # they are few, and are not prepared anew every five minutes
                    server_settings=self._settings,
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for it are told
                self._failure = error
                self._check()
                await asyncio.sleep(_PAUSE)
            else:
                connection.add_termination_listener(self._forget)
                self._open.add(connection)
                self._failure = None
                self._check()
                self.give_back(connection)
            while not self._away and not (self._waiting and len(self._open) < self._limit):
                self._failure = None
                self._wanted.clear()
                await self._wanted.wait()

    def _forget(self, connection: Any) -> None:
        """Whoever ended it, and why: there is room for another."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._check()
        self._wanted.set()

    def _check(self) -> None:
        """Whether the database is away, now that a connection has come, has gone or could not be made."""
        # Who waits while others have connections gets one of those: PostgreSQL may only have no more of them.
        away = self._failure is not None and not self._open
        if away and not self._away:
            logger.warning("the database is away: %s", _described(self._failure))
            self._refuse_waiters()
        elif self._away and not away:
            logger.warning("the database is back")
        self._away = away

    def _refuse_waiters(self) -> None:
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_exception(DatabaseUnavailable())


def _described(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"
