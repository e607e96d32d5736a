"""Hostile HTTP, early responses, half-closed connections and pipelines."""

import asyncio
import gc
import json
import socket
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from service.server.connection import Connection
from tests.raw_http import CLOSING_GET, HOST, Client, chunked, exchange, get, parse_responses, post
from tests.waiting import wait_for_blocked_session

UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
SMUGGLED = get(b"/smuggled")

# The bytes to send, and the statuses of all responses. The last 200 is for another request on the same connection.
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
    "10,000 trailers": (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"), [422, 200]),
    "20,000 trailers": (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), [431]),
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
    "an older client with Expect": (
        b"POST /auth/register HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        [422],
    ),
    "a body with GET": (get(fields=b"Content-Length: 2\r\n") + b"{}", [200, 200]),
    "three pipelined requests": (get() * 3, [200, 200, 200, 200]),
    "a valid request, then a malformed one": (get() + b"nonsense\r\n\r\n", [200, 400]),
    "a valid request, then a malformed body": (get() + chunked(b"zz\r\n{}\r\n0\r\n\r\n"), [200, 400]),
    "a request after an announced close": (get(fields=b"Connection: close\r\n") + SMUGGLED, [200]),
    "empty lines first": (b"\r\n\r\n" + get(), [200, 200]),
    "an unread body": (post(b"Content-Length: 2\r\n", b"{}", b"/posts"), [401, 200]),
    "a body over the limit": (post(b"Content-Length: 2000000\r\n", b" " * 2_000_000), [413, 200]),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_http_gets_a_problem_body_and_no_request_is_smuggled(address: str, name: str) -> None:
    sent, statuses = HOSTILE[name]

    responses = await exchange(address, sent, then=CLOSING_GET)

    assert [response.status for response in responses] == statuses
    for response in responses:
        if response.status >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert json.loads(response.body)["status"] == response.status
    if statuses[-1] >= 400:
        assert responses[-1].headers["connection"] == "close"


async def test_a_client_that_expects_100_continue_gets_it(address: str) -> None:
    fields = b"Expect: 100-continue\r\nContent-Length: 2\r\n"

    responses = await exchange(address, post(fields), then=b"{}" + CLOSING_GET)

    assert [response.status for response in responses] == [100, 422, 200]


EIGHT_MB = b" " * 8_000_000
LARGE = b"Connection: close\r\nContent-Length: 8000000\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(post(LARGE, EIGHT_MB, b"/posts"), 401), (post(LARGE, EIGHT_MB), 413), (chunked(b"zz\r\n" + EIGHT_MB), 400)],
    ids=["an unread body", "too large", "malformed"],
)
async def test_a_client_that_still_sends_when_the_response_comes_is_not_reset(
    address: str, sent: bytes, status: int
) -> None:
    loop, parts = asyncio.get_running_loop(), urlsplit(address)
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        await loop.sock_sendall(connection, sent)
        received = await loop.sock_recv(connection, 65536)
        end = await loop.sock_recv(connection, 65536)

    assert [response.status for response in parse_responses(received)] == [status]
    assert end == b""


async def test_a_request_in_flight_gets_its_response_after_a_half_close(
    address: str, client: httpx.AsyncClient, db: asyncpg.Connection
) -> None:
    loop, parts = asyncio.get_running_loop(), urlsplit(address)
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        async with db.transaction():
            await db.execute("lock table posts in access exclusive mode")
            await loop.sock_sendall(connection, get() + get(b"/posts"))
            await wait_for_blocked_session(db)
            connection.shutdown(socket.SHUT_WR)
            await client.get("/health/live")  # the server, on the same event loop, has now seen the end of the stream
        received = b""
        async with asyncio.timeout(4):  # less than the keep-alive timeout
            while more := await loop.sock_recv(connection, 65536):
                received += more

    assert [response.status for response in parse_responses(received)] == [200, 200]


async def test_a_malformed_head_behind_a_failed_request_has_its_own_error(address: str) -> None:
    refused = post(b"Content-Length: 5000\r\n", b" " * 5000, b"/posts")

    responses = await exchange(address, refused * 3 + b"GET / HTTP/1.1\r\n\r\n")

    assert [response.status for response in responses] == [401, 401, 401, 400]
    assert json.loads(responses[-1].body)["code"] == "host_missing"


async def test_a_failed_check_of_a_deadline_aborts_only_its_connection(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with Client(address) as broken, Client(address) as other:
        assert (await broken.status_of(get()), await other.status_of(get())) == (200, 200)
        port = broken.socket.getsockname()[1]
        for known in gc.get_objects():
            if isinstance(known, Connection) and known.client and known.client[1] == port:
                known.check_deadline = fail  # type: ignore[method-assign]
                known.deadline = 0
        end = await broken.receive()
        still = await other.status_of(get())

    assert (end, still) == (b"", 200)
    assert "its deadline could not be checked" in caplog.text


async def test_connections_are_freed_without_the_garbage_collector(address: str) -> None:
    gc.collect()
    gc.disable()
    try:
        for sent, _ in HOSTILE.values():
            await exchange(address, sent, then=CLOSING_GET)
        async with asyncio.timeout(5):
            while any(isinstance(known, Connection) for known in gc.get_objects()):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
