"""Transactions of several statements: atomic, within the timeout, and without effect on later statements."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import asyncpg
import pytest

from service.database.database import ConnectionLost, Database
from service.database.transaction import Transaction
from service.errors import DatabaseUnavailable, PostNotFound
from tests.waiting import WAITERS, until

INSERT = "insert into users (username, email, password_hash) values ($1, $1 || '@example.com', 'hash') returning id"
COUNT = "select count(*) from users"
STATES = "select state from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
TIMEOUT = 1

Work = Callable[[Transaction], Awaitable[None]]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with one connection, so that a later statement shows the state that a transaction has left."""
    opened = Database(database_url, connections=1, timeout=TIMEOUT)
    async with opened.lifespan():
        yield opened


async def transact(database: Database, work: Work) -> None:
    """Insert a user and do ``work`` in one transaction."""
    async with database.transaction() as transaction:
        await transaction.write_row(INSERT, "alice")
        await work(transaction)


async def insert_again(transaction: Transaction) -> None:
    await transaction.write_row(INSERT, "alice")


async def pid(database: Database) -> int:
    row = await database.fetch_row("select pg_backend_pid()")
    assert row
    found: int = row[0]
    return found


async def assert_nothing_is_left(database: Database, db: asyncpg.Connection, pid_before: int | None = None) -> None:
    """Nothing was written, and the next statement is outside of a transaction, on the connection of ``pid_before``."""

    async def is_idle() -> bool:
        return {row["state"] for row in await db.fetch(STATES)} == {"idle"}

    assert await database.fetch("select 1 where pg_current_xact_id_if_assigned() is null")
    await until(is_idle, 5)  # PostgreSQL takes a moment to notice that a connection was closed
    assert await db.fetchval(COUNT) == 0
    assert pid_before is None or await pid(database) == pid_before


async def test_the_statements_of_a_transaction_are_committed_together(
    database: Database, db: asyncpg.Connection
) -> None:
    before = await pid(database)

    async with database.transaction() as transaction:
        inserted = [await transaction.write_row(INSERT, name) for name in ("alice", "bob")]
        inside = await transaction.run("select username from users order by id")
        outside = await db.fetchval(COUNT)

    assert all(inserted)
    assert [row["username"] for row in inside] == ["alice", "bob"]
    assert outside == 0
    assert await db.fetchval(COUNT) == 2
    assert await pid(database) == before


async def test_an_error_in_the_block_rolls_back_and_is_raised(database: Database, db: asyncpg.Connection) -> None:
    before = await pid(database)

    async def fail(_: Transaction) -> None:
        raise PostNotFound

    with pytest.raises(PostNotFound):
        await transact(database, fail)

    await assert_nothing_is_left(database, db, before)


async def test_a_violated_constraint_rolls_back_and_is_raised_with_its_name(
    database: Database, db: asyncpg.Connection
) -> None:
    before = await pid(database)

    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await transact(database, insert_again)

    assert caught.value.constraint_name == "users_username_key"
    await assert_nothing_is_left(database, db, before)


async def test_a_failed_statement_that_the_block_ignores_rolls_back_and_is_raised(
    database: Database, db: asyncpg.Connection
) -> None:
    """PostgreSQL answers the commit of a failed transaction with a rollback, and with no error."""
    before = await pid(database)

    async def ignore(transaction: Transaction) -> None:
        with suppress(asyncpg.UniqueViolationError):
            await insert_again(transaction)

    with pytest.raises(asyncpg.UniqueViolationError):
        await transact(database, ignore)

    await assert_nothing_is_left(database, db, before)


async def test_a_block_may_raise_its_own_error_for_a_failed_statement(
    database: Database, db: asyncpg.Connection
) -> None:
    before = await pid(database)

    async def translate(transaction: Transaction) -> None:
        try:
            await insert_again(transaction)
        except asyncpg.UniqueViolationError:
            raise PostNotFound from None

    with pytest.raises(PostNotFound):
        await transact(database, translate)

    await assert_nothing_is_left(database, db, before)


async def test_a_transaction_as_a_whole_has_the_timeout_of_one_statement(
    database: Database, db: asyncpg.Connection
) -> None:
    before, begun = await pid(database), asyncio.get_running_loop().time()

    async def dawdle(transaction: Transaction) -> None:
        while True:
            await transaction.run("select pg_sleep(0.3)")

    with pytest.raises(DatabaseUnavailable):
        await transact(database, dawdle)

    assert TIMEOUT <= asyncio.get_running_loop().time() - begun < TIMEOUT + 5
    assert await pid(database) != before
    await assert_nothing_is_left(database, db)


async def test_the_timeout_also_ends_a_block_that_waits_for_something_else(
    database: Database, db: asyncpg.Connection
) -> None:
    async def wait(_: Transaction) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DatabaseUnavailable):
        await transact(database, wait)

    await assert_nothing_is_left(database, db)


async def test_the_timeout_ends_a_transaction_that_waits_for_a_lock(database: Database, db: asyncpg.Connection) -> None:
    async with db.transaction():
        await db.execute("lock table posts")

        with pytest.raises(DatabaseUnavailable):
            await transact(database, lambda transaction: transaction.run("select from posts"))  # type: ignore[arg-type, return-value]

    await assert_nothing_is_left(database, db)


async def test_a_cancelled_transaction_is_not_applied(database: Database, db: asyncpg.Connection) -> None:
    before = await pid(database)

    async def change(transaction: Transaction) -> None:
        await transaction.run("select from posts")

    async def is_waiting() -> bool:
        return bool(await db.fetchval(WAITERS))

    async with db.transaction():
        await db.execute("lock table posts")
        task = asyncio.create_task(transact(database, change))
        await until(is_waiting, TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert await pid(database) != before
    await assert_nothing_is_left(database, db)


@pytest.mark.parametrize("then", ["a statement", "a statement that the block ignores", "the commit"])
async def test_a_connection_that_is_closed_during_a_transaction_is_reported_as_lost(
    database: Database, db: asyncpg.Connection, then: str
) -> None:
    before = await pid(database)

    async def lose(transaction: Transaction) -> None:
        await db.fetchval("select pg_terminate_backend($1)", before)
        if then == "a statement":
            await transaction.run("select 1")
        elif then == "a statement that the block ignores":
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await transaction.run("select 1")

    with pytest.raises(ConnectionLost):
        await transact(database, lose)

    assert await pid(database) != before
    await assert_nothing_is_left(database, db)


async def test_no_transaction_begins_while_the_database_is_unavailable(database_url: str) -> None:
    absent = Database(database_url.replace("/test_", "/absent_"), connections=1, timeout=TIMEOUT)
    begun: list[Transaction] = []

    async with absent.lifespan():
        with pytest.raises(DatabaseUnavailable):
            await transact(absent, begun.append)  # type: ignore[arg-type]

    assert begun == []


async def test_transactions_and_statements_share_one_connection(database: Database, db: asyncpg.Connection) -> None:
    async def insert_two(number: int) -> None:
        async with database.transaction() as transaction:
            await transaction.write_row(INSERT, f"first{number}")
            await asyncio.sleep(0)
            await transaction.write_row(INSERT, f"second{number}")

    await asyncio.gather(*(insert_two(number) for number in range(20)), *(database.fetch(COUNT) for _ in range(20)))

    assert await db.fetchval(COUNT) == 40
