"""A database that records the statements that are sent to it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from service.database.database import Database


class Recorder(Database):
    """The real database. A test can delay a statement, or make it fail, with ``before``."""

    def __init__(self, url: str, *, connections: int = 10, timeout: float = 5) -> None:
        super().__init__(url, connections=connections, timeout=timeout)
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    def hold_statements(self) -> tuple[asyncio.Semaphore, asyncio.Event]:
        """Hold back all statements from now on.

        Each of them releases the semaphore. The event sends them.
        """
        held, released = asyncio.Semaphore(0), asyncio.Event()

        async def hold(_: str) -> None:
            held.release()
            await released.wait()

        self.before = hold
        return held, released

    async def run(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        self.sent.append((statement, arguments))
        if self.before:
            await self.before(statement)
        return await super().run(statement, *arguments)

    def count(self, statement: str) -> int:
        return sum(sent == statement for sent, _ in self.sent)
