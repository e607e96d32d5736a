"""The cost of a request by the size of the table: a thousand posts and a million."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

import asyncpg

from service.database.connecting import SESSION_SETTINGS
from tests.bench import database, processes, servers, wrk
from tests.bench.options import Options, progress, table
from tests.bench.rounds import in_turn
from tests.bench.routes import PAGE, POSTS_PER_USER
from tests.bench.servers import SERVICE, Server
from tests.bench.wrk import Load
from tests.plans import scans
from tests.statements import statements

FEW: Final = 1_000
MANY: Final = 1_000_000


def measure(options: Options) -> None:
    processes.stay_on(processes.CLIENT_CORE)
    with ExitStack() as stack:
        postgres = stack.enter_context(database.started(servers.DIRECTORY))
        services = {}
        for size in (FEW, MANY):
            progress(f"writing {size:,} posts")
            url = postgres.create(f"bench_{size}")
            database.seed(url, users=size // POSTS_PER_USER, posts_per_user=POSTS_PER_USER)
            services[size] = stack.enter_context(servers.started(SERVICE, url))
        plans = asyncio.run(explain(postgres.url(f"bench_{MANY}")))
        rows = [_row(name, services, options) for name in loads(FEW)]
    heading = ("requests/s", f"{FEW:,} posts", f"{MANY:,} posts", "loss", "target", "CPU µs each", "", "not 2xx")
    table(heading, *rows)
    table((f"statement, at {MANY:,} posts", "scans"), *plans)


def loads(size: int) -> dict[str, Load]:
    """The loads: the same number of different requests at any size, so that equally many share a result."""
    return {
        "GET /posts, the first page": Load(path="/posts"),
        "GET /posts, a page in the middle": Load(path=f"/posts?after={size // 2}"),
        "GET /posts, the last page": Load(path=f"/posts?after={size - PAGE}"),
        "GET /posts, another page each": Load(path="/posts?after=%d", numbers=_spread(size - PAGE, FEW - PAGE)),
        "GET /posts?q=, a word of one post": Load(path="/posts?q=%d", numbers=_spread(size, FEW)),
        "GET /users/{id}, 20 posts": Load(
            path="/users/%d", numbers=_spread(size // POSTS_PER_USER, FEW // POSTS_PER_USER)
        ),
    }


def _spread(ids: int, count: int) -> range:
    """``count`` ids, evenly spread over the table."""
    return range(1, ids + 1, ids // count)


def _row(name: str, services: Mapping[int, Server], options: Options) -> tuple[str, ...]:
    runs = {f"{size:,} posts": partial(wrk.measure, at, loads(size)[name]) for size, at in services.items()}
    few, many = in_turn(name, runs, options).values()
    return (
        name,
        f"{few.requests_per_second:,.0f}",
        f"{many.requests_per_second:,.0f}",
        f"{1 - many.requests_per_second / few.requests_per_second:.1%}",
        "< 15%",
        f"{few.cpu:.0f}",
        f"{many.cpu:.0f}",
        str(few.errors + many.errors),
    )


async def explain(url: str) -> list[tuple[str, str]]:
    """Every statement and its scans, with the settings of the service."""
    connection = await asyncpg.connect(url, server_settings=SESSION_SETTINGS)
    rows = []
    for statement in statements():
        found = await scans(connection, statement.text)
        rows.append((statement.name, ", ".join(f"{scan.type} on {scan.name}" for scan in found) or "none"))
    await connection.close()
    return rows
