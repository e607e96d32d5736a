"""The PostgreSQL server of the tests: ``TEST_DATABASE_URL``, else one in Docker, else an embedded one."""

import gc
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from service.development import embedded

IMAGE = "postgres:18-alpine"

# A test database exists for milliseconds and need not survive a crash. Each worker of pytest has several apps.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_init_zero": "off",
    "max_connections": "300",
}


class Postgres(Struct):
    url: str
    description: str


@contextmanager
def started() -> Iterator[Postgres]:
    """A running server whose user may create databases."""
    if url := os.environ.get("TEST_DATABASE_URL", "").strip():
        yield Postgres(url, "TEST_DATABASE_URL")
        return
    with ExitStack() as stack:
        server = _try_docker(stack)
        if isinstance(server, str):
            # A failed connection to Docker leaves a socket open. Collected during a test, it would make that test fail.
            with warnings.catch_warnings(action="ignore"):
                gc.collect()
            reason, server = server, stack.enter_context(_embedded())
            server.description += f", because Docker cannot run {IMAGE} ({reason})"
        yield server


def _try_docker(stack: ExitStack) -> Postgres | str:
    """Start a server in Docker. Returns the reason if Docker cannot run it."""
    from docker.errors import DockerException  # noqa: PLC0415 - a slow import

    try:
        return stack.enter_context(_in_docker())
    # No engine, no image (of PostgreSQL or of testcontainers' own Ryuk), no connection, or no start in time.
    except (DockerException, OSError, RuntimeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _in_docker() -> Iterator[Postgres]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - a slow import

    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    container = PostgresContainer(IMAGE, driver=None).with_command(f"postgres {settings}")
    with container.with_tmpfs_mount("/var/lib/postgresql"):
        yield Postgres(container.get_connection_url(), f"{IMAGE} in Docker")


@contextmanager
def _embedded() -> Iterator[Postgres]:
    memory = Path("/dev/shm")  # noqa: S108 - cloning a database takes ten times as long on a disk
    with (
        tempfile.TemporaryDirectory(prefix="test-postgres-", dir=memory if memory.is_dir() else None) as directory,
        embedded.running(Path(directory, "postgres"), SETTINGS, announce=lambda _: None) as url,
    ):
        yield Postgres(url, "embedded")
