"""Runs random histories for a while: ``python -m tests.connections --minutes 20 --seed 1``."""

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

import asyncpg

from service.database import schema
from tests.connections import phases
from tests.connections import service as services
from tests.connections.histories import draw
from tests.connections.messages import Account
from tests.connections.phases import PHASES, SETTINGS, Phase
from tests.connections.service import Service
from tests.faults import cluster
from tests.faults.cluster import ROLE, Cluster

CALM: Final = 100  # histories of a round without any trouble
GROWTH: Final = 30 << 20  # bytes of resident memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.connections", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round has the next")
    parser.add_argument("--history", type=int, help="only this one of the seed, without any trouble, ten times")
    parser.add_argument("--at-once", type=int, default=40, help="connections")
    parser.add_argument("--phase", help="only this phase, such as `drain`")
    options = parser.parse_args()
    with cluster.started(max_connections="60") as postgres, TemporaryDirectory() as directory:
        found = asyncio.run(Fuzz(postgres, Path(directory), options).run())
    sys.exit(found > 0)


class Fuzz:
    """Rounds of two phases: calm ones on a server that lasts, and one with a trouble on a server of its own."""

    def __init__(self, postgres: Cluster, directory: Path, options: argparse.Namespace) -> None:
        self.postgres = postgres
        self.directory = directory
        self.options = options
        self.violations = 0
        self.played = Counter[str]()
        self.memory: list[int] = []
        self.descriptors = 0

    async def run(self) -> int:
        url = await self._make_database()
        lasting = Service(url, self.directory / "lasting", **SETTINGS)
        await lasting.start()
        try:
            account = await services.register(lasting.address, "model")
            await services.insert_public_posts(url, account)
            if self.options.history is not None:
                await self._replay(lasting, account)
            else:
                await self._run_rounds(lasting, account, url)
            self._report("end", await phases.stop(lasting, 3))
        finally:
            lasting.kill()
        say(f"{sum(self.played.values())} histories, {self.violations} with violations")
        return self.violations

    async def _make_database(self) -> str:
        admin = await asyncpg.connect(self.postgres.url())
        await admin.execute(f"create database model owner {ROLE}")
        await admin.close()
        url = self.postgres.url("model", ROLE)
        await schema.migrate(url)
        return url

    async def _run_rounds(self, lasting: Service, account: Account, url: str) -> None:
        last = monotonic() + self.options.minutes * 60
        seed = self.options.seed
        while True:
            if not self.options.phase:
                await self._run_calm(lasting, account, seed)
            phase = self._choose(seed)
            log = self.directory / f"{seed}"
            played, found = await phases.run_phase(
                phase, seed, account, url, log, self.postgres, at_once=self.options.at_once
            )
            self.played[phase.name] += played
            self._report(f"seed {seed}, {phase.name}, {played} histories", found)
            seed += 1
            if monotonic() > last:
                break

    def _choose(self, seed: int) -> Phase:
        chosen = [phase for phase in PHASES if self.options.phase in {None, phase.name}]
        return chosen[seed % len(chosen)]

    async def _run_calm(self, service: Service, account: Account, seed: int) -> None:
        histories = [draw(seed, number, account) for number in range(CALM)]
        await phases.prepare(service.database_url, account, histories)
        traces = await phases.play(histories, service.port, at_once=self.options.at_once)
        found = await phases.check_end(service)
        found += await phases.check(service.database_url, traces, phases.circumstances())
        found += self._check_growth(service)
        self.played["calm"] += len(traces)
        self._report(f"seed {seed}, calm, {len(traces)} histories", found)

    def _check_growth(self, service: Service) -> list[str]:
        """Compare with the end of the second calm phase."""
        self.memory.append(service.memory())
        descriptors = service.descriptors()
        if len(self.memory) <= 2:
            self.descriptors = descriptors
            return []
        found = []
        if self.memory[-1] > self.memory[1] + GROWTH:
            found.append(f"resident memory grows: {[size >> 20 for size in self.memory]} MiB")
        if descriptors > self.descriptors:
            found.append(f"{descriptors} file descriptors after {self.descriptors}")
        return found

    async def _replay(self, service: Service, account: Account) -> None:
        history = draw(self.options.seed, self.options.history, account)
        for _ in range(10):
            await phases.prepare(service.database_url, account, [history])
            [trace] = await phases.play([history], service.port, at_once=1)
            found = await phases.check(service.database_url, [trace], phases.circumstances())
            say(trace.describe())
            self.played["replayed"] += 1
            self._report(f"history {history.label}", found)

    def _report(self, what: str, found: list[str]) -> None:
        memory = f", {self.memory[-1] >> 20} MiB" if self.memory else ""
        say(f"{what}: {f'{len(found)} VIOLATIONS' if found else 'nothing found'}{memory}")
        for one in found:
            say(one + "\n")
        self.violations += len(found)


def say(what: str) -> None:
    print(what, flush=True)  # noqa: T201 - for the person at the terminal


if __name__ == "__main__":
    main()
