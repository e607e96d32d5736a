"""One connection: what a client may send and when, which requests are executed, and when the connection is closed."""

import asyncio
import json
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Final

import asyncpg
import httpx
import msgspec
import psutil
import pytest

from service.app import create_app
from service.server.state import TICK_SECONDS
from service.settings import Settings
from tests.people import Person
from tests.processes import Start, pause, read_output, wait_for_clean_exit, wait_until_serving
from tests.raw_http import Client, Response, chunked, get, pieces_of, post, statuses
from tests.serving import address_of
from tests.serving import serving as running
from tests.waiting import wait_for_blocked_session

KIB: Final = 1024
CLOSE: Final = b"Connection: close\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
EXPECT: Final = b"Expect: 100-continue\r\n"
UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
TEN: Final = b"Content-Length: 10\r\n"
POST: Final = b'{"title": "T", "content": "C"}'

# Incomplete requests. The first gets its response, a 401, before its body is complete; the second needs its body.
EARLY: Final = post(TEN, b"{}", b"/posts")
UNFINISHED: Final = post(TEN, b"{}")
REST: Final = b" " * 8

# A step of a history: bytes to send, seconds to wait, or the status of a response to wait for.
Step = bytes | float | int


async def serving(start: Start, process_client: httpx.AsyncClient, database_url: str, **settings: str) -> Process:
    process = await start("service", DATABASE_URL=database_url, **settings)
    await wait_until_serving(process_client)
    return process


async def play(address: str, *steps: Step) -> list[int | str]:
    """Play a history; returns the statuses of the responses that it waits for, and an exception's name."""
    found: list[int | str] = []
    with Client(address) as client:
        try:
            for step in steps:
                if isinstance(step, bytes):
                    await client.send(step)
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    found.append((await client.read_response()).status)
        except (ConnectionError, TimeoutError) as error:
            found.append(type(error).__name__)
    return found


async def play_all(address: str, histories: dict[str, tuple[Step, ...]]) -> dict[str, list[int | str]]:
    """Play all histories at once; returns the outcomes that differ from the expected statuses."""
    played = await asyncio.gather(*(play(address, *steps) for steps in histories.values()))
    expected = [[step for step in steps if isinstance(step, int)] for steps in histories.values()]
    return {name: found for name, found, wanted in zip(histories, played, expected, strict=True) if found != wanted}


def bearer(person: Person) -> bytes:
    return b"Authorization: Bearer " + person.token.encode() + b"\r\n"


def publish(person: Person, fields: bytes = b"") -> bytes:
    return post(bearer(person) + b"Content-Length: %d\r\n" % len(POST) + fields, POST, b"/posts")


async def count_posts(db: asyncpg.Connection) -> int:
    count: int = await db.fetchval("select count(*) from posts")
    return count


def assert_close_is_announced(response: Response) -> None:
    assert response.headers.get("connection") == "close"


# --- Pauses do not close a connection.


async def test_a_client_may_pause_before_and_within_a_request(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    pause = 0.9  # longer than several checks of the deadlines
    whole, chunks = post(b"Content-Length: 2\r\n", b"{}"), chunked(b"2\r\n{}\r\n0\r\n\r\n")
    histories: dict[str, tuple[Step, ...]] = {
        "before anything": (pause, get(), 200, get(), 200),
        "for longer before anything": (2 * pause, get(), 200),
        "after an empty line": (b"\r\n", pause, get(), 200),
        "after one byte": (b"G", pause, get()[1:], 200),
        "before and after one byte": (pause, b"G", pause, get()[1:], 200),
        "before the end of the head": (get()[:-2], pause, get()[-2:], 200),
        "before the body": (whole[:-2], pause, whole[-2:], 422),
        "within the body": (whole[:-1], pause, whole[-1:], 422),
        "within a chunk": (chunks[:-9], pause, chunks[-9:], 422),
        "before the last chunk": (chunks[:-5], pause, chunks[-5:], 422),
        "before the end of the trailers": (chunks[:-2], pause, chunks[-2:], 422),
        "between two requests": (get(), 200, pause, get(), 200),
        "between two requests, after an empty line": (get(), 200, b"\r\n", pause, get(), 200),
        "within a pipelined request": (get() + get()[:10], 200, pause, get()[10:], 200),
        "before the rest of an unread body": (EARLY, 401, pause, REST + get(), 200),
    }
    await serving(start, process_client, database_url)

    assert await play_all(str(process_client.base_url), histories) == {}


async def test_a_connection_without_a_request_is_closed_without_a_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="1")
    started = time.monotonic()
    with Client(str(process_client.base_url)) as silent, Client(str(process_client.base_url)) as empty:
        await empty.send(b"\r\n")
        ends = [await silent.read_until_close(), await empty.read_until_close()]

    assert ends == [[], []]
    assert 1 <= time.monotonic() - started < 8


