"""The callers that wait for a connection."""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable

from service.database.pooled_connection import PooledConnection
from service.errors import DatabaseUnavailable


class Waiters(deque[Future[PooledConnection]]):
    """Callers in the order of their requests, some of whom may have been cancelled."""

    async def wait(self, seconds: float, release: Callable[[PooledConnection], None]) -> PooledConnection:
        """Wait for a connection. Raises ``TimeoutError``, and ``DatabaseUnavailable`` after ``reject``.

        ``release`` gets a connection that was assigned just before the timeout or a cancellation.
        """
        waiter: Future[PooledConnection] = asyncio.get_running_loop().create_future()
        self.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                release(waiter.result())
            raise

    def assign(self, pooled: PooledConnection) -> bool:
        """Give a connection to the caller that has waited longest. Returns whether there was one."""
        while self:
            if not (waiter := self.popleft()).done():
                waiter.set_result(pooled)
                return True
        return False

    def reject(self) -> None:
        """Let all of them fail."""
        while self:
            if not (waiter := self.popleft()).done():
                waiter.set_exception(DatabaseUnavailable())
