"""How this service connects to PostgreSQL. The pool, the migrations and the check at start all do it here."""

import secrets
from itertools import count
from typing import Any, Final

import asyncpg

from service.database.hosts import connect_to_any

# In the startup message, which poolers accept. The URL may have another name.
IDENTITY: Final = {"application_name": "accounts-and-posts"}

# The statements are few and fixed, and an index serves each of them. Planning them again for every set of arguments,
# or compiling them, costs more than it saves.
SESSION_SETTINGS: Final = {
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "timezone": "UTC",
}

# PostgreSQL's statement_timeout, as a fraction of our own timeout. PostgreSQL then ends a blocked statement and reports
# it before we give up. Our own timeout expires only if PostgreSQL does not respond at all.
_STATEMENT_TIMEOUT_FRACTION: Final = 0.9


class Connection(asyncpg.Connection):
    """A connection whose prepared statements have names that no other connection uses, in any process.

    asyncpg numbers them per process. A pooler that shares PostgreSQL's sessions between clients then executes the
    statement that another process has prepared under the same name, so a read may delete. With these names the worst
    case is an error.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unique_prefix = secrets.token_urlsafe(12)  # from the kernel, so a fork does not repeat it
        self._numbers = count(1)

    def _get_unique_id(self, prefix: str) -> str:
        # PostgreSQL compares the first 63 characters of a name.
        return f"{prefix}_{self._unique_prefix}_{next(self._numbers):x}"


async def open_connection(url: str, *, timeout: float, **options: Any) -> Connection:  # noqa: ASYNC109 - passed to asyncpg
    """Open a connection with PostgreSQL's own settings. ``timeout`` in seconds bounds this, and then each statement.

    Raises asyncpg's errors.
    """
    connection: Connection = await connect_to_any(
        url, timeout=timeout, command_timeout=timeout, connection_class=Connection, server_settings=IDENTITY, **options
    )
    return connection


async def connect(url: str, *, timeout: float, **options: Any) -> Connection:  # noqa: ASYNC109 - passed to asyncpg
    """Open a connection with the settings of this service.

    ``timeout`` in seconds bounds this, and then each statement; ``options`` are those of ``asyncpg.connect``. Raises
    asyncpg's errors.
    """
    statement_timeout = max(1, int(timeout * 1000 * _STATEMENT_TIMEOUT_FRACTION))  # milliseconds
    settings = SESSION_SETTINGS | {"statement_timeout": str(statement_timeout)}
    # few statements: no need to prepare them again every five minutes
    connection = await open_connection(url, timeout=timeout, max_cached_statement_lifetime=0, **options)
    try:
        # Poolers refuse most settings in the startup message. `execute` sends them in one message, but it takes no
        # parameters; the values are our own.
        await connection.execute("; ".join(f"set {name} = '{value}'" for name, value in settings.items()))
    except BaseException:
        connection.terminate()
        raise
    return connection
