"""Reads of random posts with one connection and with many."""

from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench import database, processes, routes, servers, wrk
from tests.bench.options import Options, table
from tests.bench.rounds import in_turn
from tests.bench.servers import SERVICE
from tests.bench.wrk import Figures

CONNECTIONS: Final = (1, 8, 32, 128, 256)
OTHER: Final = "1, the other checkout"


def measure(options: Options) -> None:
    processes.stay_on(processes.CLIENT_CORE)
    with ExitStack() as stack:
        postgres = stack.enter_context(database.started(servers.DIRECTORY))
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        read = partial(wrk.measure, stack.enter_context(servers.started(SERVICE, url)), routes.ONE_POST.load)
        runs = {str(number): partial(read, connections=number) for number in CONNECTIONS}
        if options.against:
            other = stack.enter_context(servers.started(SERVICE, url, checkout=options.against))
            runs[OTHER] = partial(wrk.measure, other, routes.ONE_POST.load, connections=1)
        figures = in_turn("connections", runs, options)
    rows = [_row(name, of) for name, of in figures.items()]
    table(("connections", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs each", "not 2xx"), *rows)
    at_1, at_32, at_256 = figures["1"], figures["32"], figures["256"]
    growth = at_256.requests_per_second / at_32.requests_per_second
    ratios = [
        ("requests/s at 256 / at 32", f"{growth:.2f}x", "≥ 1x"),
        ("p99.9 / p50 at 256", f"{at_256.p999 / at_256.p50:.1f}x", "≤ 10x"),
    ]
    if options.against:
        ratios.append(("p50 at 1 / the other checkout", f"{at_1.p50 / figures[OTHER].p50:.2f}x", "≤ 1.1x"))
    table(("", "measured", "target"), *ratios)


def _row(name: str, of: Figures) -> tuple[str, ...]:
    latencies = (f"{latency:.2f}" for latency in (of.p50, of.p99, of.p999))
    return (name, f"{of.requests_per_second:,.0f}", *latencies, f"{of.cpu:.0f}", str(of.errors))
