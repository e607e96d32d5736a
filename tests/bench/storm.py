"""A login storm: reads at a steady rate with and without clients that log in, and how fast those get in."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Final, TypeVar

import msgspec

from tests.bench import database, processes, routes, servers
from tests.bench.clients import Latencies
from tests.bench.options import Options, progress, table

CLIENTS: Final = 16

T = TypeVar("T")


def measure(options: Options) -> None:
    processes.stay_on(processes.CLIENT_CORE)
    cores, seconds = options.cores, options.seconds
    threads = len(cores.split(","))  # as many as the service takes
    quiet, stormy = list[Latencies](), list[Latencies]()
    bare, logins, logins_beside = list[float](), list[float](), list[float]()
    with database.started(servers.DIRECTORY) as postgres, ThreadPoolExecutor() as background:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with servers.started(servers.SERVICE, url, cores=cores) as service:
            log_in = partial(_client, float, "log_in", service.port, CLIENTS)
            read = partial(_client, Latencies, "read", service.port, options.rate)
            for number in range(1, options.rounds + 1):
                progress(f"round {number} of {options.rounds}: argon2-cffi alone, then logins alone")
                bare.append(_client(float, "verify", threads, seconds, cores=cores))
                logins.append(log_in(seconds))
                progress(f"round {number} of {options.rounds}: reads alone, then reads and logins")
                quiet.append(read(seconds))
                # A second before and after the reads, so that all of them are within the storm.
                storm = background.submit(log_in, seconds + 2)
                time.sleep(1)
                stormy.append(read(seconds))
                logins_beside.append(storm.result())
    _print(quiet, stormy, options.rate)
    rates = {"argon2-cffi alone": bare, "logins alone": logins, "logins beside reads": logins_beside}
    table(
        (f"{threads} threads on cores {cores}", "a second", "of argon2-cffi", "target"),
        *(
            (name, f"{median(found):.1f}", f"{median(found) / median(bare):.2f}x", "≥ 0.85x" if found != bare else "")
            for name, found in rates.items()
        ),
    )


def _client(kind: type[T], *task: str | int, cores: str = processes.CLIENT_CORE) -> T:
    command = processes.pinned(cores, [sys.executable, "-m", "tests.bench.clients", *map(str, task)])
    return msgspec.json.decode(processes.output(command, seconds=60 + int(task[-1])), type=kind)


def _print(quiet: list[Latencies], stormy: list[Latencies], rate: int) -> None:
    """The medians of both, and the second to the first."""
    rows = []
    for name in ("p50", "p99", "p999"):
        before, during = (median(getattr(run, name) for run in runs) for runs in (quiet, stormy))
        target = "≤ 3x" if name == "p99" else ""
        rows.append((f"{name}, ms", f"{before:.2f}", f"{during:.2f}", f"{during / before:.1f}x", target))
    errors = (str(sum(run.errors for run in runs)) for runs in (quiet, stormy))
    table(
        (f"GET /posts/{{random id}} {rate} times a second", "alone", f"with {CLIENTS} that log in", "grows", "target"),
        *rows,
        ("not 2xx", *errors, "", ""),
    )
