"""A failover: the address leads to the new primary, and sessions on the demoted server stay open."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from msgspec import Struct

from service.app import create_app
from service.database import schema
from service.settings import Settings
from tests.conftest import Serve
from tests.faults import cluster
from tests.faults.cluster import ROLE, Cluster
from tests.faults.database import SERVICE_SESSIONS, set_read_only
from tests.faults.forwarder import Forwarder
from tests.people import Person, assert_problem, is_ready
from tests.serving import open_client
from tests.waiting import until

# Seconds in which the service must have found the new primary.
RECOVERY = 1
SLACK = 0.5


class Replicated(Struct):
    """A primary, its streaming standby, and the address of the service's database, which leads to the primary."""

    primary: Cluster
    standby: Cluster
    forwarder: Forwarder

    async def fail_over(self) -> None:
        """Promote the standby. The old primary refuses writes from now on, but keeps its sessions."""
        await set_read_only(self.primary.url(), on=True)
        await self.promote()
        self.lead_to(self.standby)

    async def promote(self) -> None:
        admin = await asyncpg.connect(self.standby.url())
        await admin.execute("select pg_promote()")
        await admin.close()

    def lead_to(self, server: Cluster) -> None:
        self.forwarder.url = server.url()

    async def in_sync(self) -> bool:
        """Whether the standby has replayed everything that the primary has written."""
        admin = await asyncpg.connect(self.primary.url())
        replayed = await admin.fetchval("select replay_lsn = pg_current_wal_lsn() from pg_stat_replication")
        await admin.close()
        return bool(replayed)


@pytest.fixture
async def postgres(cluster_data: Path) -> AsyncIterator[Replicated]:
    with cluster.started(data=cluster_data) as primary:
        admin = await asyncpg.connect(primary.url())
        await admin.execute(f"create database service owner {ROLE}")
        await admin.close()
        await schema.migrate(primary.url("service", ROLE))
        with primary.standby() as standby:
            forwarder = Forwarder(primary.url())
            async with forwarder.running():
                yield Replicated(primary, standby, forwarder)


