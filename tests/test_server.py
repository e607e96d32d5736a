"""How the server writes, and what it makes of hostile HTTP."""

import asyncio
import gc
import json
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
import uvicorn
from msgspec import Struct

from service import server
from service.protocol import Protocol, State
from service.transport import GatheredWrites
from tests.waiting import WAITERS


class Wire(asyncio.Transport):
    """Keeps what reaches the socket, one entry a system call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.calls: list[bytes | str] = []

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.calls

    def get_write_buffer_size(self) -> int:
        return 0


async def test_what_is_written_in_one_turn_is_one_call() -> None:
    wire = Wire()
    transport = GatheredWrites(wire, asyncio.get_running_loop())

    transport.write(b"head")
    transport.write(b"body")
    before = list(wire.calls)
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)

    assert before == []
    assert wire.calls == [b"headbody", b"next"]


async def test_nothing_is_lost_at_the_end() -> None:
    wire = Wire()
    transport = GatheredWrites(wire, asyncio.get_running_loop())

    transport.write(b"last words")
    transport.close()
    await asyncio.sleep(0)

    assert wire.calls == [b"last words", "closed"]
    assert transport.is_closing()


async def test_the_rest_is_the_transport_s_own() -> None:
    transport = GatheredWrites(Wire(), asyncio.get_running_loop())

    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)


def connected(app: Any) -> tuple[Protocol, Wire]:
    config = uvicorn.Config(app, log_config=None, **server.OPTIONS)
    protocol, wire = Protocol(config=config, server_state=State(), app_state={}), Wire()
    protocol.connection_made(wire)
    return protocol, wire


async def test_nothing_is_written_to_a_connection_that_has_gone() -> None:
    """Uvloop raises there: a client that resets its connection at the moment of the answer would make a traceback."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        protocol.connection_lost(ConnectionResetError())
        gone.set()

    gone = asyncio.Event()
    protocol, wire = connected(app)

    protocol.data_received(get())
    await gone.wait()
    await asyncio.sleep(0)

    assert wire.calls == []


@pytest.mark.parametrize("every", range(1, 10))
async def test_a_client_that_gets_on_is_not_taken_for_one_who_stands_still(every: int) -> None:
    """However often it is looked at: objects of different requests may stand at the same place in memory."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    protocol, wire = connected(app)
    for now in range(100):
        protocol.data_received(post(b"Content-Length: 2\r\n", b"{"))
        if now % every == 0:
            protocol.look_after(now, timeout=2 * every)
        protocol.data_received(b"}")
        async with asyncio.timeout(5):
            while len(wire.calls) == now:
                await asyncio.sleep(0)

    assert [call[:12] for call in wire.calls] == [b"HTTP/1.1 204"] * 100


class Answer(Struct):
    status: int
    headers: dict[str, str]
    body: bytes


def answers_in(received: bytes) -> list[Answer]:
    """Every response, none of which may be cut off."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        length = int(headers.get("content-length", "0"))
        body, received = received[:length], received[length:]
        assert len(body) == length
        found.append(Answer(int(line.split()[1]), headers, body))
    return found


