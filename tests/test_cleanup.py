"""Expired sessions, failed logins, known addresses and idempotency keys are deleted, and nothing else is."""

import asyncio
from datetime import timedelta

import asyncpg
import httpx
import pytest
from msgspec.structs import replace

from service.database.database import Database
from service.errors import DatabaseUnavailable
from service.security import cleanup
from service.security.cleanup import BATCH_ROWS, Cleanup
from service.structs.auth import LoginRules
from tests.people import Person
from tests.recorder import Recorder

RULES = LoginRules(10, 50, timedelta(minutes=15), timedelta(days=90))
COUNTS = """
select
    (select count(*) from sessions) as sessions,
    (select count(*) from login_failures) as failures,
    (select count(*) from known_addresses) as addresses,
    (select count(*) from idempotency_keys) as keys
"""


async def expire(db: asyncpg.Connection, user_id: int, rows: int) -> None:
    """Insert rows of each table that have expired."""
    await db.execute(
        "insert into sessions (user_id, expires_at, user_agent, address) "
        "select $1, now() - interval '1 second', '', '' from generate_series(1, $2)",
        user_id,
        rows,
    )
    await db.execute(
        "insert into login_failures (subject, failed_at, last_failed_at) "
        "select int4send(n), array[now()], now() - interval '61 minutes' from generate_series(1, $1) as n",
        rows,
    )
    await db.execute(
        "insert into known_addresses (user_id, address, last_login_at) "
        "select $1, n::text, now() - interval '91 days' from generate_series(1, $2) as n",
        user_id,
        rows,
    )
    await db.execute(
        "insert into idempotency_keys (user_id, key, digest, created_at) "
        "select $1, n::text, '', now() - interval '24 hours' from generate_series(1, $2) as n",
        user_id,
        rows,
    )


async def test_what_has_expired_is_deleted_in_bounded_batches(
    database_url: str, db: asyncpg.Connection, client: httpx.AsyncClient, alice: Person
) -> None:
    await client.post("/auth/token", data={"username": "nobody", "password": "x"})
    await db.execute("insert into login_failures values ('new', array[now()], now() - interval '59 minutes')")
    await db.execute("insert into idempotency_keys values ($1, 'new', '', now() - interval '1439 minutes')", alice.id)
    before = tuple(await db.fetchrow(COUNTS) or ())
    rows = 2 * BATCH_ROWS + 7
    await expire(db, alice.id, rows)
    recorder = Recorder(database_url)

    async with recorder.lifespan():
        await Cleanup(recorder, RULES).run()

    assert tuple(await db.fetchrow(COUNTS) or ()) == before == (1, 1, 1, 1)
    assert len(recorder.sent) == 4 * 3
    assert (await client.get("/users/me", headers=alice.headers)).status_code == 200


async def test_processes_that_clean_up_together_do_not_wait_for_each_other(
    database_url: str, db: asyncpg.Connection, alice: Person
) -> None:
    await expire(db, alice.id, 3 * BATCH_ROWS)
    databases = [Database(database_url, connections=2, timeout=5) for _ in range(4)]
    async with databases[0].lifespan(), databases[1].lifespan(), databases[2].lifespan(), databases[3].lifespan():
        await asyncio.gather(*(Cleanup(one, RULES).run() for one in databases))
        await Cleanup(databases[0], RULES).run()  # rows that were locked at the end of all others

    assert tuple(await db.fetchrow(COUNTS) or ()) == (1, 0, 1, 0)


async def test_a_row_that_is_locked_does_not_stop_the_cleanup(
    database_url: str, db: asyncpg.Connection, alice: Person
) -> None:
    await expire(db, alice.id, 5)
    database = Database(database_url, connections=1, timeout=5)
    async with database.lifespan(), db.transaction():
        await db.execute("select 1 from sessions where expires_at < now() order by id limit 1 for update")
        await Cleanup(database, RULES).run()

        assert await db.fetchval("select count(*) from sessions where expires_at < now()") == 1


async def test_the_service_cleans_up_by_itself_and_survives_a_database_that_is_away(
    database_url: str, db: asyncpg.Connection, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "_INTERVAL", (0, 0.01))
    database = Recorder(database_url)
    has_failed = asyncio.Event()

    async def fail(_: str) -> None:
        has_failed.set()
        raise DatabaseUnavailable

    async with asyncio.timeout(20), database.lifespan(), Cleanup(database, RULES).lifespan():
        for _ in range(2):
            await expire(db, alice.id, 5)
            while tuple(await db.fetchrow(COUNTS) or ()) != (1, 0, 1, 0):
                await asyncio.sleep(0.01)
            has_failed.clear()
            database.before = fail
            await has_failed.wait()
            database.before = None


async def test_failures_are_kept_for_a_window_above_an_hour(database_url: str, db: asyncpg.Connection) -> None:
    rules = replace(RULES, window=timedelta(hours=2))
    await db.execute("insert into login_failures values ('old', array[now()], now() - interval '121 minutes')")
    await db.execute("insert into login_failures values ('new', array[now()], now() - interval '119 minutes')")
    database = Database(database_url, connections=1, timeout=5)
    async with database.lifespan():
        await Cleanup(database, rules).run()

    assert await db.fetchval("select array_agg(subject) from login_failures") == [b"new"]
