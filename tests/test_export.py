"""The export of an account with many posts: at constant memory, and without a database connection per client."""

import asyncio
from typing import Any

import asyncpg
import httpx
import msgspec
import psutil
import pytest

from service.app import create_app
from service.database.database import Database
from service.errors import DatabaseUnavailable
from service.queries.pages import SELECT_PAGE_OF_USER
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person
from tests.processes import Start, wait_until_serving
from tests.serving import open_client
from tests.tables import fill

MEBIBYTE = 1024 * 1024
INSERT_LONG_POSTS = """
insert into posts (title, content, user_id)
select 'T', repeat('x', $3), $1
from generate_series(1, $2)
"""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The id after which each page of posts was read."""
    read: list[int] = []
    run = Database.run

    async def record(db: Database, statement: str, *arguments: Any) -> Any:
        if statement == SELECT_PAGE_OF_USER:
            read.extend(arguments[1])
        return await run(db, statement, *arguments)

    monkeypatch.setattr(Database, "run", record)
    return read


async def open_export(address: str, alice: Person) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Request an export. The client stops reading after some kilobytes."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    head = f"GET /users/me/export HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n\r\n"
    writer.write(head.encode())
    return reader, writer


async def test_clients_that_do_not_read_their_export_hold_no_connection(
    serve: Serve, settings: Settings, db: asyncpg.Connection, pages: list[int]
) -> None:
    address = await serve(create_app(msgspec.structs.replace(settings, database_connections=2)))
    async with open_client(address) as client:
        alice = await Person.register(client, "alice")
        await db.execute(INSERT_LONG_POSTS, alice.id, 500, 80_000)
        exports = [await open_export(address, alice) for _ in range(10)]

        async with asyncio.timeout(30):
            before = -1
            while not pages or len(pages) > before:  # until all exports wait for their clients
                before = len(pages)
                await asyncio.sleep(0.5)
        read = await asyncio.gather(*(client.get(f"/posts?limit=1&after={number}") for number in range(10)))

        assert 0 < len(pages) < 10 * 10  # fewer than 10 if the exports of the same pages have shared statements
        assert {response.status_code for response in read} == {200}
        [first, *others] = exports
        for _, writer in others:
            writer.close()
        head, _, body = (await first[0].read()).partition(b"\r\n\r\n")
        first[1].close()
        assert head.startswith(b"HTTP/1.1 200")
        assert len(msgspec.json.decode(body)["posts"]) == 500


async def test_the_memory_of_an_export_does_not_depend_on_the_number_of_posts(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url)
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    await db.execute(INSERT_LONG_POSTS, alice.id, 15_000, 600)

    async def export() -> tuple[int, int]:
        """Returns the number of posts, and the most memory of the process meanwhile."""
        most = posts = 0
        async with process_client.stream("GET", "/users/me/export", headers=alice.headers) as response:
            async for piece in response.aiter_bytes():
                posts += piece.count(b'"date_posted"')
                most = max(most, psutil.Process(process.pid).memory_info().rss)
        return posts, most

    before = psutil.Process(process.pid).memory_info().rss
    posts, most = await export()

    assert 14_000 < posts <= 15_000  # a name may be cut by two pieces
    assert most - before < 4 * MEBIBYTE, (most - before) / MEBIBYTE


async def test_head_reads_no_posts(client: httpx.AsyncClient, alice: Person, pages: list[int]) -> None:
    await alice.publish()

    head = await client.head("/users/me/export", headers=alice.headers)

    assert (head.status_code, head.content) == (200, b"")
    assert pages == []


async def test_an_export_that_the_database_interrupts_is_not_complete(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(db, alice.id, 120)
    run = Database.run

    async def fail(database: Database, statement: str, *arguments: Any) -> Any:
        if statement == SELECT_PAGE_OF_USER and any(arguments[1]):  # not the first page
            raise DatabaseUnavailable
        return await run(database, statement, *arguments)

    monkeypatch.setattr(Database, "run", fail)

    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/users/me/export", headers=alice.headers)
