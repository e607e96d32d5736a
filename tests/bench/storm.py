"""A login storm: reads at a steady rate with and without clients that log in, and how fast those get in."""

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
    threads = len(cores.split(","))  # as many as the service takes
    quiet, stormy = list[Latencies](), list[Latencies]()
    bare, bare_beside, logins, logins_beside = list[float](), list[float](), list[float](), list[float]()
    with database.started(servers.DIRECTORY) as postgres, ThreadPoolExecutor() as background:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with servers.started(servers.SERVICE, url, cores=cores) as service:
            verify = partial(_client, float, "verify", threads, cores=cores)
            log_in = partial(_client, float, "log_in", service.port, CLIENTS)
            read = partial(_client, Latencies, "read", service.port, options.rate)

            def beside_reads(work: Callable[[int], float]) -> tuple[float, Latencies]:
                # A second before and after the reads, so that all of them are within it.
                working = background.submit(work, seconds + 2)
                time.sleep(1)
                latencies = read(seconds)
                return working.result(), latencies

            for number in range(1, options.rounds + 1):
                progress(f"round {number} of {options.rounds}: argon2-cffi, logins and reads, each alone")
                bare.append(verify(seconds))
                logins.append(log_in(seconds))
                quiet.append(read(seconds))
                progress(f"round {number} of {options.rounds}: argon2-cffi beside reads, then logins beside reads")
                rate, _ = beside_reads(verify)
                bare_beside.append(rate)
                rate, latencies = beside_reads(log_in)
                logins_beside.append(rate)
                stormy.append(latencies)
    _print(quiet, stormy, options.rate)
    table(
        (f"a second, {threads} threads on cores {cores}", "argon2-cffi", "logins", "ratio", "target"),
        _compared("alone", bare, logins),
        # The reads take a part of the cores from both.
        _compared("beside the reads", bare_beside, logins_beside),
    )


def _compared(name: str, bare: list[float], logins: list[float]) -> tuple[str, ...]:
    most, reached = median(bare), median(logins)
    return name, f"{most:.1f}", f"{reached:.1f}", f"{reached / most:.2f}x", "≥ 0.85x"


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