async def exchange(address: str, sent: bytes, then: bytes = b"") -> list[Answer]:
    """Send something, and as soon as it is answered something more; all answers until the connection is closed."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(address)
    received = b""
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        # A server that has closed already may reset what still comes.
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                await loop.sock_sendall(connection, sent)
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                while more := await loop.sock_recv(connection, 65536):
                    received += more
                    if then:
                        with suppress(ConnectionError):
                            await loop.sock_sendall(connection, then)
                        then = b""
    return answers_in(received)


HOST = b"Host: x\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def get(target: bytes = b"/", fields: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"", target: bytes = b"/auth/register") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
SMUGGLED = get(b"/smuggled")

# What is sent, and the statuses of all answers; then another request follows: 200 where the connection stays usable.
HOSTILE: dict[str, tuple[bytes, list[int]]] = {
    "nothing wrong": (get(), [200, 200]),
    "length and chunked": (
        post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        [400],
    ),
    "chunked and length": (
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + SMUGGLED),
        [400],
    ),
    "two lengths": (post(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}" + SMUGGLED), [400]),
    "the same length twice": (post(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"), [400]),
    "a list of lengths": (post(b"Content-Length: 2, 2\r\n", b"{}"), [400]),
    "a negative length": (post(b"Content-Length: -2\r\n", b"{}"), [400]),
    "a signed length": (post(b"Content-Length: +2\r\n", b"{}"), [400]),
    "a hexadecimal length": (post(b"Content-Length: 0x2\r\n", b"{}"), [400]),
    "a length past 64 bits": (post(b"Content-Length: 99999999999999999999\r\n"), [400]),
    "an unknown coding": (post(b"Transfer-Encoding: gzip\r\n", b"{}"), [400]),
    "chunked not last": (post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), [400]),
    "almost chunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), [400]),
    "a space before the colon": (post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), [400]),
    "a chunk's size is no number": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), [400]),
    "a chunk's size is negative": (chunked(b"-1\r\n{}\r\n0\r\n\r\n"), [400]),
    "a chunk's size is past 64 bits": (chunked(b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), [400]),
    "a chunk is longer than its size": (chunked(b"1\r\n{}\r\n0\r\n\r\n"), [400]),
    "a chunk ends in a bare LF": (chunked(b"2\n{}\n0\n\n"), [400]),
    "10,000 trailers": (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"), [431]),
    "2,000 header fields": (get(fields=b"A: b\r\n" * 2000), [431]),
    "10,000 header fields": (get(fields=b"Name: value\r\n" * 10_000), [431]),
    "a header field of 100 KB": (get(fields=b"X: " + b"y" * 100_000 + b"\r\n"), [431]),
    "a header field of 40 KB": (get(fields=b"X: " + b"y" * 40_000 + b"\r\n"), [200, 200]),
    "a target of 100 KB": (get(b"/" + b"y" * 100_000), [431]),
    "an unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "a method in lower case": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "another protocol's method": (b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n", [405, 200]),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    "an absolute target": (get(b"http://other/posts"), [200, 200]),
    "an encoded way up": (get(b"/docs/%2e%2e/%2e%2e/etc/passwd"), [404, 200]),
    "an encoded NUL": (get(b"/posts/%00"), [404, 200]),
    "an encoded slash": (get(b"/posts%2F1"), [404, 200]),
    "a percent sign alone": (get(b"/posts/%zz"), [404, 200]),
    "not UTF-8": (get(b"/posts/%ff"), [404, 200]),
    "not ASCII": (get(b"/posts/\xff"), [400]),
    "a query that is not UTF-8": (get(b"/posts?limit=%ff"), [422, 200]),
    "a parameter twice": (get(b"/posts?limit=1&limit=2"), [200, 200]),
    "NUL in a field": (get(fields=b"X: a\x00b\r\n"), [400]),
    "a control character in a field's name": (get(fields=b"X\x01: y\r\n"), [400]),
    "a folded field": (get(fields=b"X: y\r\n z\r\n"), [400]),
    "a bare CR": (get(fields=b"X: y\rTransfer-Encoding: chunked\r\n"), [400]),
    "bare LFs": (b"GET / HTTP/1.1\nHost: x\n\n", [400]),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    "an upgrade to HTTP/2": (get(fields=UPGRADE) + SMUGGLED, [200, 404, 200]),
    "an upgrade to WebSocket": (get(fields=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), [200, 200]),
    "an upgrade with a body": (post(UPGRADE + b"Content-Length: 2\r\n", b"{}"), [422, 200]),
    "an upgrade with chunks": (post(UPGRADE + b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"), [422, 200]),
    "an upgrade, length and chunked": (
        post(UPGRADE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        [400],
    ),
    "100 upgrades": (get(fields=UPGRADE) * 100, [200] * 101),
    "an upgrade in a head of 40 KB": (get(fields=UPGRADE + b"X: " + b"y" * 40_000 + b"\r\n"), [200, 200]),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (get(fields=HOST), [400]),
    "an older client without a host": (b"GET / HTTP/1.0\r\n\r\n", [200]),
    "an older client that would wait": (
        b"POST /auth/register HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        [422],
    ),
    "a body with GET": (get(fields=b"Content-Length: 2\r\n") + b"{}", [200, 200]),
    "three at once": (get() * 3, [200, 200, 200, 200]),
    "a good one, then a bad one": (get() + b"nonsense\r\n\r\n", [200]),
    "a good one, then one with a bad body": (get() + chunked(b"zz\r\n{}\r\n0\r\n\r\n"), [200, 400]),
    "one after the last": (get(fields=b"Connection: close\r\n") + SMUGGLED, [200]),
    "empty lines first": (b"\r\n\r\n" + get(), [200, 200]),
    "a body that nobody asks for": (post(b"Content-Length: 2\r\n", b"{}", b"/posts"), [401, 200]),
    "a body over the limit": (post(b"Content-Length: 2000000\r\n", b" " * 2_000_000), [413, 200]),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_http_gets_the_one_body_and_nothing_is_smuggled(address: str, name: str) -> None:
    sent, statuses = HOSTILE[name]

    answers = await exchange(address, sent, then=LAST)

    assert [answer.status for answer in answers] == statuses
    for answer in answers:
        if answer.status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.body)["status"] == answer.status
    if statuses[-1] >= 400:
        assert answers[-1].headers["connection"] == "close"


async def test_a_client_that_asks_is_told_to_go_on(address: str) -> None:
    fields = b"Expect: 100-continue\r\nContent-Length: 2\r\n"

    answers = await exchange(address, post(fields), then=b"{}" + LAST)

    assert [answer.status for answer in answers] == [100, 422, 200]


EIGHT_MB = b" " * 8_000_000
LARGE = b"Connection: close\r\nContent-Length: 8000000\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(post(LARGE, EIGHT_MB, b"/posts"), 401), (post(LARGE, EIGHT_MB), 413), (chunked(b"zz\r\n" + EIGHT_MB), 400)],
    ids=["nobody asks for it", "too large", "not chunked"],
)
async def test_who_still_sends_when_the_answer_comes_is_not_reset(address: str, sent: bytes, status: int) -> None:
    loop, parts = asyncio.get_running_loop(), urlsplit(address)
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        await loop.sock_sendall(connection, sent)
        received = await loop.sock_recv(connection, 65536)
        end = await loop.sock_recv(connection, 65536)

    assert [answer.status for answer in answers_in(received)] == [status]
    assert end == b""


async def test_a_request_that_is_running_when_its_client_closes_one_half_is_answered(
    address: str, client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    loop, parts = asyncio.get_running_loop(), urlsplit(address)
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            await loop.sock_sendall(connection, get() + get(b"/posts"))
            while not await db.fetchval(WAITERS):
                await asyncio.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)
            await client.get("/health/live")  # the server, on the same event loop, has now seen the end of the stream
        received = b""
        async with asyncio.timeout(4):  # less than the keep-alive timeout
            while more := await loop.sock_recv(connection, 65536):
                received += more

    assert [answer.status for answer in answers_in(received)] == [200, 200]


async def test_a_connection_on_which_too_many_wait_ends_after_them(address: str) -> None:
    answers = await exchange(address, get() * 5000)

    assert {answer.status for answer in answers} == {200}
    assert 100 < len(answers) < 2000
    assert answers[-1].headers["connection"] == "close"


async def test_nothing_of_a_connection_waits_for_the_garbage_collector(address: str) -> None:
    gc.collect()
    gc.disable()
    try:
        for sent, _ in HOSTILE.values():
            await exchange(address, sent, then=LAST)
        async with asyncio.timeout(5):
            while any(isinstance(known, Protocol) for known in gc.get_objects()):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
