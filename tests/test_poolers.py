"""The service behind PgBouncer: each of its connections has a session of its own, or the start is refused."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.database import connecting, pooler, schema
from service.database.check import check
from service.database.connecting import SESSION_SETTINGS
from service.database.database import Database
from service.database.pooler import REMEDY, SharedSession
from service.errors import DatabaseUnavailable
from service.queries import posts, users
from service.settings import Settings
from service.structs.posts import PostCreate
from tests.conftest import Serve
from tests.mixed_load import MixedLoad
from tests.people import Person, assert_problem, is_ready
from tests.poolers import StartPgBouncer
from tests.processes import Start, free_port, read_output, wait_until_serving
from tests.serving import open_client
from tests.tables import INSERT_POSTS, INSERT_SESSIONS, INSERT_USERS, principal_of
from tests.waiting import until

SECRET_KEY = secrets.token_hex()
GOOD = {200, 201, 204, 404}

TRANSACTION_MODE: list[dict[str, object]] = [
    {"pool_mode": "transaction"},
    {"pool_mode": "transaction", "server_round_robin": 1},
    {"pool_mode": "transaction", "default_pool_size": 1},
]

ADVISORY_LOCKS = """
select count(*)
from pg_locks
join pg_database on pg_database.oid = pg_locks.database
where locktype = 'advisory' and datname = current_database()
"""


def ids(settings: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


@asynccontextmanager
async def two_services(start: Start, url: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            port = str(free_port())
            await start("service", DATABASE_URL=url, PORT=port, SECRET_KEY=SECRET_KEY)
            client = open_client(f"http://127.0.0.1:{port}")
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await wait_until_serving(client)
        yield clients


async def test_two_services_behind_a_pooler_in_session_mode_serve_every_request(
    start: Start, pgbouncer: StartPgBouncer, database_url: str, db: asyncpg.Connection
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="session")
    async with two_services(start, bouncer.url) as clients:
        load = MixedLoad(clients, SECRET_KEY)
        await load.prepare(db)

        await load.run()

    await load.assert_stored(db)
    assert set(load.statuses) <= GOOD, load.statuses


async def test_no_post_disappears_or_changes_by_itself_behind_a_pooler_in_transaction_mode(
    start: Start, pgbouncer: StartPgBouncer, database_url: str, db: asyncpg.Connection
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="transaction")
    bouncer.stop()  # so the services start without their check of the pooler
    async with two_services(start, bouncer.url) as clients:
        load = MixedLoad(clients, SECRET_KEY)
        await load.prepare(db)
        bouncer.start()
        for client in clients:
            await until(partial(is_ready, client), 10)

        await load.run()

    await load.assert_stored(db)
    assert set(load.statuses) <= {*GOOD, 503}, load.statuses


async def test_a_read_never_executes_the_statement_of_another_process(
    pgbouncer: StartPgBouncer, database_url: str, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.execute(INSERT_USERS, 2, "hash")
    await db.execute(INSERT_SESSIONS)
    await db.execute(INSERT_POSTS, 4, "C", 2)
    bouncer = pgbouncer(database_url, pool_mode="transaction")
    # Its parameters have the types of the delete's, so PostgreSQL would take them for it.
    read = "select id from posts where id > $1 and $3::text is null and $4::text is null order by id limit $2"
    reader, writer = (Database(bouncer.url, connections=1, timeout=5) for _ in range(2))
    holder = await asyncpg.connect(bouncer.url)
    async with reader.lifespan(), writer.lifespan():
        # asyncpg's numbers of statements start from the same number in each process.
        monkeypatch.setattr(asyncpg.connection, "_uid", 0)
        await reader.fetch(read, 1, 2, None, None)
        async with holder.transaction():  # it holds the reader's session
            monkeypatch.setattr(asyncpg.connection, "_uid", 0)
            await writer.write_row(posts.DELETE, 99, 99, None, None)

            # In the session in which the delete has been prepared.
            with suppress(DatabaseUnavailable):  # PgBouncer 1.21 and newer would find the reader's statement
                await reader.fetch(read, 2, 2, None, None)  # the delete would find this post and this session
    await holder.close()
    monkeypatch.undo()

    assert await db.fetchval("select count(*) from posts") == 4


async def test_two_connections_never_give_two_statements_the_same_name(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for _ in range(2):
        monkeypatch.setattr(asyncpg.connection, "_uid", 0)  # as in another process, or in a fork of this one
        connection = await connecting.connect(database_url, timeout=5)
        await connection.fetch("select 1")
        names += [row["name"] for row in await connection.fetch("select name from pg_prepared_statements")]
        await connection.close()

    assert len(names) == len(set(names)) == 4
    assert max(len(name) for name in names) < 63  # PostgreSQL ignores the rest


async def test_the_settings_of_a_session_are_in_force_behind_a_pooler_and_do_not_reach_other_clients(
    pgbouncer: StartPgBouncer, database_url: str
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="session", default_pool_size=1)
    names = [*SESSION_SETTINGS, "statement_timeout"]
    select = "select current_setting(name) from unnest($1::text[]) as name"
    direct = await asyncpg.connect(database_url)
    defaults = [row[0] for row in await direct.fetch(select, names)]
    await direct.close()
    database = Database(bouncer.url, connections=1, timeout=5)
    async with database.lifespan():
        in_force = [row[0] for row in await database.fetch(select, names)]
        [[pid]] = await database.fetch("select pg_backend_pid()")
    other = await asyncpg.connect(bouncer.url)
    afterwards = [row[0] for row in await other.fetch(select, names)]
    same_session = await other.fetchval("select pg_backend_pid()") == pid
    await other.close()

    assert in_force == [*SESSION_SETTINGS.values(), "4500ms"]
    assert same_session
    assert afterwards == defaults


@pytest.mark.parametrize("settings", [{}, {"default_pool_size": 1}], ids=["", "with one session"])
async def test_a_pooler_in_session_mode_is_accepted(
    pgbouncer: StartPgBouncer, database_url: str, settings: dict[str, object]
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="session", **settings)

    await pooler.check(bouncer.url, timeout=5)


async def test_postgresql_itself_is_accepted(database_url: str) -> None:
    await pooler.check(database_url, timeout=5)


@pytest.mark.parametrize("settings", [*TRANSACTION_MODE, {"pool_mode": "statement"}], ids=ids)
async def test_a_pooler_that_shares_sessions_is_refused(
    pgbouncer: StartPgBouncer, database_url: str, settings: dict[str, object]
) -> None:
    bouncer = pgbouncer(database_url, **settings)

    with pytest.raises(SharedSession):
        await pooler.check(bouncer.url, timeout=5)


@pytest.mark.parametrize("settings", TRANSACTION_MODE, ids=ids)
async def test_a_pooler_that_shares_sessions_is_refused_while_others_use_it(
    pgbouncer: StartPgBouncer, database_url: str, settings: dict[str, object]
) -> None:
    bouncer = pgbouncer(database_url, **settings)

    async def use() -> None:
        async with asyncpg.create_pool(bouncer.url, min_size=1, max_size=1, statement_cache_size=0) as others:
            while True:
                await others.execute("select 1")

    using = [asyncio.create_task(use()) for _ in range(4)]
    for _ in range(10):
        with pytest.raises(SharedSession):
            await pooler.check(bouncer.url, timeout=5)
    for task in using:
        task.cancel()
    await asyncio.gather(*using, return_exceptions=True)


async def test_a_refused_start_leaves_no_setting_in_a_session_that_other_clients_use(
    pgbouncer: StartPgBouncer, settings: Settings, database_url: str
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="transaction", default_pool_size=1)
    other = await asyncpg.connect(bouncer.url, statement_cache_size=0)
    names = [*SESSION_SETTINGS, "statement_timeout"]
    select = "select pg_backend_pid(), name, current_setting(name) as value from unnest($1::text[]) as name"
    before = await other.fetch(select, names)

    with pytest.raises(SharedSession):
        await check(msgspec.structs.replace(settings, database_url=bouncer.url))

    assert await other.fetch(select, names) == before
    await other.close()


async def test_the_start_behind_a_pooler_in_transaction_mode_is_refused_in_one_line(
    start: Start, pgbouncer: StartPgBouncer, database_url: str
) -> None:
    bouncer = pgbouncer(database_url, pool_mode="transaction")

    process = await start("service", DATABASE_URL=bouncer.url, SECRET_KEY=SECRET_KEY)

    assert await read_output(process) == (
        "DATABASE_URL leads to a pooler in transaction mode: a pooler shares PostgreSQL's sessions between its "
        "clients. Set `pool_mode = session` in PgBouncer, or let DATABASE_URL lead to the pooler's port for session "
        "mode or to PostgreSQL itself\n"
    )
    assert process.returncode == 1


async def test_ten_migrations_behind_a_pooler_in_transaction_mode_leave_no_lock(
    pgbouncer: StartPgBouncer, empty_database: str
) -> None:
    bouncer = pgbouncer(empty_database, pool_mode="transaction")

    applied = await asyncio.gather(*(schema.migrate(bouncer.url) for _ in range(10)))

    assert sorted(name for names in applied for name in names) == [file.name for file in schema.read_files()]
    db = await asyncpg.connect(empty_database)
    assert await db.fetchval(ADVISORY_LOCKS) == 0
    await db.close()


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_request_whose_session_lacks_its_statement_gets_a_503_and_the_log_names_the_pooler(
    serve: Serve, settings: Settings, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    app = create_app(msgspec.structs.replace(settings, database_connections=1))
    async with open_client(await serve(app)) as client:
        alice = await Person.register(client, "alice")
        kept, gone = await alice.publish("kept"), await alice.publish("gone")
        arguments: dict[str, Any] = {"headers": alice.headers, "json": {"title": "changed"}}
        await client.request(method, f"/posts/{gone['id']}", **arguments)  # it prepares the statements
        await app.state.db.run("deallocate all")

        refused = await client.request(method, f"/posts/{kept['id']}", **arguments)

        assert_problem(refused, 503, "database_unavailable")
        assert refused.headers["retry-after"]
        assert await alice.read(kept["id"]) == kept
    [message] = [record.getMessage() for record in caplog.records if record.name == "service.database.pool"]
    assert message.startswith("a statement failed: InvalidSQLStatementNameError: prepared statement ")
    assert message.endswith(f" does not exist: {REMEDY}")


async def test_a_batch_of_writes_whose_session_lacks_its_statement_writes_nothing(
    database_url: str, db: asyncpg.Connection
) -> None:
    principal = await principal_of(db, "alice")
    database = Database(database_url, connections=1, timeout=5)

    async def insert(*titles: str) -> list[Any]:
        writes = [posts.insert(database, principal, PostCreate(title, "C")) for title in titles]
        return await asyncio.gather(*writes, return_exceptions=True)

    async with database.lifespan():
        await insert("a", "b")
        await database.run("deallocate all")
        refused = await insert("c", "d")
        await insert("e", "f")

    assert {type(result) for result in refused} == {DatabaseUnavailable}
    assert [row["title"] for row in await db.fetch("select title from posts order by title")] == ["a", "b", "e", "f"]


async def test_a_transaction_whose_session_lacks_its_statements_fails_and_writes_nothing(
    database_url: str, db: asyncpg.Connection
) -> None:
    database = Database(database_url, connections=1, timeout=5)

    async def register(name: str) -> None:
        async with database.transaction() as transaction:
            await transaction.write_row(users.INSERT, name, f"{name}@example.com", "hash")

    async with database.lifespan():
        await register("before")
        await database.run("deallocate all")
        with pytest.raises(DatabaseUnavailable):
            await register("during")
        await register("after")

    assert [row["username"] for row in await db.fetch("select username from users")] == ["before", "after"]


async def test_a_session_that_has_a_statement_of_the_same_name_is_not_used_again(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting.Connection, "_get_unique_id", lambda *_: "a_name")
    database = Database(database_url, connections=1, timeout=5)
    async with database.lifespan():
        [[before]] = await database.fetch("select pg_backend_pid()")
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("select 1")
        [[after]] = await database.fetch("select pg_backend_pid()")

    assert before != after
    [message] = [record.getMessage() for record in caplog.records if record.name == "service.database.pool"]
    assert message == (
        f'a statement failed: DuplicatePreparedStatementError: prepared statement "a_name" already exists: {REMEDY}'
    )
