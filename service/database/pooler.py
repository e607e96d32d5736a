"""Poolers between the service and PostgreSQL. The service needs a session of its own for each of its connections.

Its prepared statements and its settings, such as ``statement_timeout``, belong to a session. A pooler in transaction
mode gives each transaction of a client to any session.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from service.database.connecting import Connection, open_connection
from service.database.faults import DatabaseFault

REMEDY: Final = (
    "a pooler shares PostgreSQL's sessions between its clients. Set `pool_mode = session` in PgBouncer, or let "
    "DATABASE_URL lead to the pooler's port for session mode or to PostgreSQL itself"
)

# What PostgreSQL reports if a session lacks a prepared statement of ours, or has another one of its name. It has not
# executed the statement.
SHARED_SESSION_ERRORS: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

SET_MARKER: Final = "select set_config('accounts_and_posts.session', $1, false)"
SELECT_MARKER: Final = "select current_setting('accounts_and_posts.session', true)"

# One round finds a shared session unless other clients use the pooler at the same time.
_ROUNDS: Final = 5

# Seconds to wait for a second session. In session mode the first connection may use the last one of the pooler.
_MAX_WAIT: Final = 2


class SharedSession(DatabaseFault):
    """The connections of this service do not have a session of their own; the message has the remedy."""


async def check(url: str, timeout: float) -> None:  # noqa: ASYNC109 - passed to asyncpg
    """Check that each connection has a session of its own.

    Raises ``SharedSession``, or an error of ``asyncpg.connect``. This sets only a setting that nothing else reads,
    because in transaction mode it remains in a session that other clients use.
    """
    shared = False
    async with _connected(url, timeout) as first:
        marker = secrets.token_hex(8)
        await first.execute(SET_MARKER, marker)
        # Without a second session there is nothing to share.
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(min(timeout, _MAX_WAIT)), _connected(url, timeout) as second:
                shared = await _share_a_session(first, second, marker)
    if shared:
        raise SharedSession(f"DATABASE_URL leads to a pooler in transaction mode: {REMEDY}")


async def _share_a_session(first: Connection, second: Connection, marker: str) -> bool:
    for _ in range(_ROUNDS):
        # Another client of the same session may also have reset it.
        if await second.fetchval(SELECT_MARKER) == marker or await first.fetchval(SELECT_MARKER) != marker:
            return True
        # A pooler without other clients would give the first connection the same session again. The transaction holds
        # a session meanwhile.
        async with second.transaction():
            if await first.fetchval(SELECT_MARKER) != marker:
                return True
    return False


@asynccontextmanager
async def _connected(url: str, timeout: float) -> AsyncIterator[Connection]:  # noqa: ASYNC109 - passed to asyncpg
    # Without a cache, asyncpg sends a statement in one message and does not prepare it.
    connection = await open_connection(url, timeout=timeout, statement_cache_size=0)
    try:
        yield connection
    except BaseException:
        connection.terminate()
        raise
    await connection.close(timeout=timeout)
