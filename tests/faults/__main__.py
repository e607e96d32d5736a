"""Injects every fault under load and prints a table of the results: ``python -m tests.faults [names…]``."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
from argon2 import PasswordHasher
from msgspec import Struct

from service.database import schema
from tests.bench import processes, servers
from tests.bench.database import CONTENT, PASSWORD
from tests.bench.options import progress, table
from tests.faults import clients, cluster, database, network, pooler
from tests.faults.cluster import ROLE, Cluster
from tests.faults.database import Fault, Target, small_file_system
from tests.faults.forwarder import Forwarder
from tests.faults.load import GOOD, POSTS, USERS, Load, Response, WriteCounts, count_writes
from tests.poolers import PGBOUNCER, running
from tests.tables import INSERT_POSTS, INSERT_SESSIONS, INSERT_USERS

FAULTS: Final = (*database.FAULTS, *network.FAULTS, *pooler.FAULTS, *clients.FAULTS)

# Seconds of load before and after a fault.
SECONDS_BEFORE: Final = 2
SECONDS_AFTER: Final = 3
MAX_RECOVERY_SECONDS: Final = 1
EXPECTED: Final = frozenset({"200", "201", "503"})

# The cost of a hash does not matter here.
CHEAP_HASHES: Final = {"PASSWORD_MEMORY_KIB": "8", "PASSWORD_PASSES": "1"}

TITLES: Final = (
    "fault",
    "requests",
    "responses by status",
    "longest response",
    "recovered after",
    "writes acknowledged",
    "lost",
    "doubled",
)


class Outcome(Struct):
    """The result of a fault; times in seconds."""

    statuses: dict[str, int]
    longest_response: float
    recovery: float
    writes: WriteCounts

    @property
    def failed(self) -> bool:
        unexpected = set(self.statuses) - EXPECTED
        return bool(unexpected or self.recovery > MAX_RECOVERY_SECONDS or self.writes.lost or self.writes.doubled)

    def cells(self) -> tuple[str, ...]:
        return (
            str(sum(self.statuses.values())),
            ", ".join(f"{status}: {number}" for status, number in sorted(self.statuses.items())),
            f"{self.longest_response:.2f} s",
            f"{self.recovery:.2f} s" + " !" * (self.recovery > MAX_RECOVERY_SECONDS),
            str(self.writes.acknowledged),
            str(self.writes.lost),
            str(self.writes.doubled),
        )


def main(names: list[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # it ends every `with` block, and so every process
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    if unknown := set(names) - {fault.name for fault in FAULTS}:
        sys.exit(f"unknown fault: {', '.join(unknown)}. The faults are: {', '.join(fault.name for fault in FAULTS)}")
    os.environ.update(CHEAP_HASHES)
    servers.DIRECTORY.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = [TITLES]
    failed = False
    with prepare() as (postgres, small_volume):
        for fault in chosen:
            if fault.on_small_volume and not small_volume:
                rows.append((fault.title, "skipped: it requires the permission to mount a file system", *[""] * 6))
                continue
            if fault.behind_pooler and not PGBOUNCER:
                rows.append((fault.title, "skipped: PgBouncer is not installed", *[""] * 6))
                continue
            outcome = asyncio.run(measure(fault, postgres, small_volume))
            progress(f"{fault.name}: {', '.join(outcome.cells())}{'  FAILED' * outcome.failed}")
            rows.append((fault.title, *outcome.cells()))
            failed |= outcome.failed
    table(*rows)
    sys.exit(failed)


@contextmanager
def prepare() -> Iterator[tuple[Cluster, Path | None]]:
    """A server with a database to clone, and a small file system for a tablespace."""
    mount_point = servers.DIRECTORY / "small"
    with (
        cluster.started(servers.DIRECTORY, max_connections="40") as postgres,
        small_file_system(mount_point, postgres.user) as small_volume,
    ):
        try:
            asyncio.run(seed(postgres, small_volume))
            yield postgres, small_volume
        finally:
            postgres.close()  # before its files are deleted


async def seed(postgres: Cluster, small_volume: Path | None) -> None:
    admin = await asyncpg.connect(postgres.url())
    if small_volume:
        await admin.execute(f"create tablespace small location '{small_volume}'")
    await admin.execute(f"create database seeded owner {ROLE}")
    await admin.close()
    await schema.migrate(postgres.url("seeded", ROLE))
    connection = await asyncpg.connect(postgres.url("seeded", ROLE))
    hasher = PasswordHasher(memory_cost=int(CHEAP_HASHES["PASSWORD_MEMORY_KIB"]), time_cost=1, parallelism=1)
    await connection.execute(INSERT_USERS, USERS, hasher.hash(PASSWORD))
    await connection.execute(INSERT_SESSIONS)
    await connection.execute(INSERT_POSTS, POSTS, CONTENT, USERS)
    await connection.execute("vacuum (analyze)")
    await connection.close()


async def measure(fault: Fault, postgres: Cluster, small_volume: Path | None) -> Outcome:
    progress(f"{fault.name}: {fault.title}")
    admin = await asyncpg.connect(postgres.url())
    where = "tablespace small" if fault.on_small_volume else ""
    await admin.execute(f'create database "{fault.name}" template seeded owner {ROLE} {where}')
    await admin.close()
    if fault.away_at_start:
        postgres.stop()
    async with AsyncExitStack() as resources:
        url, bouncer, forwarder = postgres.url(fault.name, ROLE), None, None
        if fault.behind_pooler:
            # As README.md says. With its default PgBouncer waits 15 s before it connects to PostgreSQL again.
            bouncer = resources.enter_context(running(servers.DIRECTORY, url, server_login_retry=1))
            url = bouncer.url
        if fault.through_forwarder:
            forwarder = Forwarder(url)
            await resources.enter_async_context(forwarder.running())
            url = forwarder.address_of(url)
        starting = servers.started(servers.SERVICE, url, cores=processes.ALL_CORES)
        service = await asyncio.to_thread(resources.enter_context, starting)  # the forwarder works meanwhile
        target = Target(postgres, fault.name, small_volume, service.port, resources, bouncer, forwarder)
        load = Load(service.port)
        async with load.running():
            await asyncio.sleep(SECONDS_BEFORE)
            await fault.inject(target)
            repaired_at = time.perf_counter()
            await asyncio.sleep(SECONDS_AFTER)
        writes = await count_writes(target.cluster.url(fault.name), load.responses)
        return _outcome(load.responses, repaired_at, writes)


def _outcome(responses: list[Response], repaired_at: float, writes: WriteCounts) -> Outcome:
    last_refused = max((response.ended for response in responses if response.status not in GOOD), default=repaired_at)
    statuses = Counter(response.status for response in responses)
    longest_response = max(response.ended - response.begun for response in responses)
    return Outcome(statuses, longest_response, max(0, last_refused - repaired_at), writes)


if __name__ == "__main__":
    main(sys.argv[1:])
