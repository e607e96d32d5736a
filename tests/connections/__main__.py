"""Runs random histories for a while: ``python -m tests.connections --minutes 20 --seed 1``."""

import argparse
import asyncio
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

from service.database import schema
from tests.connections import phases
from tests.connections import service as services
from tests.connections.histories import draw
from tests.connections.model import Circumstances
from tests.connections.phases import PHASES, SETTINGS, Phase
from tests.connections.service import Service
from tests.faults import cluster
from tests.faults.cluster import ROLE, Cluster

CALM: Final = 100  # histories of a calm phase
GROWTH: Final = 30 << 20  # bytes of resident memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.connections", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round has the next")
    parser.add_argument("--phase", choices=["calm", *(phase.name for phase in PHASES)], help="only this phase")
    parser.add_argument("--history", type=int, help="only this history of the seed, ten times, without a fault")
    parser.add_argument("--at-once", type=int, default=40, help="connections")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # runs every finally block, so every process is stopped
    with cluster.started(max_connections="60") as postgres, TemporaryDirectory() as directory:
        violations = asyncio.run(Fuzz(postgres, Path(directory), options).run())
    sys.exit(violations > 0)


class Fuzz:
    """Rounds of two phases: a calm one on a long-lived service, and one with a fault on a service of its own."""

    def __init__(self, postgres: Cluster, directory: Path, options: argparse.Namespace) -> None:
        self.postgres = postgres
        self.directory = directory
        self.options = options
        self.played = 0
        self.violations = 0
        self.memory: list[int] = []
        self.descriptors: list[int] = []

    async def run(self) -> int:
        """Returns the number of violations."""
        async with self._database("long-lived") as url:
            long_lived = Service(url, self.directory / "long-lived", **SETTINGS)
            try:
                await long_lived.start()
                if self.options.history is not None:
                    await self._replay(long_lived)
                else:
                    await self._run_rounds(long_lived)
                found = await phases.stop(long_lived)
                self._report("the service of the calm phases", 0, found + long_lived.unexpected_log_lines())
            finally:
                long_lived.kill()
        write(f"{self.played} histories, {self.violations} violations")
        return self.violations

    @asynccontextmanager
    async def _database(self, name: str) -> AsyncIterator[str]:
        async with services.connected(self.postgres.url()) as admin:
            await admin.execute(f'create database "{name}" owner {ROLE}')
        url = self.postgres.url(name, ROLE)
        await schema.migrate(url)
        yield url
        async with services.connected(self.postgres.url()) as admin:
            await admin.execute(f'drop database "{name}" with (force)')

    async def _run_rounds(self, long_lived: Service) -> None:
        last = monotonic() + self.options.minutes * 60
        only = self.options.phase
        chosen = [phase for phase in PHASES if only in {None, phase.name}]
        seed, at_once = self.options.seed, self.options.at_once
        while True:
            try:
                if only in {None, "calm"}:
                    played, found = await phases.run_calm(long_lived, seed, histories=CALM, at_once=at_once)
                    self._report(f"seed {seed}, calm", played, found + self._check_growth(long_lived))
                if chosen:
                    await self._run_phase(chosen[seed % len(chosen)], seed)
            except Exception:  # noqa: BLE001 - the next round may find more
                self._report(f"seed {seed}", 0, [traceback.format_exc()])
            if monotonic() > last:
                break
            seed += 1

    async def _run_phase(self, phase: Phase, seed: int) -> None:
        async with self._database(f"seed-{seed}") as url:
            log = self.directory / f"{seed}"
            played, found = await phases.run_phase(
                phase, seed, url, log, cluster=self.postgres, at_once=self.options.at_once
            )
        self._report(f"seed {seed}, {phase.name}", played, found)

    def _check_growth(self, service: Service) -> list[str]:
        """Compare memory and file descriptors with those after the second calm phase."""
        self.memory.append(service.memory())
        self.descriptors.append(service.descriptors())
        found = []
        if self.memory[-1] > self.memory[:2][-1] + GROWTH:
            found.append(f"resident memory grows: {[size >> 20 for size in self.memory]} MiB")
        if self.descriptors[-1] > self.descriptors[:2][-1]:
            found.append(f"the number of open file descriptors grows: {self.descriptors}")
        return found

    async def _replay(self, service: Service) -> None:
        history = draw(self.options.seed, self.options.history, service.account)
        around = Circumstances(phases.CLIENT_TIMEOUT, phases.KEEP_ALIVE)
        for _ in range(10):
            await services.prepare(service.database_url, [history])
            [trace] = await phases.play([history], service.port, at_once=1)
            write(trace.describe())
            self._report("replayed", 1, await phases.check(service.database_url, [trace], around))

    def _report(self, what: str, played: int, found: list[str]) -> None:
        self.played += played
        self.violations += len(found)
        memory = f", {self.memory[-1] >> 20} MiB" if self.memory else ""
        write(f"{what}: {played} histories, {len(found) or 'no'} violations{memory}")
        for violation in found:
            write(f"{violation}\n")


def write(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the person at the terminal


if __name__ == "__main__":
    main()
