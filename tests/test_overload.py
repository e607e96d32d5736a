"""More than can be served, and clients that keep the service waiting."""

import asyncio
import os
import resource
import signal
import socket
import time
from contextlib import ExitStack, suppress

import asyncpg
import httpx
import msgspec
import psutil
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person, assert_problem
from tests.processes import Start, answers, read_until
from tests.raw_http import answers_in, connect, receive

UNFINISHED = b"POST /auth/register HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"


async def answer(connection: socket.socket) -> bytes:
    """The next that comes."""
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(connection, 1024)


async def test_what_there_is_no_room_for_is_refused_soon(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    address = await serve(create_app(msgspec.structs.replace(settings, max_requests=5)))
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            reads = [asyncio.create_task(client.get("/posts")) for _ in range(20)]
            refused, held = await asyncio.wait(reads, timeout=1)
            begun = time.monotonic()
            refused_writes = await asyncio.gather(*(client.post("/posts", content=b" " * 100_000) for _ in range(20)))
            took = time.monotonic() - begun
            health = await client.get("/health/live")
        served = [(await read).status_code for read in held]
        after = await client.get("/")

    for response in [read.result() for read in refused] + refused_writes:
        assert_problem(response, 503, "overloaded", "Too many requests are in flight")
        assert response.headers["retry-after"] == "1"
    assert took < 1
    assert (served, health.status_code, after.status_code) == ([200] * 5, 200, 200)


async def test_slow_clients_are_ended_and_are_in_nobody_s_way(
    start: Start, visitor: httpx.AsyncClient, database_url: str
) -> None:
    await start(
        "service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="2", KEEP_ALIVE_SECONDS="2", MAX_REQUESTS="4"
    )
    await answers(visitor)
    await Person.register(visitor, "alice")
    silent, trickling_head, *bodies = connections = [connect(str(visitor.base_url)) for _ in range(10)]

    async def trickle() -> None:
        with suppress(ConnectionError):
            for sent in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
                await asyncio.get_running_loop().sock_sendall(trickling_head, bytes([sent]))
                await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    for body in bodies:
        body.sendall(UNFINISHED)
    begun = time.monotonic()
    async with asyncio.timeout(10):
        while (await visitor.get("/")).status_code != 200:
            await asyncio.sleep(0.05)
    waiting = sum(not _readable(body) for body in bodies)
    received = [await receive(connection) for connection in (silent, trickling_head, *bodies)]
    took = time.monotonic() - begun
    await trickling
    for connection in connections:
        connection.close()

    assert waiting >= 4
    assert 2 <= took < 15
    assert received[0] == b""
    for text in received[1:]:
        [answer] = answers_in(text)
        assert answer.status in {408, 503}
        assert answer.headers["content-type"] == "application/problem+json"
    assert answers_in(received[1])[0].status == 408


async def test_a_body_that_nobody_waits_for_makes_no_room(
    start: Start, visitor: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await start("service", DATABASE_URL=database_url, MAX_REQUESTS="2")
    await answers(visitor)
    unfinished = b"GET /posts HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    with ExitStack() as stack:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            held = []
            for _ in range(3):  # the clients are looked at once a second
                connections = [stack.enter_context(connect(str(visitor.base_url))) for _ in range(4)]
                for connection in connections:
                    connection.sendall(unfinished)
                await asyncio.sleep(1.1)
                held += [connection for connection in connections if not _readable(connection)]

    assert len(held) == 2


def _readable(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False


async def test_a_reader_that_takes_nothing_is_ended(
    start: Start, visitor: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="1")
    await answers(visitor)
    alice = await Person.register(visitor, "alice")
    await db.execute(
        "insert into posts (title, content, user_id) select 'T', repeat('x', 400000), $1 from generate_series(1, 50)",
        alice.id,
    )
    await visitor.aclose()
    with connect(str(visitor.base_url)) as reader:
        reader.sendall(b"GET /posts HTTP/1.1\r\nHost: x\r\n\r\n")
        port = reader.getsockname()[1]
        async with asyncio.timeout(20):
            while not _readable(reader):
                await asyncio.sleep(0.01)
            while port in _clients(process.pid):
                await asyncio.sleep(0.05)
        received = b""
        with suppress(ConnectionResetError):
            received = await receive(reader)
    assert len(received) < 50 * 400_000


def _clients(pid: int) -> set[int]:
    """The ports of those that a process is connected with."""
    return {known.raddr.port for known in psutil.Process(pid).net_connections("tcp") if known.raddr}


async def test_idle_connections_do_not_hinder_readers(
    start: Start, visitor: httpx.AsyncClient, database_url: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = await start("service", DATABASE_URL=database_url, MAX_REQUESTS="10")
    await read_until(process, "Uvicorn running")
    with ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(connect(str(visitor.base_url)))
        begun = time.monotonic()
        statuses = {(await visitor.get("/posts")).status_code for _ in range(20)}
        took = time.monotonic() - begun
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert statuses == {200}
    assert took < 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_connects_while_many_requests_are_under_way_does_not_wait_for_them(
    start: Start, visitor: httpx.AsyncClient, database_url: str, workers: int
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS=str(workers))
    await answers(visitor)
    address = str(visitor.base_url)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(address)) for _ in range(200 * workers)]
        for connection in busy:
            connection.sendall(request)
        [size] = {len(await answer(connection)) for connection in busy}
        os.killpg(process.pid, signal.SIGSTOP)
        for connection in busy:
            connection.sendall(request * 100)
        new = [stack.enter_context(connect(address)) for _ in range(60 * workers)]
        for connection in new:
            connection.sendall(request)
        os.killpg(process.pid, signal.SIGCONT)
        for connection in new:
            assert await answer(connection)
        os.killpg(process.pid, signal.SIGSTOP)
        served = sum(len(connection.recv(100 * size)) // size for connection in busy if _readable(connection))
        os.killpg(process.pid, signal.SIGCONT)

    assert served < 30 * len(busy)  # of a hundred each


async def test_who_stays_idle_between_two_requests_is_disconnected_and_nobody_else(
    start: Start, visitor: httpx.AsyncClient, database_url: str
) -> None:
    await start("service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="5")
    await answers(visitor)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    idle, busy, hasty, slow = [connect(str(visitor.base_url)) for _ in range(4)]
    with idle, busy, hasty, slow:
        idle.sendall(request)
        slow.sendall(request)
        hasty.sendall(request + request[:10])
        begun = time.monotonic()
        ended = asyncio.create_task(receive(idle))
        asked = 0
        while not ended.done() or asked < 8:
            busy.sendall(request)
            asked += 1
            await asyncio.sleep(0.9)
            if asked == 1:
                slow.sendall(request[:10])
        took = time.monotonic() - begun
        busy.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        served = answers_in(await receive(busy))
        halves = [answers_in(await receive(slow)), answers_in(await receive(hasty))]

    assert 5 <= took < 15
    assert [answer.status for answer in answers_in(await ended)] == [200]
    assert [answer.status for answer in served] == [200] * (asked + 1)
    for half in halves:
        assert [answer.status for answer in half] == [200, 408]
