"""The service while its database fails, and after it has recovered."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.database import maintenance, schema
from service.database.batching import MAX_QUEUED_WRITES
from service.database.database import Database
from service.database.pooled_connection import PooledConnection
from service.errors import DatabaseUnavailable
from service.queries import posts
from service.settings import Settings
from service.structs.posts import PostCreate
from tests.conftest import Serve
from tests.faults import cluster
from tests.faults.cluster import ROLE, Cluster
from tests.faults.database import TERMINATE
from tests.people import Person, assert_problem, is_ready
from tests.recorder import Recorder
from tests.serving import open_client
from tests.tables import principal_of
from tests.waiting import until

# A session counts for the limit of its role until it has ended, a moment after it was told to.
ALL_STARTED_SINCE = "select count(*) = 0 from pg_stat_activity where usename = $1 and backend_start < $2"

# Seconds. What happens "at once" takes less than the timeout.
TIMEOUT = 1
AT_ONCE = 0.8
SLACK = 1


@pytest.fixture
async def postgres(cluster_data: Path) -> AsyncIterator[Cluster]:
    """A PostgreSQL server that the test may stop, kill and freeze."""
    with cluster.started(data=cluster_data) as started:
        admin = await asyncpg.connect(started.url())
        await admin.execute(f"create database service owner {ROLE}")
        await admin.close()
        await schema.migrate(started.url("service", ROLE))
        yield started


@pytest.fixture
async def own_client(postgres: Cluster, serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service on that server."""
    settings = Settings(
        database_url=postgres.url("service", ROLE),
        secret_key=b"k" * 32,
        database_timeout_seconds=TIMEOUT,
        password_memory_kib=8,
        password_passes=1,
    )
    async with open_client(await serve(create_app(settings))) as opened:
        yield opened


@asynccontextmanager
async def takes_at_most(seconds: float) -> AsyncIterator[None]:
    started_at = time.perf_counter()
    yield
    assert time.perf_counter() - started_at <= seconds


async def statuses(*requests: Awaitable[httpx.Response]) -> set[int]:
    return {response.status_code for response in await asyncio.gather(*requests)}


@pytest.mark.usefixtures("database_url")
async def test_terminated_idle_connections_are_replaced_without_an_error(db: asyncpg.Connection, alice: Person) -> None:
    made = await asyncio.gather(*(alice.publish(str(number)) for number in range(20)))
    await db.execute(TERMINATE)

    read = await asyncio.gather(*(alice.read(post["id"]) for post in made))
    await alice.publish("afterwards")

    assert read == made


