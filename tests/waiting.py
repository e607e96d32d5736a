"""Waits for a condition, for a bounded time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Poll until the condition holds. Raises ``TimeoutError``."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)


# How many sessions wait for a lock in this database. Tests in parallel use other databases of the same server. The lock
# of a row names no database, but a session that waits for it has locked the table. pg_stat_activity would not do: in a
# transaction, it is read once.
WAITERS: Final = """
select count(*)
from pg_locks as awaited
where
    not granted
    and exists (
        select
        from pg_locks
        join pg_database on pg_database.oid = pg_locks.database
        where pg_locks.pid = awaited.pid and datname = current_database()
    )
"""


async def wait_for_blocked_session(db: asyncpg.Connection) -> None:
    """Wait until a session in the database of ``db`` waits for a lock."""
    async with asyncio.timeout(10):
        while not await db.fetchval(WAITERS):
            await asyncio.sleep(0.01)
