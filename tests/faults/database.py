"""What may happen to a database, a function each; it returns when the database could serve again."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
from msgspec import Struct

from tests.faults.cluster import Cluster


class Scene(Struct):
    """Where it happens."""

    cluster: Cluster
    database: str
    small: Path | None
    port: int  # the service's

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        """As a superuser, past the service."""
        connection = await asyncpg.connect(self.cluster.url(self.database))
        try:
            yield connection
        finally:
            await connection.close()


async def killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.kill)
    await asyncio.sleep(2)
    await asyncio.to_thread(scene.cluster.start)


async def restarted(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.stop)
    await asyncio.to_thread(scene.cluster.start)


async def stopped(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.stop)
    await asyncio.sleep(30)
    await asyncio.to_thread(scene.cluster.start)


async def started(scene: Scene) -> None:
    """The other half of being away when the service starts."""
    await asyncio.to_thread(scene.cluster.start)


TERMINATE: Final = """
select pg_terminate_backend(pid)
from pg_stat_activity
where
    datname = current_database()
    and pid <> pg_backend_pid()
"""


async def terminated(scene: Scene) -> None:
    async with scene.connected() as connection:
        await connection.execute(TERMINATE)


async def locked(scene: Scene) -> None:
    async with scene.connected() as connection, connection.transaction():
        # As an index does while it is built: posts are read and not written.
        await connection.execute("lock table posts in share mode")
        await asyncio.sleep(12)


async def frozen(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.freeze)
    await asyncio.sleep(15)
    await asyncio.to_thread(scene.cluster.thaw)


async def crowded(scene: Scene) -> None:
    """Others take every slot, the service's as well."""
    others: list[asyncpg.Connection] = []
    async with scene.connected() as connection:
        while True:
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    others.append(await asyncpg.connect(scene.cluster.url()))
            if not await connection.fetch(TERMINATE):
                break
        await asyncio.sleep(5)
        await asyncio.gather(*(other.close() for other in others))


async def read_only(scene: Scene) -> None:
    async with scene.connected() as connection:
        await connection.execute("alter system set default_transaction_read_only = on")
        await connection.execute("select pg_reload_conf()")
        await asyncio.sleep(3)
        await connection.execute("alter system reset default_transaction_read_only")
        await connection.execute("select pg_reload_conf()")


async def full(scene: Scene) -> None:
    assert scene.small
    filler = scene.small / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    await asyncio.sleep(3)
    filler.unlink()


@contextmanager
def small_file_system(mount_point: Path, owner: str | None) -> Iterator[Path | None]:
    """Room for one database, in memory; ``None`` where that takes rights that we do not have."""
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
    make: Callable[[Scene], Awaitable[None]]
    away_at_start: bool = False
    on_small: bool = False


FAULTS: Final = (
    Fault("killed", "kill -9 of PostgreSQL, back after 2 s", killed),
    Fault("restarted", "fast restart", restarted),
    Fault("stopped", "stopped for 30 s", stopped),
    Fault("started", "away when the service starts", started, away_at_start=True),
    Fault("terminated", "every connection terminated", terminated),
    Fault("locked", "writes of posts locked for 12 s", locked),
    Fault("frozen", "frozen for 15 s", frozen),
    Fault("crowded", "no connection slot free for 5 s", crowded),
    Fault("read_only", "read-only for 3 s", read_only),
    Fault("full", "disk full for 3 s", full, on_small=True),
)
