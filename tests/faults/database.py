"""Faults of the database, one function each. It returns when the database works again."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
from msgspec import Struct

from tests.faults.cluster import Cluster
from tests.faults.forwarder import Forwarder
from tests.poolers import PgBouncer


class Target(Struct):
    """What a fault is injected into."""

    cluster: Cluster
    database: str
    small_volume: Path | None
    port: int  # of the service
    resources: AsyncExitStack  # they last until the writes have been counted
    pooler: PgBouncer | None = None
    forwarder: Forwarder | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to the database as a superuser."""
        connection = await asyncpg.connect(self.cluster.url(self.database))
        try:
            yield connection
        finally:
            await connection.close()


async def killed(target: Target) -> None:
    await asyncio.to_thread(target.cluster.kill)
    await asyncio.sleep(2)
    await asyncio.to_thread(target.cluster.start)


async def restarted(target: Target) -> None:
    await asyncio.to_thread(target.cluster.stop)
    await asyncio.to_thread(target.cluster.start)


async def stopped(target: Target) -> None:
    await asyncio.to_thread(target.cluster.stop)
    await asyncio.sleep(30)
    await asyncio.to_thread(target.cluster.start)


async def started(target: Target) -> None:
    """The database is stopped before the service starts; this starts it."""
    await asyncio.to_thread(target.cluster.start)


TERMINATE: Final = """
select pg_terminate_backend(pid)
from pg_stat_activity
where
    datname = current_database()
    and pid <> pg_backend_pid()
"""


async def terminated(target: Target) -> None:
    async with target.connected() as connection:
        await connection.execute(TERMINATE)


async def locked(target: Target) -> None:
    async with target.connected() as connection, connection.transaction():
        # The lock that `create index` takes: posts can be read but not written.
        await connection.execute("lock table posts in share mode")
        await asyncio.sleep(12)


async def frozen(target: Target) -> None:
    await asyncio.to_thread(target.cluster.freeze)
    await asyncio.sleep(15)
    await asyncio.to_thread(target.cluster.thaw)


async def no_slots(target: Target) -> None:
    """Other clients take every connection slot, including those of the service."""
    others: list[asyncpg.Connection] = []
    async with target.connected() as connection:
        while True:
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    others.append(await asyncpg.connect(target.cluster.url()))
            if not await connection.fetch(TERMINATE):
                break
        await asyncio.sleep(5)
        await asyncio.gather(*(other.close() for other in others))


# The connections of the service to a database.
SERVICE_SESSIONS: Final = """
select count(*)
from pg_stat_activity
where
    datname = current_database()
    and application_name = 'accounts-and-posts'
"""


async def set_read_only(url: str, *, on: bool) -> None:
    """Let a server refuse writes, or accept them again. Its sessions stay open."""
    value = "on" if on else "off"
    connection = await asyncpg.connect(url)
    await connection.execute(f"alter system set default_transaction_read_only = {value}")
    await connection.execute("select pg_reload_conf()")
    await connection.close()
    # A new session has the new value when the server has told all others.
    while connection.get_settings().default_transaction_read_only != value:
        connection = await asyncpg.connect(url)
        await connection.close()


async def read_only(target: Target) -> None:
    await set_read_only(target.cluster.url(), on=True)
    await asyncio.sleep(3)
    await set_read_only(target.cluster.url(), on=False)


async def full(target: Target) -> None:
    assert target.small_volume
    filler = target.small_volume / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    await asyncio.sleep(3)
    filler.unlink()


@contextmanager
def small_file_system(mount_point: Path, owner: int | None) -> Iterator[Path | None]:
    """A file system of 64 MiB in memory. ``None`` without the permission to mount one."""
    mount_point.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount_point)]
    if not shutil.which("mount") or subprocess.run(mounting, stderr=subprocess.DEVNULL, check=False).returncode:  # noqa: S603
        yield None
        return
    try:
        if owner:
            shutil.chown(mount_point, owner)
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)  # noqa: S603, S607


class Fault(Struct, frozen=True):
    name: str
    title: str
    inject: Callable[[Target], Awaitable[None]]
    away_at_start: bool = False
    on_small_volume: bool = False
    behind_pooler: bool = False
    through_forwarder: bool = False


FAULTS: Final = (
    Fault("killed", "kill -9 of PostgreSQL, back after 2 s", killed),
    Fault("restarted", "fast restart", restarted),
    Fault("stopped", "stopped for 30 s", stopped),
    Fault("started", "away when the service starts", started, away_at_start=True),
    Fault("terminated", "every connection terminated", terminated),
    Fault("locked", "writes of posts locked for 12 s", locked),
    Fault("frozen", "frozen for 15 s", frozen),
    Fault("no_slots", "no connection slot free for 5 s", no_slots),
    Fault("read_only", "read-only for 3 s", read_only),
    Fault("full", "disk full for 3 s", full, on_small_volume=True),
)
