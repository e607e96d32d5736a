"""The check at start: the service connects as the pool does, and refuses a database on which it cannot serve."""

import asyncpg

from service.database import schema
from service.database.schema import SchemaError, in_one_line
from service.settings import Settings

_UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
# Errors that waiting does not resolve: an invalid URL, an unknown role, a wrong password, an unknown database.
_REFUSED = (
    asyncpg.exceptions.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


class DatabaseFault(Exception):
    """Why the service cannot serve: one line per fault, with its cause and the remedy."""


class DatabaseUnreachable(DatabaseFault):
    """The database cannot be reached now. Waiting may resolve this."""


async def check(settings: Settings) -> None:
    """Check that the service can serve on its database.

    Raises ``DatabaseFault``, and its subclass ``DatabaseUnreachable`` if waiting may resolve the fault.
    """
    try:
        await schema.verify(settings.database_url, timeout=settings.database_timeout_seconds)
    except SchemaError as error:
        raise DatabaseFault(f"The schema is not the one that this version needs: {error}") from error
    except _REFUSED as error:
        raise DatabaseFault(f"The database refuses the connection: {_reason(error)}") from error
    except _UNREACHABLE as error:
        raise DatabaseUnreachable(f"The database cannot be reached: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return in_one_line(error) or type(error).__name__
