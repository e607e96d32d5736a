"""Why the service cannot use its database: the cause and the remedy, one line per fault."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from service.database.address import parse
from service.database.certificates import unusable_files


class DatabaseFault(Exception):
    """Why the service cannot serve: one line per fault, with its cause and the remedy."""


class DatabaseUnreachable(DatabaseFault):
    """The database cannot be reached now. Waiting may resolve this."""


# Errors that waiting does not resolve, and what to do. The first class that matches counts.
REFUSALS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.InvalidPasswordError, "check the password in DATABASE_URL, PGPASSWORD or PGPASSFILE"),
    (asyncpg.InvalidAuthorizationSpecificationError, "check the role in DATABASE_URL, and pg_hba.conf of the server"),
    (asyncpg.InvalidCatalogNameError, "check the name in DATABASE_URL, or create the database"),
    (asyncpg.InsufficientPrivilegeError, "README.md lists the rights that the role needs"),
    # From a parameter of the URL, such as `options`.
    (asyncpg.SyntaxOrAccessError, "check the settings in DATABASE_URL"),
    (asyncpg.DataError, "check the settings in DATABASE_URL"),
    (asyncpg.CantChangeRuntimeParamError, "check the settings in DATABASE_URL"),
    (asyncpg.FeatureNotSupportedError, "check that DATABASE_URL leads to PostgreSQL"),
    (ssl.SSLCertVerificationError, "check the host name in DATABASE_URL, and sslrootcert"),
    # asyncpg does not know how to log in, or cannot use the URL or a variable of the environment such as PGPORT.
    (asyncpg.InterfaceError, "check DATABASE_URL and the variables PG…"),
    (ValueError, "check DATABASE_URL and the variables PG…"),
)

_TLS_REJECTED: Final = "rejected SSL upgrade"  # asyncpg has no class for this


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise ``DatabaseFault`` for an error of asyncpg or the system, ``DatabaseUnreachable`` if waiting may help."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError) as error:
        raise _explain(error, url) from error


def _explain(error: Exception, url: str) -> DatabaseFault:
    reason = in_one_line(error)
    if isinstance(error, OSError) and (faults := unusable_files(parse(url))):
        return DatabaseFault("\n".join(faults))
    for kind, remedy in REFUSALS:
        if isinstance(error, kind):
            return DatabaseFault(f"The database refuses the connection: {reason}: {remedy}")
    if isinstance(error, ConnectionError) and _TLS_REJECTED in reason:
        return DatabaseFault(
            f"The database refuses the connection: {reason}: check that DATABASE_URL leads to PostgreSQL, and sslmode"
        )
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return DatabaseUnreachable(f"The database is read-only: {reason}: let DATABASE_URL lead to the primary")
    if isinstance(error, TimeoutError):
        reason = "it does not respond in time"
    state = "cannot be reached" if not isinstance(error, asyncpg.PostgresError) else "cannot serve now"
    return DatabaseUnreachable(f"The database {state}: {reason}")


def in_one_line(error: Exception) -> str:
    """The message of an error, for PostgreSQL's with details and hints, on one line; its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
