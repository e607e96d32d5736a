"""One worker and two on the same cores, and the distribution of connections among the two.

wrk and PostgreSQL use the same cores. The table therefore also has the greatest possible gain: all cores always busy,
at the CPU time that a request costs the whole machine with one worker.
"""

import os
import threading
from statistics import median
from typing import Final

from tests.bench import database, processes, routes, servers, wrk
from tests.bench.options import Options, table
from tests.bench.rounds import in_turn
from tests.bench.routes import Route
from tests.bench.servers import SERVICE, Server
from tests.bench.wrk import Figures

CONNECTIONS: Final = 64
TARGET: Final = 1.6
CORES: Final = os.cpu_count() or 1


def measure(options: Options) -> None:
    # wrk and PostgreSQL have no core of their own here.
    processes.stay_on(processes.ALL_CORES)
    with database.started(servers.DIRECTORY) as postgres:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with (
            servers.started(SERVICE, url, cores=processes.ALL_CORES, workers=1) as one,
            servers.started(SERVICE, url, cores=processes.ALL_CORES, workers=2) as two,
        ):
            rows = [_row(route, one, two, options) for route in (routes.ROOT, routes.ONE_POST)]
    heading = ("requests/s", "1 worker", "2 workers", "gain", "maximum", "target", "connections of each worker, by run")
    table(heading, *rows)


def _row(route: Route, one: Server, two: Server, options: Options) -> tuple[str, ...]:
    counts_by_run: list[str] = []
    in_use: list[float] = []  # cores, with one worker

    def run_one(seconds: int) -> Figures:
        before = processes.idle_seconds()
        figures = wrk.measure(one, route.load, seconds, connections=CONNECTIONS)
        in_use.append(CORES - (processes.idle_seconds() - before) / seconds)
        return figures

    def run_two(seconds: int) -> Figures:
        timer = threading.Timer(seconds / 2, count_connections)
        timer.start()
        figures = wrk.measure(two, route.load, seconds, connections=CONNECTIONS)
        timer.join()
        return figures

    def count_connections() -> None:
        counts = [processes.connections(pid, two.port) for pid in processes.workers(two.pid)]
        counts_by_run.append(" + ".join(map(str, counts)))

    figures = in_turn(route.name, {"1 worker": run_one, "2 workers": run_two}, options)
    first, second = (of.requests_per_second for of in figures.values())
    return (
        route.name,
        f"{first:,.0f}",
        f"{second:,.0f}",
        f"{second / first:.2f}x",
        f"{min(2, CORES / median(in_use)):.2f}x",
        f"≥ {TARGET}x",
        ", ".join(counts_by_run),
    )
