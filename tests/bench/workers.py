"""One worker against two on the same cores, and how the connections spread over them.

wrk and PostgreSQL are on these cores too. So beside the gain stands what it would be at the most: both cores busy all
the time, at what a request costs the whole machine with one worker.
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
    # No core is left for wrk and PostgreSQL alone.
    processes.stay_on(processes.ALL_CORES)
    with database.started(servers.DIRECTORY) as postgres:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with (
            servers.started(SERVICE, url, cores=processes.ALL_CORES, workers=1) as one,
            servers.started(SERVICE, url, cores=processes.ALL_CORES, workers=2) as two,
        ):
            rows = [_row(route, one, two, options) for route in (routes.ROOT, routes.ONE_POST)]
    heading = ("requests/s", "1 worker", "2 workers", "gain", "at the most", "target", "connections of each, by run")
    table(heading, *rows)


def _row(route: Route, one: Server, two: Server, options: Options) -> tuple[str, ...]:
    spreads: list[str] = []
    in_use: list[float] = []  # cores, with one worker

    def run_one(seconds: int) -> Figures:
        before = processes.idle_seconds()
        figures = wrk.measure(one, route.load, seconds, connections=CONNECTIONS)
        in_use.append(CORES - (processes.idle_seconds() - before) / seconds)
        return figures

    def run_two(seconds: int) -> Figures:
        looking = threading.Timer(seconds / 2, look)
        looking.start()
        figures = wrk.measure(two, route.load, seconds, connections=CONNECTIONS)
        looking.join()
        return figures

    def look() -> None:
        counts = [processes.connections(pid, two.port) for pid in processes.workers(two.pid)]
        spreads.append(" + ".join(map(str, counts)))

    figures = in_turn(route.name, {"1 worker": run_one, "2 workers": run_two}, options)
    first, second = (of.requests_per_second for of in figures.values())
    return (
        route.name,
        f"{first:,.0f}",
        f"{second:,.0f}",
        f"{second / first:.2f}x",
        f"{min(2, CORES / median(in_use)):.2f}x",
        f"≥ {TARGET}x",
        ", ".join(spreads),
    )