# --- Everything outside of bodies is bounded, whatever the size of the pieces, and does not block other clients.

ENDLESS: Final[dict[str, tuple[bytes, bytes]]] = {
    "a method": (b"", b"G"),
    "a target": (b"GET /", b"y"),
    "a version": (b"GET / HTTP/1.", b"1"),
    "the name of a header field": (get()[:-2], b"y"),
    "the value of a header field": (get()[:-2] + b"X: ", b"y"),
    "white space before the value of a header field": (get()[:-2] + b"X:", b" "),
    "header fields": (get()[:-2], b"X: y\r\n"),
    "header fields without a value": (get()[:-2], b"X:\r\n"),
    "header fields of an upgrade": (get(fields=UPGRADE)[:-2], b"X: y\r\n"),
    "empty lines": (b"", b"\r\n"),
    "the size of a chunk": (chunked(b""), b"0"),
    "the size of another chunk": (chunked(b"2\r\n{}\r\n"), b"0"),
    "the name of a chunk extension": (chunked(b"2;"), b"y"),
    "the value of a chunk extension": (chunked(b"2;x="), b"y"),
    "a quoted chunk extension": (chunked(b'2;x="'), b"y"),
    "chunk extensions": (chunked(b"2"), b";x=y"),
    "an extension of the last chunk": (chunked(b"2\r\n{}\r\n0;x="), b"y"),
    "the name of a trailer field": (chunked(b"2\r\n{}\r\n0\r\n"), b"y"),
    "the value of a trailer field": (chunked(b"2\r\n{}\r\n0\r\nX: "), b"y"),
    "trailer fields": (chunked(b"2\r\n{}\r\n0\r\n"), b"X: y\r\n"),
    "trailer fields without a value": (chunked(b"2\r\n{}\r\n0\r\n"), b"X:\r\n"),
    "a trailer of an empty body": (chunked(b"0\r\nX: "), b"y"),
    "a trailer of an upgrade": (post(UPGRADE + CHUNKED, b"2\r\n{}\r\n0\r\nX: "), b"y"),
}


def endless(name: str, size: int = 96 * KIB) -> bytes:
    begin, unit = ENDLESS[name]
    return begin + unit * (size // len(unit))


@pytest.mark.parametrize("size", [13, 1000, 16 * KIB + 1, 100 * KIB])
async def test_a_head_a_chunk_s_line_and_a_trailer_are_bounded(address: str, size: int) -> None:
    for name in ENDLESS:
        with Client(address) as client:
            await client.send(*pieces_of(endless(name), size))
            found = await client.read_until_close()

        assert statuses(found) in ([400], [431]), name
        assert_close_is_announced(found[0])
        assert found[0].headers["content-type"] == "application/problem+json"


async def test_input_after_a_complete_request_is_bounded(address: str) -> None:
    for name in ENDLESS:
        with Client(address) as client:
            assert await client.status_of(get()) == 200
            await client.send(endless(name))
            found = await client.read_until_close()

        assert statuses(found) in ([400], [431]), name


async def test_input_after_an_early_response_is_bounded(address: str) -> None:
    for name, (begin, _) in ENDLESS.items():
        if b"chunked" not in begin:
            continue
        head, end, body = endless(name).replace(b"/auth/register", b"/posts").partition(b"\r\n\r\n")
        with Client(address) as client:
            await client.send(head + end)
            first = await client.read_response()
            await client.send(body)

            assert (first.status, await client.read_until_close()) == (401, []), name


FORTY_KB: Final = b"y" * 40_000


@pytest.mark.parametrize("size", [13, 1000, 100_000])
@pytest.mark.parametrize(
    "body",
    [
        b"2;x=" + FORTY_KB + b"\r\n{}\r\n0\r\n\r\n",
        b'2;x="' + FORTY_KB + b'"\r\n{}\r\n0\r\n\r\n',
        b"2\r\n{}\r\n0;x=" + FORTY_KB + b"\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX: " + FORTY_KB + b"\r\n\r\n",
        b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 900 + b"\r\n",
        b"2\r\n{}\r\n0\r\n" + b"X:" + b" " * 40_000 + b"y\r\n\r\n",
        (b"1;x=" + FORTY_KB + b"\r\n \r\n") * 8 + b"2\r\n{}\r\n0\r\nX: " + FORTY_KB + b"\r\n\r\n",
    ],
    ids=["extension", "quoted extension", "last extension", "trailer", "trailers", "white space", "all of them"],
)
async def test_chunk_extensions_and_trailers_within_the_bounds_are_ignored(
    address: str, body: bytes, size: int
) -> None:
    with Client(address) as client:
        await client.send(*pieces_of(chunked(body), size))
        first = (await client.read_response()).status

        assert (first, await client.status_of(get())) == (422, 200)


async def test_an_endless_head_or_trailer_does_not_block_other_clients(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url)
    slow: dict[str, float] = {}
    with Client(str(process_client.base_url)) as other:
        for name in ("a target", "the value of a header field", "chunk extensions", "the value of a trailer field"):
            with Client(str(process_client.base_url)) as client:
                sending = asyncio.create_task(client.send(endless(name, 32 * KIB * KIB)))
                while not sending.done():
                    started = time.monotonic()
                    assert await other.status_of(get()) == 200
                    slow[name] = max(slow.get(name, 0), time.monotonic() - started)
                with suppress(ConnectionError):  # the server stops reading
                    await sending

    assert {name: took for name, took in slow.items() if took > 1} == {}


# --- Responses that are sent before the request is complete.


QUIET: Final[dict[str, list[tuple[Step, ...]]]] = {
    "idle": [(), (b"\r\n",), (get(), 200), (EARLY + REST, 401)],
    "the rest of a body is missing": [
        (EARLY, 401),
        (get() + EARLY, 200, 401),
        (post(TEN + EXPECT, b"", b"/posts"), 401),
        (post(CHUNKED, b"2\r\n{}\r\n", b"/posts"), 401),
        (post(b"Content-Length: 2000000\r\n", b" " * 100_000), 413),
    ],
    "the close is announced": [
        (post(CLOSE + TEN, b"{}", b"/posts"), 401),
        (chunked(b"zz\r\n"), 400),
        (get(fields=CLOSE), 200),
    ],
}


@pytest.mark.parametrize("name", QUIET)
async def test_connections_without_a_request_in_flight_do_not_delay_the_exit(
    start: Start, process_client: httpx.AsyncClient, database_url: str, name: str
) -> None:
    process = await serving(start, process_client, database_url)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in QUIET[name]]
        for client, steps in zip(clients, QUIET[name], strict=True):
            for step in steps:
                if isinstance(step, bytes):
                    await client.send(step)
                else:
                    assert (await client.read_response()).status == step
        process.terminate()
        log = await wait_for_clean_exit(process, within=3)

        assert [await client.read_until_close() for client in clients] == [[]] * len(clients)
    assert "Traceback" not in log
    assert " ERROR " not in log


