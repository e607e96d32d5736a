"""A service notices at start that its database was used with another key."""

import asyncio
import secrets

import asyncpg
import pytest

from service.database.signing_key import INSERT, UPDATE, fingerprint, replaces_another
from tests.processes import Start, read_until
from tests.waiting import wait_for_blocked_session

WARNING = "SECRET_KEY is not the one that this database was used with before"


def new_key() -> str:
    return secrets.token_hex(32)


async def test_a_second_service_with_another_key_logs_a_warning(start: Start, database_url: str) -> None:
    first = await start("service", DATABASE_URL=database_url, SECRET_KEY=new_key(), PORT="0")
    assert WARNING not in await read_until(first, "Application startup complete")

    second = await start("service", DATABASE_URL=database_url, SECRET_KEY=new_key(), PORT="0")

    assert WARNING in await read_until(second, "Application startup complete")


async def test_a_service_that_accepts_the_tokens_of_the_key_before_logs_none(start: Start, database_url: str) -> None:
    old, new = new_key(), new_key()
    first = await start("service", DATABASE_URL=database_url, SECRET_KEY=old, PORT="0")
    await read_until(first, "Application startup complete")

    second = await start("service", DATABASE_URL=database_url, SECRET_KEY=new, SECRET_KEY_PREVIOUS=old, PORT="0")
    said = await read_until(second, "Application startup complete")
    third = await start("service", DATABASE_URL=database_url, SECRET_KEY=old, SECRET_KEY_PREVIOUS=new_key(), PORT="0")

    assert WARNING not in said
    assert WARNING in await read_until(third, "Application startup complete")


async def test_several_machines_with_one_key_log_none(start: Start, database_url: str) -> None:
    key = new_key()
    for _ in range(2):
        service = await start("service", DATABASE_URL=database_url, SECRET_KEY=key, PORT="0")
        assert WARNING not in await read_until(service, "Application startup complete")


async def test_a_rotation_is_reported_once(database_url: str) -> None:
    keys = [b"old", b"old", b"new", b"new", b"new", b"old"]

    reported = [await replaces_another(database_url, key, timeout=5) for key in keys]

    assert reported == [False, False, True, False, False, True]


@pytest.mark.parametrize("statement", [INSERT, UPDATE], ids=["new database", "used database"])
@pytest.mark.parametrize(
    ("key", "previous", "reported"),
    [
        (b"theirs", b"", False),
        (b"ours", b"", True),
        (b"ours", b"theirs", False),
        (b"ours", b"old", True),
    ],
)
async def test_a_service_compares_its_key_with_that_of_a_service_that_starts_at_the_same_time(
    db: asyncpg.Connection, url_for_db: str, statement: str, key: bytes, previous: bytes, *, reported: bool
) -> None:
    if statement is UPDATE:
        await replaces_another(url_for_db, b"old", timeout=5)
    async with db.transaction():
        assert await db.fetchval(statement, fingerprint(b"theirs"))
        ours = asyncio.create_task(replaces_another(url_for_db, key, previous, timeout=20))
        await wait_for_blocked_session(db)

    assert await ours is reported
    assert await db.fetchval("select fingerprint from signing_key") == fingerprint(key)


async def test_of_services_that_start_at_once_all_but_the_first_are_told(database_url: str) -> None:
    keys = [secrets.token_bytes(32) for _ in range(8)]

    reported = await asyncio.gather(*(replaces_another(database_url, key, timeout=5) for key in keys))

    assert sorted(reported) == [False] + [True] * 7


async def test_the_database_does_not_hold_the_key(db: asyncpg.Connection, database_url: str) -> None:
    key = new_key()
    await replaces_another(database_url, key.encode(), timeout=5)

    [stored] = await db.fetch("select fingerprint from signing_key")

    assert stored["fingerprint"] == fingerprint(key.encode())
    assert key not in stored["fingerprint"]


async def test_a_service_that_cannot_store_it_starts_with_a_warning(
    start: Start, db: asyncpg.Connection, database_url: str
) -> None:
    database = await db.fetchval("select current_database()")
    await db.execute(f'alter database "{database}" set default_transaction_read_only to on')

    service = await start("service", DATABASE_URL=database_url, SECRET_KEY=new_key(), PORT="0")

    text = await read_until(service, "Application startup complete")

    assert "SECRET_KEY cannot be compared" in text
    assert "read-only" in text
