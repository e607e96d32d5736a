"""Connections that a firewall drops silently: neither side learns that the other is gone."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.database import maintenance, pool, schema
from service.database.pool import ConnectionPool
from service.database.pooled_connection import MAX_UNCHECKED
from service.settings import Settings
from tests.conftest import Serve
from tests.faults import cluster
from tests.faults.cluster import ROLE, Cluster
from tests.faults.database import SERVICE_SESSIONS
from tests.faults.forwarder import Forwarder
from tests.people import Person, assert_problem
from tests.recorder import Recorder
from tests.serving import open_client
from tests.waiting import until

# Seconds for the first request after a drop.
MAX_FIRST = 1.5

# A value of MAX_UNCHECKED with which a connection counts as one that responded just now, however slow the machine is.
NEVER_CHECKED = 60


@pytest.fixture(scope="module")
async def postgres(cluster_data: Path) -> AsyncIterator[Cluster]:
    with cluster.started(data=cluster_data) as started:
        yield started


@pytest.fixture
async def url(postgres: Cluster) -> AsyncIterator[str]:
    admin = await asyncpg.connect(postgres.url())
    await admin.execute(f"create database service owner {ROLE}")
    await schema.migrate(postgres.url("service", ROLE))
    yield postgres.url("service", ROLE)
    await admin.execute("drop database service with (force)")
    await admin.close()


@pytest.fixture
async def forwarder(url: str) -> AsyncIterator[Forwarder]:
    started = Forwarder(url)
    async with started.running():
        yield started


@pytest.fixture
async def client(forwarder: Forwarder, serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that reaches its database through the forwarder."""
    settings = Settings(
        database_url=forwarder.address_of(forwarder.url),
        secret_key=b"k" * 32,
        password_memory_kib=8,
        password_passes=1,
    )
    async with open_client(await serve(create_app(settings))) as opened:
        yield opened


# Whether all other sessions of the database have been idle for a time in seconds.
ARE_IDLE = """
select bool_and(coalesce(state, '') = 'idle' and state_change < clock_timestamp() - make_interval(secs => $1))
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
"""


async def drop_all(client: httpx.AsyncClient, forwarder: Forwarder) -> None:
    """Let the service open several connections, and drop them when they are idle, also those that were opened last."""
    await asyncio.gather(*(client.get(f"/posts?limit={number + 1}") for number in range(40)))
    admin = await asyncpg.connect(forwarder.url)
    await until(lambda: admin.fetchval(ARE_IDLE, 2 * MAX_UNCHECKED), 10)
    await admin.close()
    assert forwarder.drop() > 1


@pytest.mark.parametrize(
    ("max_unchecked", "message"),
    [
        (MAX_UNCHECKED, "idle connections are replaced: TimeoutError: no response within 0.5 s"),
        (NEVER_CHECKED, "connections are replaced: TimeoutError: a statement or its response was lost"),
    ],
)
async def test_the_first_read_after_a_silent_drop_is_served_soon(
    client: httpx.AsyncClient,
    forwarder: Forwarder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    max_unchecked: float,
    message: str,
) -> None:
    monkeypatch.setattr(pool, "MAX_UNCHECKED", max_unchecked)
    alice = await Person.register(client, "alice")
    post = await alice.publish()
    await drop_all(client, forwarder)

    begun = time.perf_counter()
    first = await alice.read(post["id"])
    first_took = time.perf_counter() - begun
    begun = time.perf_counter()
    later = [await alice.read(post["id"]) for _ in range(20)]
    later_took = time.perf_counter() - begun

    assert first == post
    assert later == [post] * 20
    assert first_took < MAX_FIRST
    assert later_took < MAX_FIRST / 2  # the other connections are not tried one after the other
    assert message in caplog.text


@pytest.mark.parametrize("seconds", [0.2, 0.8])
async def test_a_read_whose_response_is_dropped_is_repeated(
    url: str, postgres: Cluster, forwarder: Forwarder, seconds: float
) -> None:
    database = Recorder(forwarder.address_of(url), connections=3, timeout=5)
    async with (
        database.lifespan(),
        asyncpg.create_pool(postgres.url("service"), min_size=1, max_size=1) as admin,
    ):
        reads = [asyncio.create_task(database.fetch(f"select pg_sleep({seconds})")) for _ in range(3)]

        async def all_running() -> bool:
            return len(await admin.fetch("select from pg_stat_activity where wait_event = 'PgSleep'")) == 3

        await until(all_running, 5)
        begun = time.perf_counter()
        forwarder.drop()
        await asyncio.gather(*reads)

    assert time.perf_counter() - begun < 4  # within the timeout of the first attempt
    assert len(database.sent) == 6


