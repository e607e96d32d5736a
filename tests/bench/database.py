"""The PostgreSQL server of the benchmark (on disk, with fsync), and its rows."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from argon2 import PasswordHasher

from service.database import schema
from service.development import embedded, programs
from service.settings import Settings
from tests.bench import processes
from tests.databases import with_database
from tests.tables import INSERT_POSTS, INSERT_SESSIONS, INSERT_USERS

DEFAULTS: Final = Settings(database_url="", secret_key=b"")

PASSWORD: Final = "the password of everybody"
CONTENT: Final = "Some text of a length that people write, so that a row looks like one of theirs and not like a test. "

# The read of `GET /posts/{id}`, with pgbench's variables.
PGBENCH: Final = """
\\set id random(1, {posts})
select id, title, content, user_id, date_posted from posts where id = :id;
"""


class Postgres:
    """A running server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str) -> str:
        return with_database(self._url, database)

    def create(self, database: str) -> str:
        """Create a database with the service's schema. Returns its URL."""
        run(self.url("postgres"), f'create database "{database}"')
        asyncio.run(schema.migrate(self.url(database)))
        return self.url(database)


@contextmanager
def started(directory: Path) -> Iterator[Postgres]:
    """A new server with PostgreSQL's default settings and its data under ``directory``."""
    with (
        tempfile.TemporaryDirectory(prefix="postgres-", dir=directory) as parent,
        embedded.running(Path(parent, "postgres"), announce=lambda _: None) as url,
    ):
        postgres = Postgres(url)
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            # Figures without them are meaningless.
            assert value(postgres.url("postgres"), f"show {name}") == "on", name
        yield postgres


def seed(url: str, *, users: int, posts_per_user: int) -> None:
    """Insert users, a session of each, and their posts, all with ids from 1. The users' password is ``PASSWORD``."""
    run(url, INSERT_USERS, users, hasher().hash(PASSWORD))
    run(url, INSERT_SESSIONS)
    run(url, INSERT_POSTS, users * posts_per_user, CONTENT, users)
    tidy(url)


def hasher() -> PasswordHasher:
    """A hasher with the service's default settings, so that no login has to rehash."""
    return PasswordHasher(DEFAULTS.password_passes, DEFAULTS.password_memory_kib, DEFAULTS.password_lanes)


def undo_writes(url: str, posts: int) -> None:
    """Delete what a server has written, so that the next one finds the same database."""
    run(url, "delete from posts where id > $1", posts)
    tidy(url)


def tidy(url: str) -> None:
    run(url, "vacuum (analyze)")
    run(url, "checkpoint")


def run(url: str, statement: str, *arguments: Any) -> None:
    asyncio.run(_fetch(url, statement, arguments))


def value(url: str, statement: str) -> Any:
    """The only value that a statement returns."""
    return asyncio.run(_fetch(url, statement, ()))[0][0]


async def _fetch(url: str, statement: str, arguments: tuple[Any, ...]) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


def alone(url: str, *, posts: int, seconds: int, directory: Path) -> float:
    """Reads of random posts per second that PostgreSQL serves to pgbench, without any service."""
    script = directory / "select.sql"
    script.write_text(PGBENCH.format(posts=posts))
    load = ["--protocol=prepared", "--no-vacuum", "--client=10", f"--time={seconds}", f"--file={script}"]
    printed = processes.output([programs.program("pgbench"), *load, url], seconds=seconds + 30)
    found = re.search(r"tps = ([0-9.]+)", printed)
    assert found, printed
    return float(found[1])
