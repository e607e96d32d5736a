"""How this service connects to PostgreSQL. The pool, the migrations and the check at start all do it here."""

from typing import Final

from asyncpg import Connection

from service.database.address import parse
from service.database.hosts import connect_to_any

# The statements are few and fixed, and an index serves each of them. Planning them again for every set of arguments,
# or compiling them, costs more than it saves.
SESSION_SETTINGS: Final = {
    "application_name": "accounts-and-posts",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "timezone": "UTC",
}

# PostgreSQL's statement_timeout, as a fraction of our own timeout. PostgreSQL then ends a blocked statement and reports
# it before we give up. Our own timeout expires only if PostgreSQL does not respond at all.
_STATEMENT_TIMEOUT_FRACTION: Final = 0.9


async def connect(url: str, *, timeout: float) -> Connection:  # noqa: ASYNC109 - passed to asyncpg
    """Open a connection. ``timeout`` in seconds bounds this, and then each statement. Raises asyncpg's errors."""
    statement_timeout = max(1, int(timeout * 1000 * _STATEMENT_TIMEOUT_FRACTION))  # milliseconds
    address = parse(url)
    return await connect_to_any(
        address,
        timeout=timeout,
        command_timeout=timeout,
        max_cached_statement_lifetime=0,  # few statements: no need to prepare them again every five minutes
        server_settings=SESSION_SETTINGS | {"statement_timeout": str(statement_timeout)} | address.session,
    )
