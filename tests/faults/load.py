"""A steady mixed load. It records every response, and counts lost and doubled writes."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from random import randint
from typing import Final
from urllib.parse import urlencode

import asyncpg
from msgspec import Struct

from tests.bench.clients import LENGTH, Connection
from tests.bench.database import PASSWORD
from tests.bench.servers import token_of

RATE: Final = 250  # requests a second
USERS: Final = 50
POSTS: Final = 20_000

# Seconds. The longest a request may take with the default DATABASE_TIMEOUT_SECONDS: the wait for a connection and for a
# statement, twice if it is queued behind another batch.
TIMEOUT: Final = 20

# Seconds. A connection that has been idle for longer is not used again, because the service may be closing it.
MAX_IDLE: Final = 4

GOOD: Final = frozenset({"200", "201"})


class Response(Struct):
    """A response. ``kind`` and ``number`` identify the request; times in seconds."""

    kind: str
    number: int
    begun: float
    ended: float
    status: str


class Load:
    """Sends requests at a fixed rate, whether or not earlier ones have been answered (an open loop)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[Connection, float]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.responses: list[Response] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send requests until the end of the block, then wait for all responses or their timeouts."""
        sending = asyncio.create_task(self._send())
        try:
            yield
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            await asyncio.gather(*self._running)
            for connection, _ in self._idle:
                connection.writer.close()

    async def _send(self) -> None:
        begun = time.perf_counter()
        for number, (kind, request) in enumerate(_requests(), 1):
            await asyncio.sleep(begun + number / RATE - time.perf_counter())
            task = asyncio.create_task(self._send_one(kind, number, request))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _send_one(self, kind: str, number: int, request: bytes) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT):
                status = await self._status_of(request)
        except TimeoutError:
            status = "hung"
        except (OSError, asyncio.IncompleteReadError):
            status = "lost"
        self.responses.append(Response(kind, number, begun, time.perf_counter(), status))

    async def _status_of(self, request: bytes) -> str:
        connection = self._reusable_connection() or await Connection.open(self._port)
        try:
            connection.writer.write(request)
            head = await connection.reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            await connection.reader.readexactly(int(length[1]) if length else 0)
        except BaseException:
            connection.writer.close()
            raise
        self._idle.append((connection, time.perf_counter()))
        status = head[9:12].decode()
        return status if status != "503" or b"\r\nretry-after: " in head.lower() else "503 without Retry-After"

    def _reusable_connection(self) -> Connection | None:
        """An idle connection that the service is certainly not about to close."""
        while self._idle:
            connection, idle_since = self._idle.pop()
            if time.perf_counter() - idle_since < MAX_IDLE:
                return connection
            connection.writer.close()
        return None


def _requests() -> Iterator[tuple[str, bytes]]:
    """Of ten requests, two create a post, two update a post of their own, one logs in and five read."""
    tokens = [f"authorization: Bearer {token_of(user)}" for user in range(1, USERS + 1)]
    for number in count(1):
        post, user = randint(1, POSTS), randint(1, USERS)  # noqa: S311 - not a secret
        token = tokens[user - 1]
        match number % 10:
            case 0 | 1:
                yield "POST", _request("POST /posts", token, body=f'{{"title": "post {number}", "content": "C"}}')
            case 2 | 3:
                owner = tokens[(number - 1) % USERS]
                yield "PATCH", _request(f"PATCH /posts/{number}", owner, body=f'{{"title": "patched {number}"}}')
            case 4:
                form = urlencode({"username": f"user{user}", "password": PASSWORD})
                yield "login", _request("POST /auth/token", body=form, content_type="application/x-www-form-urlencoded")
            case 5 | 6:
                yield "read", _request(f"GET /posts/{post}")
            case 7:
                yield "read", _request(f"GET /posts?after={post}&limit=10")
            case 8:
                yield "read", _request(f"GET /users/{user}")
            case _:
                yield "read", _request("GET /users/me", token)


def _request(line: str, *headers: str, body: str = "", content_type: str = "application/json") -> bytes:
    if body:
        headers = (*headers, f"content-type: {content_type}", f"content-length: {len(body)}")
    return "\r\n".join([f"{line} HTTP/1.1", "host: faults", *headers, "", body]).encode()


class WriteCounts(Struct):
    """How many writes were acknowledged, how many of those are missing, and how many of all are stored twice."""

    acknowledged: int
    lost: int
    doubled: int


async def count_writes(url: str, responses: list[Response]) -> WriteCounts:
    connection = await asyncpg.connect(url)
    posts = Counter(row["title"] for row in await connection.fetch("select title from posts where id > $1", POSTS))
    patched = await connection.fetch("select id from posts where title = 'patched ' || id")
    await connection.close()
    there = {"POST": set(posts), "PATCH": {f"patched {row['id']}" for row in patched}}
    name = {"POST": "post", "PATCH": "patched"}
    acknowledged = [response for response in responses if response.kind in name and response.status in GOOD]
    lost = [
        response for response in acknowledged if f"{name[response.kind]} {response.number}" not in there[response.kind]
    ]
    return WriteCounts(len(acknowledged), len(lost), sum(times > 1 for times in posts.values()))