@pytest.fixture
async def client(postgres: Replicated, serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that reaches its database through the forwarder."""
    settings = Settings(
        database_url=postgres.forwarder.address_of(postgres.primary.url("service", ROLE)),
        secret_key=b"k" * 32,
        password_memory_kib=8,
        password_passes=1,
    )
    async with open_client(await serve(create_app(settings))) as opened:
        yield opened


async def open_connections(client: httpx.AsyncClient) -> None:
    """Let the service open several connections."""
    await asyncio.gather(*(client.get(f"/posts?limit={number + 1}") for number in range(20)))


async def keeps_no_session(server: Cluster) -> bool:
    """Whether no session of the service is left. One that finds out which server it has reached is soon closed."""
    admin = await asyncpg.connect(server.url("service"))
    found: int = await admin.fetchval(SERVICE_SESSIONS)
    await admin.close()
    return found == 0


async def titles(server: Cluster) -> list[str]:
    connection = await asyncpg.connect(server.url("service"))
    rows = await connection.fetch("select title from posts order by id")
    await connection.close()
    return [row["title"] for row in rows]


async def test_after_a_failover_writes_go_to_the_new_primary_and_no_read_is_stale(
    postgres: Replicated, client: httpx.AsyncClient
) -> None:
    alice = await Person.register(client, "alice")
    post = await alice.publish("before")
    await open_connections(client)
    await until(postgres.in_sync, 10)
    await postgres.fail_over()

    failed_at, acknowledged = 0.0, ["before"]
    async with asyncio.timeout(20):
        while len(acknowledged) < 10:
            title = f"after {time.perf_counter()}"
            response = await client.post("/posts", json={"title": title, "content": "C"}, headers=alice.headers)
            if response.status_code == 201:
                acknowledged.append(title)
                assert response.json() == await alice.read(response.json()["id"])
            else:
                assert_problem(response, 503, "database_unavailable")
                failed_at = failed_at or time.perf_counter()
                assert time.perf_counter() - failed_at < RECOVERY
    reads = await asyncio.gather(*(client.get(f"/posts?after={post['id'] - 1}&limit={100 - n}") for n in range(20)))

    assert [{one["title"] for one in read.json()} for read in reads] == [set(acknowledged)] * 20
    assert await is_ready(client)
    assert await titles(postgres.standby) == acknowledged
    assert await titles(postgres.primary) == ["before"]
    await until(lambda: keeps_no_session(postgres.primary), 5)


async def test_a_demoted_server_is_left_without_a_write(postgres: Replicated, client: httpx.AsyncClient) -> None:
    alice = await Person.register(client, "alice")
    post = await alice.publish("old")
    await open_connections(client)
    await until(postgres.in_sync, 10)
    await postgres.fail_over()
    new_primary = await asyncpg.connect(postgres.standby.url("service"))
    await new_primary.execute("update posts set title = 'new'")
    await new_primary.close()

    async def is_new() -> bool:
        return bool((await alice.read(post["id"]))["title"] == "new")

    await until(is_new, RECOVERY + SLACK)
    later = [await alice.read(post["id"]) for _ in range(20)]

    assert {read["title"] for read in later} == {"new"}
    assert await is_ready(client)
    await until(lambda: keeps_no_session(postgres.primary), 5)


async def test_a_readiness_probe_notices_a_demoted_server(postgres: Replicated, client: httpx.AsyncClient) -> None:
    await open_connections(client)
    await set_read_only(postgres.primary.url(), on=True)

    demoted = await client.get("/health/ready")
    await postgres.promote()
    postgres.lead_to(postgres.standby)
    await until(lambda: is_ready(client), RECOVERY + SLACK)

    assert_problem(demoted, 503, "database_unavailable")
    await until(lambda: keeps_no_session(postgres.primary), 5)


async def test_a_standby_is_not_used_until_it_is_promoted(
    postgres: Replicated, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await Person.register(client, "alice")
    post = await alice.publish()
    await until(postgres.in_sync, 10)
    postgres.lead_to(postgres.standby)
    await asyncio.to_thread(postgres.primary.stop)

    ready, read = await client.get("/health/ready"), await client.get(f"/posts/{post['id']}")
    await until(lambda: keeps_no_session(postgres.standby), 5)
    await postgres.promote()
    await until(lambda: is_ready(client), RECOVERY + SLACK)

    assert_problem(ready, 503, "database_unavailable")
    assert_problem(read, 503, "database_unavailable")
    assert await alice.read(post["id"]) == post
    assert (await alice.publish())["id"] > post["id"]
    assert "it is a standby" in caplog.text


async def test_a_service_that_starts_on_a_standby_waits_for_its_promotion(postgres: Replicated, serve: Serve) -> None:
    url = postgres.standby.url("service", ROLE)
    app = create_app(Settings(database_url=url, secret_key=b"k" * 32, password_memory_kib=8))
    async with open_client(await serve(app)) as client:
        ready = await client.get("/health/ready")
        await postgres.promote()
        await until(lambda: is_ready(client), RECOVERY + SLACK)
        await Person.register(client, "alice")

    assert_problem(ready, 503, "database_unavailable")


async def test_a_standby_is_used_if_the_url_asks_for_any_server(postgres: Replicated, serve: Serve) -> None:
    url = f"{postgres.standby.url('service', ROLE)}&target_session_attrs=any"
    app = create_app(Settings(database_url=url, secret_key=b"k" * 32, password_memory_kib=8))
    async with open_client(await serve(app)) as client:
        read, ready = await client.get("/posts"), await client.get("/health/ready")

    assert (read.status_code, read.json()) == (200, [])
    assert_problem(ready, 503, "database_unavailable")


async def test_a_read_only_database_serves_reads_but_is_not_ready_and_recovers_by_itself(
    postgres: Replicated, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await Person.register(client, "alice")
    post = await alice.publish()
    change: dict[str, Any] = {"json": {"title": "New"}, "headers": alice.headers}
    await set_read_only(postgres.primary.url(), on=True)

    for _ in range(5):
        refused = await client.patch(f"/posts/{post['id']}", **change)
        assert_problem(refused, 503, "database_unavailable")
        assert refused.json()["detail"] == "The database cannot serve this now"
        assert await alice.read(post["id"]) == post
        assert not await is_ready(client)
    await set_read_only(postgres.primary.url(), on=False)
    await until(lambda: is_ready(client), RECOVERY + SLACK)

    assert (await client.patch(f"/posts/{post['id']}", **change)).json()["title"] == "New"
    messages = [record.getMessage() for record in caplog.records if record.name == "service.database.pool"]
    assert [message.partition(":")[0] for message in messages] == [
        "the database is read-only",
        "a statement failed",
        "the database accepts writes again",
    ]
