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


_CHECK_CREDENTIALS: Final = "check the password in DATABASE_URL, PGPASSWORD or PGPASSFILE"
_CHECK_NAME: Final = "check the name in DATABASE_URL, or create the database"
_CHECK_SETTINGS: Final = "check the settings in DATABASE_URL"
_CHECK_ALL: Final = "check DATABASE_URL and the variables PG…"

# Errors that waiting does not resolve: the class, a part of the message if the class is not enough, and what to do. The
# first that matches counts.
REFUSALS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (asyncpg.InvalidPasswordError, "", _CHECK_CREDENTIALS),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "",
        "check the role in DATABASE_URL, and the server's pg_hba.conf",
    ),
    (asyncpg.InvalidCatalogNameError, "", _CHECK_NAME),
    (asyncpg.InsufficientPrivilegeError, "", "README.md lists the rights that the role needs"),
    # From parameters of the URL, such as `options`.
    (asyncpg.SyntaxOrAccessError, "", _CHECK_SETTINGS),
    (asyncpg.DataError, "", _CHECK_SETTINGS),
    (asyncpg.CantChangeRuntimeParamError, "", _CHECK_SETTINGS),
    (asyncpg.FeatureNotSupportedError, "", "check that DATABASE_URL leads to PostgreSQL"),
    # From PgBouncer, which has one SQLSTATE for all its errors.
    (asyncpg.ProtocolViolationError, "startup parameter", "let PgBouncer's ignore_startup_parameters name it"),
    (asyncpg.ProtocolViolationError, "does not exist", _CHECK_NAME),
    (asyncpg.ProtocolViolationError, "password", _CHECK_CREDENTIALS),
    (ssl.SSLCertVerificationError, "", "check the host name in DATABASE_URL, and sslrootcert"),
    (ConnectionError, "rejected SSL upgrade", "check that DATABASE_URL leads to PostgreSQL, and sslmode"),
    # asyncpg does not know how to log in, or cannot use the URL or a variable of the environment such as PGPORT.
    (asyncpg.InterfaceError, "", _CHECK_ALL),
    (ValueError, "", _CHECK_ALL),
)


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
    for kind, part, remedy in REFUSALS:
        if isinstance(error, kind) and part in reason:
            return DatabaseFault(f"The database refuses the connection: {reason}: {remedy}")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return DatabaseUnreachable(f"The database is read-only: {reason}: let DATABASE_URL lead to the primary")
    if isinstance(error, TimeoutError):
        reason = "it does not respond in time"
    hosts = parse(url).hosts
    if isinstance(error, OSError) and len(hosts) == 1 and hosts[0].name:  # of several, each is named already
        reason = f"{hosts[0]}: {reason.removeprefix(f'{hosts[0]}: ')}"
    state = "cannot serve now" if isinstance(error, asyncpg.PostgresError) else "cannot be reached"
    return DatabaseUnreachable(f"The database {state}: {reason}")


def in_one_line(error: Exception) -> str:
    """The message of an error, for PostgreSQL's with details and hints, on one line; its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
