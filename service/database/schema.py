"""Migrations: the files of sql/ are applied once each, in order, each in a transaction of its own."""

import hashlib
import logging
from pathlib import Path
from typing import Final

import asyncpg
from asyncpg import Connection
from msgspec import Struct

from service.database.faults import DatabaseFault, in_one_line
from service.database.hosts import connect_to_any

logger = logging.getLogger(__name__)

DIRECTORY: Final = Path(__file__).parents[2] / "sql"

# The key of the advisory lock that a migration holds. Any number will do that no other program uses on this database.
LOCK_KEY: Final = 7_305_081_964
LOCK_TIMEOUT: Final = 60  # seconds
CONNECT_TIMEOUT: Final = 60  # seconds

OLDEST_POSTGRESQL: Final = 17

SELECT_LACKS_SCHEMA_FILES: Final = "select to_regclass('schema_files') is null"

CREATE_SCHEMA_FILES: Final = """
create table schema_files (
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now(),
    constraint schema_files_name_pkey primary key (name)
)
"""

SELECT_SCHEMA_FILES: Final = """
select
    name,
    checksum
from schema_files
order by name
"""

INSERT_SCHEMA_FILE: Final = """
insert into schema_files (name, checksum)
values ($1, $2)
"""


class SchemaError(DatabaseFault):
    """The files do not fit the database; the message names the difference and the remedy."""


class SchemaFile(Struct, frozen=True):
    name: str
    statements: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.statements.encode()).hexdigest()


def read_files(directory: Path = DIRECTORY) -> list[SchemaFile]:
    """The schema files in the order of their numbers."""
    return [SchemaFile(path.name, path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.sql"))]


async def migrate(url: str, directory: Path = DIRECTORY, lock_timeout: float = LOCK_TIMEOUT) -> list[str]:
    """Apply the missing files. Raises ``SchemaError``, or an error of ``asyncpg.connect``.

    Only one process applies a file at a time. The others wait up to ``lock_timeout`` seconds, and then look again which
    files are missing. Returns the names of the files that this process has applied.
    """
    files = read_files(directory)
    applied = []
    # Behind a pooler, each transaction may be in another session. So it needs no prepared statements, and no lock of a
    # session, which would remain in the pool.
    connection = await connect_to_any(url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
    try:
        check_server(connection)
        while file := await _apply_next(connection, files, lock_timeout):
            applied.append(file.name)
            logger.info("applied sql/%s", file.name)
    finally:
        await connection.close()
    return applied


async def _apply_next(connection: Connection, files: list[SchemaFile], lock_timeout: float) -> SchemaFile | None:
    """Apply the first missing file in one transaction. Returns ``None`` if no file is missing."""
    file = None
    try:
        async with connection.transaction():
            await _lock(connection, lock_timeout)
            # Without "if not exists", which would need the right to create tables in any case.
            if await connection.fetchval(SELECT_LACKS_SCHEMA_FILES):
                await connection.execute(CREATE_SCHEMA_FILES)
            if missing := await _missing(connection, files):
                file = missing[0]
                await connection.execute(file.statements)
                await connection.execute(INSERT_SCHEMA_FILE, file.name, file.checksum)
    except asyncpg.PostgresError as error:
        if file is None:
            raise
        raise SchemaError(f"sql/{file.name} cannot be applied: {in_one_line(error)}") from error
    return file


async def _lock(connection: Connection, lock_timeout: float) -> None:
    """Take the lock of the migrations until the end of the transaction."""
    try:
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK_KEY, timeout=lock_timeout)
    except TimeoutError:
        raise SchemaError(
            f"another process has been migrating for {lock_timeout} seconds: try again when it has ended"
        ) from None


async def verify(connection: Connection, directory: Path = DIRECTORY) -> None:
    """Check that all files are applied unchanged. Raises ``SchemaError``, or an error of asyncpg."""
    missing = await _missing(connection, read_files(directory))
    if missing:
        names = ", ".join(file.name for file in missing)
        raise SchemaError(f"the database lacks {names}: run `python -m service migrate` first")


def check_server(connection: Connection) -> None:
    """Check what no migration can change. Raises ``SchemaError``."""
    version = connection.get_server_version()
    if version.major < OLDEST_POSTGRESQL:
        raise SchemaError(
            f"PostgreSQL {OLDEST_POSTGRESQL} or newer is required, this is {version.major}.{version.minor}"
        )
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise SchemaError(
            f"the encoding of the database is {encoding}, not UTF8: "
            "create another with `create database NAME encoding 'UTF8' template template0`"
        )


async def _missing(connection: Connection, files: list[SchemaFile]) -> list[SchemaFile]:
    """The files that are not applied yet. Applied files that are not in the directory belong to a newer release."""
    try:
        applied = {row["name"]: row["checksum"] for row in await connection.fetch(SELECT_SCHEMA_FILES)}
    except asyncpg.UndefinedTableError:
        applied = {}
    for file in files:
        if applied.get(file.name, file.checksum) != file.checksum:
            raise SchemaError(f"sql/{file.name} was changed after it was applied: restore it and add a new file")
    missing = [file for file in files if file.name not in applied]
    if missing and applied and missing[0].name < max(applied):
        raise SchemaError(
            f"sql/{missing[0].name} comes before {max(applied)}, which is applied: give it a higher number"
        )
    return missing
