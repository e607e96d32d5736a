"""wrk: a load in, figures out."""

import json
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from tests.bench import processes
from tests.bench.servers import Server, token_of

SCRIPT: Final = Path(__file__).with_name("wrk.lua")


class Load(Struct, frozen=True, kw_only=True):
    """One request for each number of a range; ``%d`` in the path and the body stands for the number.

    ``users`` is how many users take turns with a token each: number n is asked for by user 1 + (n - 1) % users.
    """

    method: str = "GET"
    path: str
    body: str = ""
    numbers: range = range(1)
    users: int = 0

    def user_of(self, number: int) -> int:
        return 1 + (number - 1) % self.users


class Figures(Struct, frozen=True):
    """What one run showed, or several: latencies in milliseconds, the server's CPU time in microseconds a request.

    The CPU time suffers least from what else the machine does.
    """

    requests_per_second: float
    p50: float
    p99: float
    p999: float
    cpu: float
    errors: int

    @classmethod
    def median(cls, runs: "list[Figures]") -> "Figures":
        """The median of each figure over the runs, and all of their errors."""
        return cls(
            median(run.requests_per_second for run in runs),
            median(run.p50 for run in runs),
            median(run.p99 for run in runs),
            median(run.p999 for run in runs),
            median(run.cpu for run in runs),
            sum(run.errors for run in runs),
        )


def measure(server: Server, load: Load, seconds: int, *, connections: int = 32) -> Figures:
    """Run a load, every connection sending its next request when it has the answer to the last."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", f"--script={SCRIPT}"]
    numbers = load.numbers
    tokens = " ".join(map(token_of, range(1, load.users + 1)))
    arguments = [load.method, load.path, load.body, str(numbers[0]), str(numbers[-1]), str(numbers.step), tokens]
    # The script's arguments follow the address.
    command = [processes.find("wrk"), *options, "--", server.address, *arguments]
    before = _cpu_seconds(server)
    printed = json.loads(processes.output(command, seconds=seconds + 30).splitlines()[-1])
    requests = printed.pop("requests")
    return Figures(**printed, cpu=(_cpu_seconds(server) - before) / requests * 1e6)


def _cpu_seconds(server: Server) -> float:
    return sum(map(processes.cpu_seconds, processes.workers(server.pid)))
