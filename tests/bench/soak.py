"""The resident memory of the service under load on every route for minutes."""

import time
from typing import Final

from tests.bench import database, processes, routes, servers, wrk
from tests.bench.options import Options, progress, table

LIMIT_MIB: Final = 80


def measure(options: Options) -> None:
    processes.stay_on(processes.CLIENT_CORE)
    rows: list[tuple[str, ...]] = []
    memory: list[float] = []
    with database.started(servers.DIRECTORY) as postgres:
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        with servers.started(servers.SERVICE, url) as service:
            begun = time.monotonic()
            # All routes at least twice, because the first time is a warm-up.
            while (minutes := (time.monotonic() - begun) / 60) < options.minutes or len(rows) < 2:
                answered, errors = 0.0, 0
                for route in routes.ROUTES:
                    figures = wrk.measure(service, route.load, options.seconds)
                    answered += figures.requests_per_second * options.seconds
                    errors += figures.errors
                    if route.writes:
                        database.undo_writes(url, routes.POSTS)
                now, peak = processes.memory_mib(service.pid)
                memory.append(now)
                rows.append((f"{minutes:.1f}", f"{answered:,.0f}", str(errors), f"{now:.1f}", f"{peak:.1f}"))
                progress(f"from minute {minutes:.1f} of {options.minutes:g}: {now:.1f} MiB")
    table(("from minute", "requests", "not 2xx", "resident MiB", "peak MiB"), *rows)
    half = len(memory) // 2
    table(
        ("", "measured", "target"),
        ("maximum resident memory", f"{max(memory):.1f} MiB", f"≤ {LIMIT_MIB} MiB"),
        # It grows until every connection has prepared every statement.
        ("growth in the first half", f"{memory[half] - memory[0]:+.1f} MiB", ""),
        ("growth in the second half", f"{memory[-1] - memory[half]:+.1f} MiB", "none"),
    )