async def test_a_write_whose_connection_is_dropped_meanwhile_fails_soon_and_is_not_repeated(
    client: httpx.AsyncClient, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_UNCHECKED", NEVER_CHECKED)
    alice = await Person.register(client, "alice")
    await drop_all(client, forwarder)

    begun = time.perf_counter()
    lost = await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers)
    took = time.perf_counter() - begun
    later = await alice.publish()

    assert_problem(lost, 503, "database_unavailable")
    assert took < MAX_FIRST
    assert (await client.get("/posts")).json() == [later]


async def test_a_statement_that_takes_long_keeps_its_connection(url: str) -> None:
    database = Recorder(url, connections=1, timeout=5)
    async with database.lifespan():
        before = await database.fetch("select pg_backend_pid()")
        slow = await database.fetch("select pg_sleep(1.2)")
        after = await database.fetch("select pg_backend_pid()")

    assert (len(slow), after) == (1, before)
    assert len(database.sent) == 3


async def test_the_first_write_after_a_silent_drop_is_applied_once(
    client: httpx.AsyncClient, forwarder: Forwarder
) -> None:
    alice = await Person.register(client, "alice")
    await drop_all(client, forwarder)

    begun = time.perf_counter()
    post = await alice.publish()

    assert time.perf_counter() - begun < MAX_FIRST
    assert (await client.get("/posts")).json() == [post]


async def test_no_request_of_a_burst_after_a_silent_drop_fails(client: httpx.AsyncClient, forwarder: Forwarder) -> None:
    alice = await Person.register(client, "alice")
    await drop_all(client, forwarder)

    begun = time.perf_counter()
    responses = await asyncio.gather(
        *(client.get(f"/posts?limit={number + 1}") for number in range(20)),
        *(client.get("/users/me", headers=alice.headers) for _ in range(20)),
        *(
            client.post("/posts", json={"title": str(number), "content": "C"}, headers=alice.headers)
            for number in range(20)
        ),
    )

    assert time.perf_counter() - begun < MAX_FIRST
    assert [response.status_code for response in responses] == [200] * 40 + [201] * 20
    posts = (await client.get("/posts?limit=100")).json()
    assert sorted(post["title"] for post in posts) == sorted(map(str, range(20)))


async def test_connections_that_a_firewall_drops_under_load_cost_no_response(
    client: httpx.AsyncClient, forwarder: Forwarder
) -> None:
    """The firewall forgets a connection after an idle time, while others are busy."""
    statuses = set()
    dropped = 0
    for _ in range(3):
        # Pages of different sizes do not share a statement, so these use many connections.
        responses = await asyncio.gather(*(client.get(f"/posts?limit={number}") for number in range(1, 21)))
        statuses |= {response.status_code for response in responses}
        for _ in range(10):
            statuses.add((await client.get("/posts")).status_code)
            await asyncio.sleep(MAX_UNCHECKED / 2)
        dropped += forwarder.drop(idle_for=MAX_UNCHECKED)

    assert dropped > 5
    assert statuses == {200}


async def has_no_sessions(admin: asyncpg.Connection) -> bool:
    return bool(await admin.fetchval(SERVICE_SESSIONS) == 0)


@pytest.mark.parametrize("setting", ["MAX_IDLE", "MAX_AGE"])
async def test_connections_that_are_idle_or_old_are_closed(
    url: str, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(maintenance, setting, 0.3)
    admin = await asyncpg.connect(postgres.url("service"))

    connections = ConnectionPool(url, size=3, timeout=5)
    async with connections.lifespan():
        used = [await connections.acquire() for _ in range(3)]
        opened = await admin.fetchval(SERVICE_SESSIONS)
        for pooled in used:
            connections.release(pooled)

        await until(lambda: has_no_sessions(admin), 10)
        again = await connections.acquire()
        answer = await again.connection.fetchval("select 1")
        connections.release(again)
    await admin.close()

    assert (opened, answer) == (3, 1)


async def test_the_kernel_probes_connections(url: str) -> None:
    connections = ConnectionPool(url, size=1, timeout=5)
    async with connections.lifespan():
        pooled = await connections.acquire()
        transport = pooled.connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg hides it
        tcp = transport.get_extra_info("socket")
        # As in the service: macOS has another name for the first, and lacks the last.
        names = ("TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", "TCP_USER_TIMEOUT")
        values = [tcp.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names if hasattr(socket, name)]
        alive = tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        connections.release(pooled)

    assert alive
    assert values == [60, 2000][: len(values)]
