"""A login storm: reads at a steady rate with and without concurrent logins, and logins per second."""

import sys
import time
from collections.abc import Callable
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
    threads = len(cores.split(","))  # as many as the service uses
    quiet, stormy = list[Latencies](), list[Latencies]()
    bare, bare_during_reads, logins, logins_during_reads = list[float](), list[float](), list[float](), list[float]()
    with database.started(servers.DIRECTORY) as postgres, ThreadPoolExecutor() as background:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with servers.started(servers.SERVICE, url, cores=cores) as service:
            verify = partial(_client, float, "verify", threads, cores=cores)
            log_in = partial(_client, float, "log_in", service.port, CLIENTS)
            read = partial(_client, Latencies, "read", service.port, options.rate)

            def during_reads(work: Callable[[int], float]) -> tuple[float, Latencies]:
                # It starts a second before the reads and ends a second after them.
                working = background.submit(work, seconds + 2)
                time.sleep(1)
                latencies = read(seconds)
                return working.result(), latencies

            for number in range(1, options.rounds + 1):
                progress(f"round {number} of {options.rounds}: argon2-cffi, logins and reads, each alone")
                bare.append(verify(seconds))
                logins.append(log_in(seconds))
                quiet.append(read(seconds))
                progress(f"round {number} of {options.rounds}: argon2-cffi during reads, then logins during reads")
                rate, _ = during_reads(verify)
                bare_during_reads.append(rate)
                rate, latencies = during_reads(log_in)
                logins_during_reads.append(rate)
                stormy.append(latencies)
    _print(quiet, stormy, options.rate)
    table(
        (f"per second, {threads} threads on cores {cores}", "argon2-cffi", "logins", "ratio", "target"),
        _compared("alone", bare, logins),
        # The reads use a part of the cores in both cases.
        _compared("during reads", bare_during_reads, logins_during_reads),
    )


def _compared(name: str, bare: list[float], logins: list[float]) -> tuple[str, ...]:
    most, reached = median(bare), median(logins)
    return name, f"{most:.1f}", f"{reached:.1f}", f"{reached / most:.2f}x", "≥ 0.85x"


def _client(kind: type[T], *task: str | int, cores: str = processes.CLIENT_CORE) -> T:
    command = processes.pinned(cores, [sys.executable, "-m", "tests.bench.clients", *map(str, task)])
    return msgspec.json.decode(processes.output(command, seconds=60 + int(task[-1])), type=kind)


def _print(quiet: list[Latencies], stormy: list[Latencies], rate: int) -> None:
    """Print the medians of both, and their ratio."""
    rows = []
    for name in ("p50", "p99", "p999"):
        before, during = (median(getattr(run, name) for run in runs) for runs in (quiet, stormy))
        target = "≤ 3x" if name == "p99" else ""
        rows.append((f"{name}, ms", f"{before:.2f}", f"{during:.2f}", f"{during / before:.1f}x", target))
    errors = (str(sum(run.errors for run in runs)) for runs in (quiet, stormy))
    table(
        (f"GET /posts/{{random id}}, {rate} per second", "alone", f"with {CLIENTS} logging in", "ratio", "target"),
        *rows,
        ("not 2xx", *errors, "", ""),
    )
