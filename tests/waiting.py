"""Waiting for what is about to happen, with a bound."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Ask until it holds. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)


# How many wait for a lock in this database; other tests do so in others of the same server.
WAITERS: Final = """
select count(*)
from pg_locks
join pg_database on pg_database.oid = pg_locks.database
where not granted and datname = current_database()
"""
