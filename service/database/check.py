"""The check at start: it connects as the pool does, and refuses a database on which the service cannot serve."""

import logging

from asyncpg import Connection

from service.database import pooler, schema, search_language
from service.database.address import parse
from service.database.connecting import connect
from service.database.faults import DatabaseFault, explained
from service.database.rights import missing_rights
from service.settings import Settings

logger = logging.getLogger(__name__)


async def check(settings: Settings) -> str:
    """Check that the service can serve on its database.

    Raises ``DatabaseFault``, and its subclass ``DatabaseUnreachable`` if waiting may resolve the fault. What is dropped
    from the URL is only logged. Returns why the server is read-only now, which may pass during a failover; else ``""``.
    """
    url, timeout = settings.database_url, settings.database_timeout_seconds
    for sentence in parse(url).dropped:
        logger.warning("DATABASE_URL: %s", sentence)
    with explained(url):
        await pooler.check(url, timeout)  # first, because `connect` sets what would remain in a shared session
        connection = await connect(url, timeout=timeout)
        try:
            schema.check_server(connection)
            if faults := await missing_rights(connection):
                raise DatabaseFault("\n".join(faults))
            await schema.verify(connection)
            other = await search_language.find_other(connection, settings.search_language)
            read_only = _why_read_only(connection)
        finally:
            await connection.close(timeout=timeout)
    if other:
        logger.warning(
            "SEARCH_LANGUAGE is %s, but the index of the posts is in %s, which is used: "
            "`python -m service reindex-search` rebuilds it",
            settings.search_language,
            other,
        )
    return read_only


def _why_read_only(connection: Connection) -> str:
    reported = connection.get_settings()
    if getattr(reported, "in_hot_standby", "off") == "on":
        return "the database is a standby: writes get a 503 until DATABASE_URL leads to a primary"
    if getattr(reported, "default_transaction_read_only", "off") == "on":
        return "the database is read-only (default_transaction_read_only): writes get a 503 until it is not"
    return ""
