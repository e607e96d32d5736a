"""Makes every fault under load and says what came of it: ``python -m tests.faults [names…]``."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg
from argon2 import PasswordHasher
from msgspec import Struct

from service.database import schema
from tests.bench import processes, servers
from tests.bench.database import CONTENT, PASSWORD
from tests.bench.options import progress, table
from tests.faults import clients, cluster, database
from tests.faults.cluster import ROLE, Cluster
from tests.faults.database import Fault, Scene, small_file_system
from tests.faults.load import GOOD, POSTS, USERS, Answer, Load, Writes, count_writes
from tests.tables import INSERT_POSTS, INSERT_USERS

FAULTS: Final = (*database.FAULTS, *clients.FAULTS)

BEFORE: Final = 2  # seconds of load
AFTER: Final = 3
TO_RECOVER: Final = 1
EXPECTED: Final = frozenset({"200", "201", "503"})

# What is at stake here is not what a password costs.
CHEAP: Final = {"PASSWORD_MEMORY_KIB": "8", "PASSWORD_PASSES": "1"}

TITLES: Final = (
    "fault",
    "requests",
    "answers by status",
    "longest wait",
    "recovered after",
    "writes acknowledged",
    "lost",
    "doubled",
)


class Outcome(Struct):
    """What came of a fault; times in seconds."""

    statuses: dict[str, int]
    longest: float
    recovered: float
    writes: Writes

    @property
    def is_bad(self) -> bool:
        bad = set(self.statuses) - EXPECTED
        return bool(bad or self.recovered > TO_RECOVER or self.writes.lost or self.writes.doubled)

    def cells(self) -> tuple[str, ...]:
        return (
            str(sum(self.statuses.values())),
            ", ".join(f"{status}: {number}" for status, number in sorted(self.statuses.items())),
            f"{self.longest:.2f} s",
            f"{self.recovered:.2f} s" + " !" * (self.recovered > TO_RECOVER),
            str(self.writes.acknowledged),
            str(self.writes.lost),
            str(self.writes.doubled),
        )


def main(names: list[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends every block, and so every program
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    if unknown := set(names) - {fault.name for fault in FAULTS}:
        sys.exit(f"no such fault: {', '.join(unknown)}; there are: {', '.join(fault.name for fault in FAULTS)}")
    os.environ.update(CHEAP)
    servers.DIRECTORY.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = [TITLES]
    bad = False
    with scene() as (postgres, small):
        for fault in chosen:
            if fault.on_small and not small:
                rows.append((fault.title, "left out: it takes the right to mount a file system", *[""] * 6))
                continue
            outcome = asyncio.run(measure(fault, postgres, small))
            progress(f"{fault.name}: {', '.join(outcome.cells())}{'  BAD' * outcome.is_bad}")
            rows.append((fault.title, *outcome.cells()))
            bad |= outcome.is_bad
    table(*rows)
    sys.exit(bad)


@contextmanager
def scene() -> Iterator[tuple[Cluster, Path | None]]:
    """A server with a database to clone, and a small file system known to it."""
    mount_point = servers.DIRECTORY / "small"
    with (
        cluster.started(servers.DIRECTORY, max_connections="40") as postgres,
        small_file_system(mount_point, postgres.user) as small,
    ):
        try:
            asyncio.run(seed(postgres, small))
            yield postgres, small
        finally:
            postgres.close()  # before its files go


async def seed(postgres: Cluster, small: Path | None) -> None:
    admin = await asyncpg.connect(postgres.url())
    if small:
        await admin.execute(f"create tablespace small location '{small}'")
    await admin.execute(f"create database seeded owner {ROLE}")
    await admin.close()
    await schema.migrate(postgres.url("seeded", ROLE))
    connection = await asyncpg.connect(postgres.url("seeded", ROLE))
    hasher = PasswordHasher(memory_cost=int(CHEAP["PASSWORD_MEMORY_KIB"]), time_cost=1, parallelism=1)
    await connection.execute(INSERT_USERS, USERS, hasher.hash(PASSWORD))
    await connection.execute(INSERT_POSTS, POSTS, CONTENT, USERS)
    await connection.execute("vacuum (analyze)")
    await connection.close()


async def measure(fault: Fault, postgres: Cluster, small: Path | None) -> Outcome:
    progress(f"{fault.name}: {fault.title}")
    admin = await asyncpg.connect(postgres.url())
    where = "tablespace small" if fault.on_small else ""
    await admin.execute(f'create database "{fault.name}" template seeded owner {ROLE} {where}')
    await admin.close()
    if fault.away_at_start:
        postgres.stop()
    with servers.started(servers.SERVICE, postgres.url(fault.name, ROLE), cores=processes.ALL_CORES) as service:
        load = Load(service.port)
        async with load.running():
            await asyncio.sleep(BEFORE)
            await fault.make(Scene(postgres, fault.name, small, service.port))
            healed = time.perf_counter()
            await asyncio.sleep(AFTER)
        return _outcome(load.answers, healed, await count_writes(postgres.url(fault.name), load.answers))


def _outcome(answers: list[Answer], healed: float, writes: Writes) -> Outcome:
    last_refused = max((answer.ended for answer in answers if answer.status not in GOOD), default=healed)
    statuses = Counter(answer.status for answer in answers)
    longest = max(answer.ended - answer.begun for answer in answers)
    return Outcome(statuses, longest, max(0, last_refused - healed), writes)


if __name__ == "__main__":
    main(sys.argv[1:])
