"""Tells a statement that takes long from one that was lost, because its connection was dropped silently."""

import asyncio
from typing import Final

from service.database.connecting import connect

# Seconds to connect and ask. Without an answer, the database may be slow, and nothing is known about the statements.
_TIMEOUT: Final = 1

# Sessions that wait for a statement, or have ended. One that has just started to wait may have sent its response.
_SELECT_WAITING: Final = """
select given.pid
from unnest($1::int[]) as given (pid)
left join pg_stat_activity as activity on given.pid = activity.pid
where
    activity.pid is null
    or (activity.state = 'idle' and activity.state_change < clock_timestamp() - interval '0.2 seconds')
"""


async def sessions_without_statement(
    url: str,
    timeout: float,  # noqa: ASYNC109 - passed to asyncpg
    pids: list[int],
) -> set[int] | None:
    """Those of the sessions, by process number, that run no statement. ``None`` if the server does not answer soon."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            connection = await connect(url, timeout=timeout)
            try:
                return {row["pid"] for row in await connection.fetch(_SELECT_WAITING, pids)}
            finally:
                connection.terminate()
    except Exception:  # noqa: BLE001 - the statements have their own timeouts
        return None