@pytest.mark.long
async def test_incomplete_requests_delay_the_exit_by_a_bounded_time(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await serving(start, process_client, database_url)
    halves = [get()[:10], UNFINISHED, chunked(b"2\r\n{}\r\n"), get() + UNFINISHED]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in halves]
        for client, half in zip(clients, halves, strict=True):
            await client.send(half)
        assert (await clients[-1].read_response()).status == 200
        process.terminate()
        log = await wait_for_clean_exit(process, within=7)
        ends = [await client.read_until_close() for client in clients]

    assert "Traceback" not in log
    for end in ends:
        assert statuses(end) in ([], [408], [503])


@pytest.mark.long
async def test_the_idle_timeout_starts_when_response_and_body_are_complete(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url, KEEP_ALIVE_SECONDS="2")
    histories: dict[str, tuple[Step, ...]] = {
        "the body comes late": (EARLY, 401, 2.8, REST, 1.0, get(), 200),
        "the body trickles": (EARLY, 401, *(0.4, b" ") * 7, b" " + get(), 200),
        "the body and a request come late": (EARLY, 401, 2.8, REST + get(), 200),
        "chunks come late": (
            *(post(CHUNKED, b"2\r\n{}\r\n", b"/posts"), 401, 2.8, b"0\r\n", 0.5),
            *(b"\r\n", 0.5, get(), 200),
        ),
    }

    assert await play_all(str(process_client.base_url), histories) == {}


async def test_an_unread_body_has_to_arrive_in_time(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="60")
    started = time.monotonic()
    with Client(str(process_client.base_url)) as silent, Client(str(process_client.base_url)) as endless:
        await silent.send(EARLY)
        await endless.send(post(CHUNKED, b"2\r\n{}\r\n", b"/posts"))
        found = [[(await client.read_response()).status] for client in (silent, endless)]

        async def trickle() -> None:
            with suppress(ConnectionError):
                while True:
                    await endless.send(b"1\r\n \r\n")
                    await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        ends = [await silent.read_until_close(), await endless.read_until_close()]
        took = time.monotonic() - started
        trickling.cancel()

    assert (found, ends) == ([[401], [401]], [[], []])
    assert took < 8


