"""Runs wrk with a load and returns its figures."""

import json
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from tests.bench import processes
from tests.bench.servers import Server

SCRIPT: Final = Path(__file__).with_name("wrk.lua")


class Load(Struct, frozen=True, kw_only=True):
    """One request for each number of a range; the number replaces ``%d`` in the path and the body.

    ``users`` is the number of users. Request n has the token of user 1 + (n - 1) % users.
    """

    method: str = "GET"
    path: str
    body: str = ""
    numbers: range = range(1)
    users: int = 0

    def user_of(self, number: int) -> int:
        return 1 + (number - 1) % self.users


class Figures(Struct, frozen=True):
    """The result of one run, or of several: latencies in milliseconds, CPU time of the server in µs per request.

    Other load on the machine affects the CPU time least.
    """

    requests_per_second: float
    p50: float
    p99: float
    p999: float
    cpu: float
    errors: int

    @classmethod
    def median(cls, runs: "list[Figures]") -> "Figures":
        """The median of each figure over the runs, and the sum of their errors."""
        return cls(
            median(run.requests_per_second for run in runs),
            median(run.p50 for run in runs),
            median(run.p99 for run in runs),
            median(run.p999 for run in runs),
            median(run.cpu for run in runs),
            sum(run.errors for run in runs),
        )


def measure(server: Server, load: Load, seconds: int, *, connections: int = 32) -> Figures:
    """Run a load. Every connection sends its next request when it has received the last response (a closed loop)."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", f"--script={SCRIPT}"]
    numbers = load.numbers
    tokens = " ".join(map(server.token_of, range(1, load.users + 1)))
    arguments = [load.method, load.path, load.body, str(numbers[0]), str(numbers[-1]), str(numbers.step), tokens]
    # The script's arguments follow the address.
    command = [processes.find("wrk"), *options, "--", server.address, *arguments]
    before = _cpu_seconds(server)
    printed = json.loads(processes.output(command, seconds=seconds + 30).splitlines()[-1])
    requests = printed.pop("requests")
    return Figures(**printed, cpu=(_cpu_seconds(server) - before) / requests * 1e6)


def _cpu_seconds(server: Server) -> float:
    return sum(map(processes.cpu_seconds, processes.workers(server.pid)))
