"""What a pool does in the background: it opens connections, and keeps the deadlines of those that are open."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from service.database.lost_statements import sessions_without_statement
from service.database.pooled_connection import MAX_AGE, MAX_IDLE, MAX_SILENCE, PooledConnection, State

if TYPE_CHECKING:
    from service.database.pool import ConnectionPool

# Seconds between two attempts to connect. The service must work again within a second of the database's return.
_RETRY_INTERVAL: Final = 0.2

# The first part of the timeout, after which connecting starts anew.
_FIRST_ATTEMPT: Final = 0.2

# Seconds between two checks of the deadlines, and between two searches for a server that accepts writes.
_TICK: Final = 0.25


async def open_connections(pool: "ConnectionPool") -> None:
    """Open one connection after the other, as they are needed."""
    while True:
        try:
            pooled = await _open(pool)
        except Exception as error:  # noqa: BLE001 - any failure means that the database is unavailable
            pool.status.connect_error = error
            pool.update_status()
            await asyncio.sleep(_RETRY_INTERVAL)
        else:
            pool.add(pooled)
        await _until_needed(pool)


async def _open(pool: "ConnectionPool") -> PooledConnection:
    pooled = PooledConnection()
    async with asyncio.timeout(pool.timeout):
        try:
            async with asyncio.timeout(pool.timeout * _FIRST_ATTEMPT):
                await pooled.open(pool.url, pool.timeout)
        except TimeoutError:
            # The attempt may have been dropped silently. A database that is slow gets more time.
            await pooled.open(pool.url, pool.timeout)
    return pooled


async def _until_needed(pool: "ConnectionPool") -> None:
    """Wait until another connection is needed: for a caller, or to find a server that accepts writes."""
    while pool.status.available and not (pool.search_due or (pool.waiters and len(pool.open) < pool.size)):
        pool.status.connect_error = None
        pool.connection_needed.clear()
        await pool.connection_needed.wait()
    pool.search_due = False


async def check_deadlines(pool: "ConnectionPool") -> None:
    while True:
        await asyncio.sleep(_TICK)
        now = monotonic()
        pool.close_idle(silent_since=now - MAX_IDLE)
        # One at a time, because replacing all of them at once would delay requests.
        oldest = next(iter(pool.open.values()), None)
        if oldest and now - oldest.opened > MAX_AGE:
            pool.retire(oldest)
        if not pool.accepts_writes():
            pool.search_due = True
            pool.connection_needed.set()
        await _close_silent(pool, now)


async def _close_silent(pool: "ConnectionPool", now: float) -> None:
    """Close the connections whose statement has not reached the server. A read is then repeated."""
    silent = {
        pooled.pid: (pooled, pooled.last_response)
        for pooled in pool.open.values()
        if pooled.pid and _is_suspect(pooled, now)
    }
    lost = await sessions_without_statement(pool.url, pool.timeout, list(silent)) if silent else None
    if lost is None:
        return
    for pid, (pooled, last_response) in silent.items():
        pooled.examined = now
        if pid in lost and pooled.last_response == last_response:
            pool.close(pooled)
    if lost:
        error = TimeoutError("a statement or its response was lost. A firewall may have dropped connections silently")
        pool.status.log_failure("connections are replaced", error)
        pool.close_idle(silent_since=now)


def _is_suspect(pooled: PooledConnection, now: float) -> bool:
    """Whether to ask the server about its statement: after half a second, one second, two, and so on."""
    silence = now - pooled.last_response
    in_use = pooled.state in (State.IN_USE, State.RETIRED)
    return in_use and silence > MAX_SILENCE and now - pooled.examined > silence / 2