async def test_an_idle_connection_is_closed_after_an_early_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url, KEEP_ALIVE_SECONDS="1")
    started = time.monotonic()
    with Client(str(process_client.base_url)) as client:
        assert await client.status_of(EARLY) == 401
        await client.send(REST)
        end = await client.read_until_close()

    assert end == []
    assert 1 <= time.monotonic() - started < 6


async def test_a_half_close_within_an_unread_body_closes_the_connection(address: str) -> None:
    with Client(address) as client:
        assert await client.status_of(EARLY) == 401
        client.half_close()

        assert await client.read_until_close() == []


# --- A request is executed if and only if it gets a response.

# Requests whose response announces that the connection is closed, and their statuses.
CLOSING: Final[dict[str, tuple[bytes, int]]] = {
    "the client asks for it": (get(fields=CLOSE), 200),
    "the client asks for it in a list": (get(fields=b"Connection: x, Close\r\n"), 200),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 200),
    "HTTP/1.0 with keep-alive": (b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", 200),
    "an upgrade": (get(fields=b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"), 200),
    "a body": (post(CLOSE + b"Content-Length: 2\r\n", b"{}"), 422),
    "chunks": (post(CLOSE + CHUNKED, b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"), 422),
    "an unread body": (post(CLOSE + b"Content-Length: 2\r\n", b"{}", b"/posts"), 401),
    "too large a body": (post(CLOSE + b"Content-Length: 2000000\r\n", b" " * 2_000_000), 413),
    "a malformed chunk": (chunked(b"zz\r\n"), 400),
    "two lengths": (post(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "a host that is not ASCII": (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "too large a head": (get(fields=b"X: " + b"y" * 100_000 + b"\r\n"), 431),
}


@pytest.mark.parametrize("name", CLOSING)
async def test_no_request_is_executed_after_a_response_that_announces_the_close(
    address: str, alice: Person, db: asyncpg.Connection, name: str
) -> None:
    (closing, status), after = CLOSING[name], publish(alice)
    ways: dict[str, tuple[bytes | None, ...]] = {  # None waits for the response
        "in one segment": (closing + after,),
        "with one more byte": (closing + after + b"G",),
        "with two more requests": (closing + after * 3,),
        "with half of another": (closing + after + after[:-5],),
        "in a segment of its own": (closing, after),
        "in two segments": (closing + after[:30], after[30:]),
        "after the response": (closing, None, after),
        "half of it after the response": (closing + after[:-5], None, after[-5:]),
    }
    for way, steps in ways.items():
        found = []
        with Client(address) as client:
            for step in steps:
                if step:
                    await client.send(step)
                else:
                    found.append(await client.read_response())
            found += await client.read_until_close()

        assert statuses(found) == [status], way
        assert_close_is_announced(found[-1])
    await alice.publish()  # earlier requests would be stored by now
    assert await count_posts(db) == 1


async def test_requests_before_the_announced_close_are_all_executed(
    address: str, alice: Person, db: asyncpg.Connection
) -> None:
    with Client(address) as client:
        await client.send(publish(alice) * 3 + publish(alice, CLOSE) + publish(alice) * 3)
        found = await client.read_until_close()

    assert statuses(found) == [201] * 4
    assert_close_is_announced(found[-1])
    assert await count_posts(db) == 4


@pytest.mark.parametrize("size", [2, 100_000])
async def test_a_connection_is_kept_after_an_early_response(
    address: str, alice: Person, db: asyncpg.Connection, size: int
) -> None:
    body = b"Content-Length: %d\r\n" % size
    with Client(address) as client:
        for _ in range(3):
            assert await client.status_of(post(body, b"", b"/posts")) == 401
            await client.send(b" " * (size - 1))
            await client.send(b" " + publish(alice))
            assert (await client.read_response()).status == 201
            assert await client.status_of(post(CHUNKED, b"", b"/posts")) == 401
            await client.send(b"%x;x=y\r\n" % size + b" " * size, b"\r\n0\r\nX: y\r\n", b"\r\n" + publish(alice))
            assert (await client.read_response()).status == 201
            assert await client.status_of(post(body, b"", b"/posts") + b" " * size + publish(alice)) == 401
            assert (await client.read_response()).status == 201

    assert await count_posts(db) == 9


async def test_all_of_5000_pipelined_requests_get_a_response(address: str) -> None:
    with Client(address) as client:
        _, found = await asyncio.gather(client.send(get() * 5000 + get(fields=CLOSE)), client.read_until_close())

    assert statuses(found) == [200] * 5001


async def test_a_flood_of_pipelined_requests_is_not_read_into_memory(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await serving(start, process_client, database_url)
    before = psutil.Process(process.pid).memory_info().rss
    request = get(fields=b"X: " + b"y" * 5000 + b"\r\n")
    count = 3000
    with Client(str(process_client.base_url)) as client:
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            await client.send(get(b"/posts"))
            await wait_for_blocked_session(db)
            sending = asyncio.create_task(client.send(request * count + get(fields=CLOSE)))
            await asyncio.wait([sending], timeout=1)
            held_back = not sending.done()
            grown = psutil.Process(process.pid).memory_info().rss - before
        _, found = await asyncio.gather(sending, client.read_until_close())

    assert held_back
    assert grown < 10 * KIB * KIB
    assert statuses(found) == [200] * (count + 2)


async def test_a_request_during_a_drain_is_executed_or_gets_no_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await serving(start, process_client, database_url, DRAIN_SECONDS="2")
    alice = await Person.register(process_client, "alice")
    kept = [await alice.publish() for _ in range(2)]
    deletes = [
        b"DELETE /posts/%d HTTP/1.1\r\nHost: x\r\n" % post["id"] + bearer(alice) + TEN + b"\r\n12345" for post in kept
    ]
    after = {
        "half a DELETE": deletes[0],
        "a DELETE in two segments": deletes[1],
        "a POST": publish(alice),
        "a POST and a byte": publish(alice) + b"G",
        "three POSTs": publish(alice) * 3,
    }
    with ExitStack() as stack:
        old = {name: stack.enter_context(Client(str(process_client.base_url))) for name in after}
        for client in old.values():
            assert await client.status_of(get()) == 200
        process.terminate()
        while (await process_client.get("/")).headers.get("connection") != "close":
            await asyncio.sleep(0.01)
        new = {name: stack.enter_context(Client(str(process_client.base_url))) for name in after}
        for clients in (old, new):
            for name, client in clients.items():
                if name == "a DELETE in two segments":
                    await client.send(get() + after[name][:-3], after[name][-3:])
                else:
                    await client.send(get() + after[name])
        found = {
            f"{name}, {age}": await client.read_until_close()
            for age, clients in (("old", old), ("new", new))
            for name, client in clients.items()
        }
    log = await read_output(process)

    assert {name: statuses(responses) for name, responses in found.items()} == {name: [200] for name in found}
    for [response] in found.values():
        assert_close_is_announced(response)
    assert [row["id"] for row in await db.fetch("select id from posts order by id")] == [post["id"] for post in kept]
    assert process.returncode == 0
    assert "Traceback" not in log


async def test_a_pipelined_request_at_the_stop_is_executed_or_gets_no_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await serving(start, process_client, database_url, DRAIN_SECONDS="1")
    alice = await Person.register(process_client, "alice")
    with Client(str(process_client.base_url)) as client:
        async with db.transaction():
            await db.execute("lock table posts in exclusive mode")
            await client.send(publish(alice) * 5)
            await wait_for_blocked_session(db)
            process.terminate()
            while (await process_client.get("/")).headers.get("connection") != "close":
                await asyncio.sleep(0.01)
        found = await client.read_until_close()
    await read_output(process)

    assert set(statuses(found)) == {201}
    assert_close_is_announced(found[-1])
    assert await count_posts(db) == len(found)


MALFORMED: Final = {
    "a size": b"zz\r\n",
    "a size after a chunk": b"2\r\n{}\r\nzz\r\n",
    "the end of a chunk": b"1\r\n{}\r\n0\r\n\r\n",
    "a trailer": b"2\r\n{}\r\n0\r\nX : y\r\n\r\n",
    "a name of a trailer": b"2\r\n{}\r\n0\r\n: y\r\n\r\n",
    "an extension": b"2;\x00\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [(b"/posts", CHUNKED, 401), (b"/posts", CHUNKED + EXPECT, 401), (b"/auth/register", CHUNKED + EXPECT, 100)],
    ids=["early", "early, to a client that expects 100", "the app reads the body"],
)
async def test_a_request_with_a_malformed_body_gets_one_response(
    address: str, target: bytes, fields: bytes, status: int
) -> None:
    head = post(fields, b"", target)
    for name, body in MALFORMED.items():
        with Client(address) as client:
            await client.send(head + body + get())
            at_once = [response for response in await client.read_until_close() if response.status != 100]
        with Client(address) as client:
            before = await client.status_of(head)
            await client.send(body + get())
            after = await client.read_until_close()

        assert statuses(at_once) in ([400], [401]), name
        assert_close_is_announced(at_once[-1])
        assert (before, statuses(after)) == (status, [] if status == 401 else [400]), name


# --- A trailer field is not a header field.

TRAILERS: Final = [
    b"Content-Type: text/plain",
    b"Content-Encoding: gzip",
    b"Host: other",
    b"Expect: 100-continue",
    b"Expect: nonsense",
    b"Authorization: Bearer nonsense",
]


async def register(client: Client, trailer: bytes, *, later: bool) -> Response:
    """Register with a chunked body and a trailer, at once or after 100 Continue."""
    account = json.dumps({"username": "alice", "email": "alice@example.com", "password": "correct horse"}).encode()
    body = b"%x\r\n" % len(account) + account + b"\r\n0\r\n" + trailer + b"\r\n\r\n"
    if later:
        assert await client.status_of(post(CHUNKED + EXPECT)) == 100
        await client.send(body)
    else:
        await client.send(chunked(body))
    return await client.read_response()


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("trailer", TRAILERS)
async def test_a_trailer_changes_nothing(address: str, db: asyncpg.Connection, trailer: bytes, *, later: bool) -> None:
    with Client(address) as client:
        response = await register(client, trailer, later=later)

        assert (response.status, response.headers.get("connection")) == (201, None), response.body
        assert await client.status_of(get()) == 200
    assert await db.fetchval("select count(*) from users") == 1


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_a_trailer_that_would_frame_a_message_is_malformed(
    address: str, db: asyncpg.Connection, *, later: bool
) -> None:
    for trailer in (
        b"Content-Length: 5",
        b"Content-Length: 99999999",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: Upgrade\r\nUpgrade: h2c",
    ):
        with Client(address) as client:
            response = await register(client, trailer, later=later)

            assert (response.status, await client.read_until_close()) == (400, []), trailer
        assert_close_is_announced(response)
    assert await db.fetchval("select count(*) from users") == 0


@pytest.mark.parametrize("method", [b"POST /posts", b"PATCH /posts/%d", b"DELETE /posts/%d", b"GET /users/me"])
async def test_a_trailer_authorizes_nothing(address: str, alice: Person, db: asyncpg.Connection, method: bytes) -> None:
    body = b"%x\r\n%s\r\n" % (len(POST), POST)
    kept = await alice.publish()
    line = method.replace(b"%d", b"%d" % kept["id"]) + b" HTTP/1.1\r\nHost: x\r\n"
    trailers = bearer(alice) + b"\r\n"
    with Client(address) as client:
        for own in (b"", b"Authorization: Bearer nonsense\r\n"):
            assert await client.status_of(line + own + CHUNKED + b"\r\n" + body + b"0\r\n" + trailers) == 401
            assert await client.status_of(line + own + CHUNKED + b"\r\n" + body + b"0\r\n") == 401
            await client.send(trailers)

    assert await count_posts(db) == 1
    assert await alice.read(kept["id"]) == kept


# --- A timeout counts only the time in which the client could act.


LARGE_PAGE: Final = """
insert into posts (title, content, user_id) select 'T', repeat('x', 600000), $1 from generate_series(1, 50)
"""


async def read_slowly(client: Client, seconds: int) -> None:
    """Read a page of 30 MB, at first 0.4 MB a second."""
    await client.send(get(b"/posts"))
    read = 0
    for _ in range(10 * seconds):
        read += len(await client.receive(40_000))
        await asyncio.sleep(0.1)
    while read < 30_000_000:
        more = len(await client.receive(KIB * KIB))
        assert more, f"closed after {read} bytes"
        read += more


@pytest.mark.long
async def test_a_slow_reader_is_not_disconnected_and_may_send_its_next_request_after_the_response(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await serving(start, process_client, database_url, KEEP_ALIVE_SECONDS="2", CLIENT_TIMEOUT_SECONDS="1")
    await db.execute(LARGE_PAGE, (await Person.register(process_client, "alice")).id)
    with Client(str(process_client.base_url), receive_buffer=64 * KIB) as client:
        await read_slowly(client, seconds=3)  # longer than both timeouts
        await asyncio.sleep(1.1)  # less than the keep-alive timeout
        await client.send(get())

        assert b"HTTP/1.1 200" in await client.receive()


async def test_a_body_that_the_app_has_not_read_yet_is_not_late(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1")
    alice = await Person.register(process_client, "alice")
    body = b'{"title": "New"' + b" " * 900_000 + b"}"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces_of(body, 50_000), b""])
    bodies = {b"Content-Length: %d\r\n" % len(body): body, CHUNKED: chunks}
    posts = [await alice.publish() for _ in bodies]
    heads = [
        b"PATCH /posts/%d HTTP/1.1\r\nHost: x\r\n" % post["id"] + bearer(alice) + fields + b"\r\n"
        for post, fields in zip(posts, bodies, strict=True)
    ]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in bodies]
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            # The app reads the owner of the post before the body, so it waits for the lock first.
            sending = [
                asyncio.create_task(client.send(head + sent))
                for client, head, sent in zip(clients, heads, bodies.values(), strict=True)
            ]
            await asyncio.sleep(1.7)  # longer than the timeout and the next check of the deadline
        await asyncio.gather(*sending)
        found = [((await client.read_response()).status, await client.status_of(get())) for client in clients]

    assert found == [(200, 200)] * 2
    assert [(await alice.read(post["id"]))["title"] for post in posts] == ["New"] * 2


async def test_a_pipelined_request_is_not_late_while_another_runs(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1")
    running = get(b"/posts")
    with ExitStack() as stack:
        whole, head, body, many = (stack.enter_context(Client(str(process_client.base_url))) for _ in range(4))
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            await whole.send(running + get())
            await head.send(running + get()[:10])
            await body.send(running + UNFINISHED)
            await many.send(running + get() * 1000 + UNFINISHED)
            await asyncio.sleep(1.7)
        found = [[(await client.read_response()).status] for client in (whole, head, body, many)]
        await head.send(get()[10:])
        await body.send(REST)
        await many.send(REST)
        for number, client in enumerate((whole, head, body, many)):
            await client.send(get(fields=CLOSE))
            found[number] += statuses(await client.read_until_close())

    assert found[:3] == [[200, 200, 200], [200, 200, 200], [200, 422, 200]]
    assert found[3] == [200] * 1001 + [422, 200]


async def test_a_late_client_gets_a_408_that_announces_the_close(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1")
    alice = await Person.register(process_client, "alice")
    late = {
        "a head": (get()[:10], [408]),
        "a body": (UNFINISHED, [408]),
        "a chunk": (chunked(b"2\r\n{"), [408]),
        "a trailer": (chunked(b"2\r\n{}\r\n0\r\nX: "), [408]),
        "a pipelined head": (get() + get()[:10], [200, 408]),
        "a pipelined body": (get() + UNFINISHED, [200, 408]),
        "a body after 100": (post(TEN + EXPECT), [100, 408]),
        "an unread body": (EARLY, [401]),
    }
    started = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in late]
        for client, (sent, _) in zip(clients, late.values(), strict=True):
            await client.send(sent)
        ends = [await client.read_until_close() for client in clients]
        took = time.monotonic() - started
        for client in clients:
            with suppress(ConnectionError):
                await client.send(REST + publish(alice))

    assert dict(zip(late, map(statuses, ends), strict=True)) == {name: wanted for name, (_, wanted) in late.items()}
    assert all(end[-1].headers.get("connection") == "close" for end in ends if end[-1].status == 408)
    assert 1 <= took < 8
    assert await count_posts(db) == 0


# What clients have sent before a wait, and after it.
BEFORE: Final = [b"", get()[:10], UNFINISHED, EARLY, b"\r\n", chunked(b"2\r\n")]
AFTER: Final = [get(), get()[10:], REST, REST + get(), get(), b"{}\r\n0\r\n\r\n"]
SERVED: Final = [200, 200, 422, 200, 200, 422]


@asynccontextmanager
async def half_way(address: str) -> AsyncIterator[list[Client]]:
    """Clients that have sent ``BEFORE``."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in BEFORE]
        for client in clients:
            assert await client.status_of(get()) == 200
        for client, sent in zip(clients, BEFORE, strict=True):
            await client.send(sent)
        await clients[BEFORE.index(EARLY)].read_response()
        yield clients


async def test_the_time_in_which_the_process_is_stopped_does_not_count(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    process = await serving(start, process_client, database_url, KEEP_ALIVE_SECONDS="1", CLIENT_TIMEOUT_SECONDS="1")
    async with half_way(str(process_client.base_url)) as clients:
        pause(process.pid)
        await asyncio.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)  # the process could act on a deadline
        for client, sent in zip(clients, AFTER, strict=True):
            await client.send(sent)
        found = [(await client.read_response()).status for client in clients]

    assert found == SERVED


async def test_data_that_has_arrived_before_the_deadline_is_not_late_although_the_process_was_busy(
    settings: Settings,
) -> None:
    app = create_app(msgspec.structs.replace(settings, keep_alive_seconds=1, client_timeout_seconds=1))
    earlier, sender = socket.socketpair()
    sender.send(b"x")

    def be_busy(clients: list[Client]) -> None:
        asyncio.get_running_loop().remove_reader(earlier)
        for client, sent in zip(clients, AFTER, strict=True):
            client.socket.send(sent)
        time.sleep(2 * TICK_SECONDS)

    with earlier, sender:
        async with running(app) as server, half_way(address_of(server)) as clients:
            state = server.server_state
            while min(connection.deadline for connection in state.connections) > state.ticks + 1:
                await asyncio.sleep(0.01)
            # It is busy with input that arrived earlier. The deadline has passed before the next input is read.
            asyncio.get_running_loop().add_reader(earlier, be_busy, clients)
            await asyncio.sleep(0)
            found = [(await client.read_response()).status for client in clients]

    assert found == SERVED


# --- No client causes a traceback or ends the process.

MISBEHAVIOR: Final[dict[str, bytes]] = {
    "a malformed chunk": chunked(b"zz\r\n"),
    "a malformed chunk with Expect": post(CHUNKED + EXPECT, b"zz\r\n"),
    "a malformed chunk with Expect, and an early response": post(CHUNKED + EXPECT, b"zz\r\n", b"/posts"),
    "too large a trailer with Expect": post(CHUNKED + EXPECT, b"0\r\nX: " + b"y" * 100_000),
    "a malformed chunk of an upgrade": post(UPGRADE + CHUNKED + EXPECT, b"zz\r\n"),
    "a body with Expect": post(TEN + EXPECT, b"{}"),
    "a pipelined request with Expect": get() + post(TEN + EXPECT),
    "a pipelined malformed chunk": get() + post(CHUNKED + EXPECT, b"zz\r\n"),
    "half a head": get()[:10],
    "half a body": UNFINISHED,
    "half an unread body": EARLY,
    "an announced close": get(fields=CLOSE) + get(),
    "a thousand requests": get() * 1000,
    "a large unread body": post(b"Content-Length: 8000000\r\n", b" " * 1_000_000, b"/posts"),
    "a large response": get(b"/posts"),
    "nonsense": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


async def test_no_misbehaving_client_causes_a_traceback(
    start: Start, process_client: httpx.AsyncClient, database_url: str, db: asyncpg.Connection
) -> None:
    process = await serving(start, process_client, database_url, CLIENT_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="1")
    address = str(process_client.base_url)
    alice = await Person.register(process_client, "alice")
    await db.execute(
        "insert into posts (title, content, user_id) select 'T', repeat('x', 400000), $1 from generate_series(1, 50)",
        alice.id,
    )

    async def misbehave(sent: bytes, end: str, *, wait: bool) -> None:
        with Client(address, receive_buffer=64 * KIB) as client, suppress(ConnectionError):
            await asyncio.wait_for(client.send(sent), 5)
            if wait:
                await asyncio.wait([asyncio.create_task(client.receive(1))], timeout=5)
            match end:
                case "half-closes":
                    client.half_close()
                    await client.receive()
                case "resets":
                    client.reset()
                case "half-closes and resets":
                    client.half_close()
                    client.reset()
                case "stays":
                    while await client.receive(KIB * KIB):
                        pass

    ends = ("half-closes", "resets", "half-closes and resets", "closes", "stays")
    await asyncio.gather(
        *(misbehave(sent, end, wait=wait) for sent in MISBEHAVIOR.values() for end in ends for wait in (False, True))
    )

    assert (await process_client.get("/")).status_code == 200
    process.terminate()
    log = await wait_for_clean_exit(process, within=7)
    assert "Traceback" not in log, log
    assert " ERROR " not in log, log


# --- The keep-alive timeout is a setting.


@pytest.mark.long
async def test_an_idle_connection_is_kept_for_longer_than_uvicorn_s_default(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url)
    pause = 5.8  # 5 s are the default of uvicorn
    histories: dict[str, tuple[Step, ...]] = {
        "after a response": (get(), 200, pause, get(), 200, get(), 200),
        "after an early response": (EARLY, 401, REST, pause, get(), 200),
        "after an error": (get(b"/nothing"), 404, pause, get(), 200),
        "after pipelined requests": (get() * 2, 200, 200, pause, get(), 200),
        "before the first request": (pause, get(), 200),
    }

    assert await play_all(str(process_client.base_url), histories) == {}


async def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(
    start: Start, process_client: httpx.AsyncClient, database_url: str
) -> None:
    await serving(start, process_client, database_url, KEEP_ALIVE_SECONDS="1")
    started = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(str(process_client.base_url))) for _ in range(4)]
        for client in clients:
            assert await client.status_of(get()) == 200
        await clients[0].send(b"\r\n")
        ends = [await client.read_until_close() for client in clients]

    assert ends == [[]] * 4
    assert 1 <= time.monotonic() - started < 4.5


@pytest.mark.parametrize("value", ["0", "none"])
async def test_an_invalid_keep_alive_timeout_is_reported_at_start(start: Start, database_url: str, value: str) -> None:
    process = await start("service", DATABASE_URL=database_url, KEEP_ALIVE_SECONDS=value)

    log = await read_output(process)

    assert process.returncode == 1
    assert "KEEP_ALIVE_SECONDS: must be " in log
