"""More requests than the service can serve, and slow clients."""

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
from tests.processes import Start, pause, peer_ports, read_until, wait_until_serving
from tests.raw_http import connect, parse_responses, receive
from tests.serving import open_client

# The client sends the body when the service asks for it by 100 Continue.
EXPECTING = b"POST /auth/register HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"


async def receive_some(connection: socket.socket) -> bytes:
    """The next bytes that arrive."""
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(connection, 1024)


async def test_a_request_above_the_limit_is_refused_soon(
    serve: Serve, settings: Settings, db: asyncpg.Connection
) -> None:
    address = await serve(create_app(msgspec.structs.replace(settings, max_requests=5)))
    async with open_client(address) as client:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            reads = [asyncio.create_task(client.get("/posts")) for _ in range(20)]
            refused, held = await asyncio.wait(reads, timeout=1)
            started = time.monotonic()
            refused_writes = await asyncio.gather(*(client.post("/posts", content=b" " * 100_000) for _ in range(20)))
            took = time.monotonic() - started
            health = await client.get("/health/live")
        served = [(await read).status_code for read in held]
        after = await client.get("/")

    for response in [read.result() for read in refused] + refused_writes:
        assert_problem(response, 503, "overloaded", "Too many requests are in flight")
        assert response.headers["retry-after"] == "1"
        assert response.headers["cache-control"] == "no-store"
    assert took < 1
    assert (served, health.status_code, after.status_code) == ([200] * 5, 200, 200)


@pytest.mark.long
async def test_slow_clients_are_disconnected_and_do_not_block_others(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await start(
        "service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="1", MAX_REQUESTS="4"
    )
    await wait_until_serving(process_client)
    await Person.register(process_client, "alice")
    silent, trickling_head, *bodies = connections = [connect(str(process_client.base_url)) for _ in range(10)]

    async def trickle() -> None:
        with suppress(ConnectionError):
            for sent in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
                await asyncio.get_running_loop().sock_sendall(trickling_head, bytes([sent]))
                await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    started = time.monotonic()
    for body in bodies:
        body.sendall(EXPECTING)
    first = [await receive_some(body) for body in bodies]
    waiting = [body for body, text in zip(bodies, first, strict=True) if text.startswith(b"HTTP/1.1 100 ")]
    for body in waiting:
        body.sendall(b"{")
    other = await process_client.get("/")
    received = [await receive(connection) for connection in (silent, trickling_head, *waiting)]
    took = time.monotonic() - started
    async with asyncio.timeout(20):  # the connection is closed although input still arrives
        await trickling
    for connection in connections:
        connection.close()

    assert len(waiting) >= 4
    assert {text[:13] for text in first} <= {b"HTTP/1.1 100 ", b"HTTP/1.1 503 "}
    assert other.status_code == 200
    assert 1 <= took < 15
    assert received[0] == b""
    for text in received[1:]:
        [response] = parse_responses(text)
        assert response.status == 408
        assert response.headers["content-type"] == "application/problem+json"


async def test_an_unread_body_does_not_make_room_for_another_request(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await start("service", DATABASE_URL=database_url, MAX_REQUESTS="2")
    await wait_until_serving(process_client)
    unfinished = b"GET /posts HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    with ExitStack() as stack:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            held = []
            for _ in range(3):  # longer than several checks of the deadlines
                connections = [stack.enter_context(connect(str(process_client.base_url))) for _ in range(4)]
                for connection in connections:
                    connection.sendall(unfinished)
                await asyncio.sleep(0.8)
                held += [connection for connection in connections if not _readable(connection)]

    assert len(held) == 2


def _readable(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False


async def test_a_client_that_reads_nothing_is_disconnected(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await start("service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="1")
    await wait_until_serving(process_client)
    alice = await Person.register(process_client, "alice")
    await db.execute(
        "insert into posts (title, content, user_id) select 'T', repeat('x', 400000), $1 from generate_series(1, 50)",
        alice.id,
    )
    await process_client.aclose()
    with connect(str(process_client.base_url)) as reader:
        reader.sendall(b"GET /posts HTTP/1.1\r\nHost: x\r\n\r\n")
        port = reader.getsockname()[1]
        async with asyncio.timeout(20):
            while not _readable(reader):
                await asyncio.sleep(0.01)
            while port in peer_ports(process.pid):
                await asyncio.sleep(0.05)
        received = b""
        with suppress(ConnectionResetError):
            received = await receive(reader)
    assert len(received) < 50 * 400_000


async def test_idle_connections_do_not_slow_down_reads(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = await start("service", DATABASE_URL=database_url, MAX_REQUESTS="10")
    await read_until(process, "Uvicorn running")
    with ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(connect(str(process_client.base_url)))
        started = time.monotonic()
        statuses = {(await process_client.get("/posts")).status_code for _ in range(20)}
        took = time.monotonic() - started
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert statuses == {200}
    assert took < 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_new_client_does_not_wait_for_all_the_requests_in_flight(
    start: Start, process_client: httpx.AsyncClient, database_url: str, workers: int
) -> None:
    process = await start("service", DATABASE_URL=database_url, WORKERS=str(workers))
    await wait_until_serving(process_client)
    members = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    address = str(process_client.base_url)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(address)) for _ in range(200 * workers)]
        for connection in busy:
            connection.sendall(request)
        [size] = {len(await receive_some(connection)) for connection in busy}
        pause(*members)
        for connection in busy:
            connection.sendall(request * 100)
        new = [stack.enter_context(connect(address)) for _ in range(60 * workers)]
        for connection in new:
            connection.sendall(request)
        os.killpg(process.pid, signal.SIGCONT)
        for connection in new:
            assert await receive_some(connection)
        pause(*members)
        served = sum(len(connection.recv(100 * size)) // size for connection in busy if _readable(connection))
        os.killpg(process.pid, signal.SIGCONT)

    assert served < 30 * len(busy)  # of a hundred each


@pytest.mark.long
async def test_only_a_client_that_is_idle_between_two_requests_is_disconnected_without_a_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await start("service", DATABASE_URL=database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="2")
    await wait_until_serving(process_client)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    idle, busy, pipelining, slow = [connect(str(process_client.base_url)) for _ in range(4)]
    with idle, busy, pipelining, slow:
        idle.sendall(request)
        slow.sendall(request)
        pipelining.sendall(request + request[:10])
        started = time.monotonic()
        receiving = asyncio.create_task(receive(idle))
        requests = 0
        while not receiving.done() or requests < 5:
            busy.sendall(request)
            requests += 1
            await asyncio.sleep(0.9)
            if requests == 1:
                slow.sendall(request[:10])
        took = time.monotonic() - started
        busy.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        served = parse_responses(await receive(busy))
        halves = [parse_responses(await receive(slow)), parse_responses(await receive(pipelining))]

    assert 2 <= took < 15
    assert [response.status for response in parse_responses(await receiving)] == [200]
    assert [response.status for response in served] == [200] * (requests + 1)
    for half in halves:
        assert [response.status for response in half] == [200, 408]
