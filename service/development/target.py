"""The database that a recipe is about: ``DATABASE_URL``, that of ``just up``, or that of ``just compose-up``."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from service import settings
from service.development import data_directory, embedded, programs
from service.development.errors import EmbeddedError

COMPOSE: Final = ("docker", "compose", "exec", "--no-TTY", "db")


class Target(Struct, frozen=True):
    """A database, and how PostgreSQL's programs reach it."""

    where: str
    environment: dict[str, str]
    url: str = ""  # without a password, which every user of the machine could see; empty: the container of Compose

    @property
    def in_container(self) -> bool:
        return not self.url

    def command(self, program: str, *arguments: str, database: bool = True) -> list[str]:
        """The command that runs a program on this database, or without it."""
        if self.in_container:
            options = ["--username=app_user", "--dbname=app_db"] if database else []
            return [*COMPOSE, program, *options, *arguments]
        options = [f"--dbname={self.url}"] if database else []
        return [str(programs.program(program)), *options, *arguments]


@contextmanager
def existing() -> Iterator[Target]:
    """The database that runs, else the embedded one, which is started. Raises ``EmbeddedError`` if there is none."""
    data = _data()
    if found := _running(data):
        yield found
    elif (data / "PG_VERSION").exists():
        with _started(data) as target:
            yield target
    else:
        raise EmbeddedError(
            f"There is no database: DATABASE_URL is not set, {data} does not exist, and the containers of "
            "`just compose-up` do not run"
        )


@contextmanager
def for_restore() -> Iterator[Target]:
    """As ``existing``, but the embedded database is created if there is none."""
    data = _data()
    if found := _running(data):
        yield found
    else:
        with _started(data) as target:
            yield target


def _data() -> Path:
    return settings.data_directory() / "postgres"


def _running(data: Path) -> Target | None:
    if url := os.environ.get("DATABASE_URL", "").strip():
        return _of_url(f"postgresql://{url.partition('://')[2]}")
    if socket_url := data_directory.url_of(data):
        return _of_embedded(data, socket_url)
    if _compose_runs():
        return Target("the container of `just compose-up`", dict(os.environ))
    return None


@contextmanager
def _started(data: Path) -> Iterator[Target]:
    with data_directory.exclusive(data), embedded.running(data, announce=print) as url:
        yield _of_embedded(data, url)


def _of_embedded(data: Path, url: str) -> Target:
    # PGOPTIONS, PGSSLMODE and the like are meant for other servers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return Target(f"the embedded PostgreSQL in {data}", environment, url)


def _of_url(url: str) -> Target:
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    query = []
    for parameter in filter(None, parts.query.split("&")):
        if parameter.startswith("password="):
            password = parameter.removeprefix("password=")
        else:
            query.append(parameter)
    bare = f"postgresql://{name}{'@' * bool(name)}{hosts}{parts.path}{'?' * bool(query)}{'&'.join(query)}"
    environment = os.environ | ({"PGPASSWORD": unquote(password)} if password else {})
    return Target(f"DATABASE_URL on {parts.hostname or 'a local socket'}", environment, bare)


def _compose_runs() -> bool:
    try:
        found = subprocess.run(
            ["docker", "compose", "ps", "--quiet", "--status=running", "db"],  # noqa: S607
            capture_output=True,
            check=False,
        )
    except OSError:  # Docker is not installed
        return False
    return bool(found.stdout.strip())
