"""How this service connects to PostgreSQL. The pool, the migrations and the check at start all do it here."""

from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg import Connection
from asyncpg.connect_utils import SessionAttribute

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


async def connect(
    url: str,
    *,
    timeout: float,  # noqa: ASYNC109 - passed to asyncpg
    target_session_attrs: SessionAttribute | None = None,
) -> Connection:
    """Open a connection. ``timeout`` in seconds bounds this, and then each statement. Raises asyncpg's errors.

    The server is a primary, unless ``target_session_attrs`` or the URL requires another kind: a standby refuses writes,
    and its rows may be old. Raises ``ConnectionError`` if there is none of the kind.
    """
    if not target_session_attrs and "target_session_attrs" not in parse_qs(urlsplit(url).query):
        target_session_attrs = SessionAttribute.primary
    statement_timeout = max(1, int(timeout * 1000 * _STATEMENT_TIMEOUT_FRACTION))  # milliseconds
    try:
        return await asyncpg.connect(
            url,
            timeout=timeout,
            command_timeout=timeout,
            max_cached_statement_lifetime=0,  # few statements: no need to prepare them again every five minutes
            server_settings=SESSION_SETTINGS | {"statement_timeout": str(statement_timeout)},
            target_session_attrs=target_session_attrs,
        )
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise ConnectionError(
            "DATABASE_URL leads to a standby, or to another server that its target_session_attrs excludes"
        ) from error