async def test_a_connection_that_the_server_closes_before_the_pool_has_it_is_replaced(
    database_url: str, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class TerminatedAtFirst(PooledConnection):
        async def open(self, url: str, timeout: float) -> None:  # noqa: ASYNC109 - as in the class
            await super().open(url, timeout)
            opened.append(self.pid)
            if len(opened) == 1:
                await db.execute(TERMINATE)
                async with asyncio.timeout(10):
                    while not self.connection.is_closed():
                        await asyncio.sleep(0)

    monkeypatch.setattr(maintenance, "PooledConnection", TerminatedAtFirst)
    database = Database(database_url, connections=1, timeout=TIMEOUT)

    async def has_the_first() -> bool:
        return database.usage().open == 1

    async with database.lifespan():
        await until(has_the_first, 10)

        assert await database.fetch("select 1 as one")

    assert len(opened) == 2


async def test_a_read_that_loses_its_connection_is_repeated_and_a_write_is_not(
    database_url: str, db: asyncpg.Connection
) -> None:
    await db.execute("create table written (number bigint)")
    database = Database(database_url, connections=2, timeout=5)
    async with database.lifespan():
        read = asyncio.create_task(database.fetch_row("select 1 as one, pg_sleep(0.3)"))
        write = asyncio.create_task(database.write_row("insert into written select 1 from pg_sleep(0.3) returning 1"))

        async def both_running() -> bool:
            running = "select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
            return len(await db.fetch(running)) == 2

        await until(both_running, 5)
        await db.execute(TERMINATE)
        results = await asyncio.gather(read, write, return_exceptions=True)

    assert isinstance(results[0], asyncpg.Record)
    assert isinstance(results[1], DatabaseUnavailable)
    assert await db.fetchval("select count(*) from written") == 0


async def test_a_locked_row_blocks_only_its_own_update_and_only_until_the_timeout(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    app = create_app(msgspec.structs.replace(settings, database_timeout_seconds=TIMEOUT))
    async with open_client(await serve(app)) as client:
        alice = await Person.register(client, "alice")
        locked, free = await alice.publish("locked"), await alice.publish("free")
        async with db.transaction():
            await db.execute("select from posts where id = $1 for update", locked["id"])
            change: dict[str, Any] = {"json": {"title": "changed"}, "headers": alice.headers}
            async with takes_at_most(TIMEOUT + SLACK):
                blocked = asyncio.create_task(client.patch(f"/posts/{locked['id']}", **change))
                read = await statuses(*(client.get(f"/posts/{locked['id']}") for _ in range(20)))
                assert not blocked.done()
                changed = await client.patch(f"/posts/{free['id']}", **change)
                assert_problem(await blocked, 503, "database_unavailable")
            waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            blocked_sessions = await db.fetch(waiting)

        assert (read, changed.status_code) == ({200}, 200)
        assert blocked_sessions == []
        assert await alice.read(locked["id"]) == locked


async def test_queued_writes_are_refused_with_the_statement_before_them(
    database_url: str, db: asyncpg.Connection
) -> None:
    principal = await principal_of(db, "alice")
    database = Database(database_url, connections=2, timeout=TIMEOUT)
    async with database.lifespan(), takes_at_most(2 * TIMEOUT):
        async with db.transaction():
            await db.execute("lock table posts in share mode")
            # They need three statements. Without the refusal, each would wait for a timeout of its own.
            writes = [
                posts.insert(database, principal, PostCreate(str(number), "C")) for number in range(MAX_QUEUED_WRITES)
            ]
            results = await asyncio.gather(*writes, return_exceptions=True)

        assert {type(result) for result in results} == {DatabaseUnavailable}
        await posts.insert(database, principal, PostCreate("afterwards", "C"))
    assert [row["title"] for row in await db.fetch("select title from posts")] == ["afterwards"]


@pytest.mark.usefixtures("database_url")
async def test_reads_are_served_while_the_database_is_read_only(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    post = await alice.publish()
    name = await db.fetchval("select current_database()")
    await db.execute(f'alter database "{name}" set default_transaction_read_only = on')
    await db.execute(TERMINATE)

    read = await alice.read(post["id"])
    written = await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers)
    await db.execute(f'alter database "{name}" reset default_transaction_read_only')
    await db.execute(TERMINATE)
    # The pool may have been opening a connection, which is terminated as well. Then it connects again.
    await until(lambda: is_ready(client), 5)
    read_again = await alice.read(post["id"])

    assert read == read_again == post
    assert_problem(written, 503, "database_unavailable")
    assert written.headers["retry-after"]
    assert (await alice.publish())["id"] > post["id"]


async def test_a_service_that_starts_without_its_database_connects_when_it_is_available(
    postgres: Cluster, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.stop()
    app = create_app(Settings(database_url=postgres.url("service", ROLE), secret_key=b"k" * 32, password_memory_kib=8))
    async with open_client(await serve(app)) as client:
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        async with takes_at_most(AT_ONCE):
            refused = await statuses(*(client.get(f"/users/{number}") for number in range(1, 21)))
        postgres.start()
        await until(lambda: is_ready(client), 1)
        served = await statuses(*(client.get("/posts") for _ in range(20)))

    assert live.status_code == 200
    assert_problem(ready, 503, "database_unavailable")
    assert (refused, served) == ({503}, {200})
    messages = [
        record.getMessage().partition(":")[0] for record in caplog.records if record.name == "service.database.pool"
    ]
    assert messages == ["the database is unavailable", "the database is available again"]


async def test_a_frozen_database_is_detected_within_two_timeouts(
    postgres: Cluster, own_client: httpx.AsyncClient
) -> None:
    alice = await Person.register(own_client, "alice")
    post = await alice.publish()
    postgres.freeze()

    async with takes_at_most(2 * TIMEOUT + SLACK):
        refused_after_waiting = await statuses(
            *(own_client.get(f"/users/{number}") for number in range(1, 40)),
            *(own_client.get("/users/me", headers=alice.headers) for _ in range(20)),
            *(own_client.get("/health/ready") for _ in range(5)),
        )
        # It arrives before the attempt to reconnect has failed.
        late = await statuses(own_client.get("/posts"))
    async with takes_at_most(AT_ONCE):
        refused_at_once = await statuses(own_client.get("/posts"), own_client.get("/health/ready"))
    postgres.thaw()
    await until(lambda: is_ready(own_client), 1)

    assert refused_after_waiting == late == refused_at_once == {503}
    assert await alice.read(post["id"]) == post
    assert (await alice.publish())["title"] == "A title"


async def test_only_one_idle_connection_to_a_frozen_database_is_tried(postgres: Cluster) -> None:
    database = Database(postgres.url("service", ROLE), connections=8, timeout=TIMEOUT)
    async with database.lifespan():
        await asyncio.gather(*(database.fetch("select pg_sleep(0.05)") for _ in range(8)))
        postgres.freeze()

        async with takes_at_most(2 * TIMEOUT + SLACK):
            for _ in range(8):
                with pytest.raises(DatabaseUnavailable):
                    await database.fetch("select 1")


async def test_losing_the_last_connection_refuses_all_waiting_callers(postgres: Cluster) -> None:
    database = Database(postgres.url("service", ROLE), connections=2, timeout=60)
    async with database.lifespan():
        under_way = [asyncio.create_task(database.fetch("select pg_sleep(60)")) for _ in range(2)]
        waiting = [asyncio.create_task(database.fetch("select 1")) for _ in range(5)]
        async with asyncpg.create_pool(postgres.url("service"), min_size=1, max_size=1) as admin:

            async def both_running() -> bool:
                return len(await admin.fetch("select from pg_stat_activity where wait_event = 'PgSleep'")) == 2

            await until(both_running, 5)
        postgres.kill()

        async with takes_at_most(SLACK):
            results = await asyncio.gather(*under_way, *waiting, return_exceptions=True)
        postgres.start()

    assert all(isinstance(result, DatabaseUnavailable) for result in results)


async def test_a_frozen_database_does_not_delay_the_shutdown(postgres: Cluster) -> None:
    database = Database(postgres.url("service", ROLE), connections=2, timeout=60)
    async with takes_at_most(SLACK):
        async with database.lifespan():
            await asyncio.gather(*(database.fetch("select pg_sleep(0.01)") for _ in range(2)))
            postgres.freeze()
            waiting = [asyncio.create_task(database.fetch("select 1")) for _ in range(5)]
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(result, DatabaseUnavailable) for result in results)


async def test_the_service_works_with_fewer_connections_than_it_wants(
    postgres: Cluster, own_client: httpx.AsyncClient
) -> None:
    alice = await Person.register(own_client, "alice")
    admin = await asyncpg.connect(postgres.url("service"))

    async def allow(connections: int) -> None:
        await admin.execute(f"alter role {ROLE} connection limit {connections}")
        limited_at = await admin.fetchval("select clock_timestamp()")
        await admin.execute(TERMINATE)
        await until(lambda: admin.fetchval(ALL_STARTED_SINCE, ROLE, limited_at), 5)

    async def read_all() -> set[int]:
        return await statuses(
            *(own_client.get(f"/posts?after={number}") for number in range(20)),
            *(own_client.get("/users/me", headers=alice.headers) for _ in range(5)),
        )

    await allow(1)
    await until(lambda: is_ready(own_client), 1)  # it may have tried to connect before the last session had ended
    with_one = await read_all()
    await allow(0)
    async with takes_at_most(AT_ONCE):
        with_none = await read_all()
    await allow(-1)
    await until(lambda: is_ready(own_client), 1)
    with_all = await read_all()
    await admin.close()

    assert (with_one, with_none, with_all) == ({200}, {503}, {200})


async def test_concurrent_health_probes_share_one_statement_and_are_answered_soon(database_url: str) -> None:
    database = Recorder(database_url, connections=1, timeout=60)
    async with database.lifespan():
        results = await asyncio.gather(*(database.answers() for _ in range(50)))
        statements_sent = database.count("select 1")
        busy = asyncio.create_task(database.fetch("select pg_sleep(60)"))
        async with takes_at_most(1 + SLACK):
            answered = await database.answers()
        busy.cancel()
        await until(database.answers, 5)

    assert results == [True] * 50
    assert answered is False
    assert statements_sent == 1
