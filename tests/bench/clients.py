"""Loads that wrk cannot make, each in a process of its own: reads at a steady rate, logins, and Argon2 alone."""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from random import randint
from statistics import quantiles
from typing import Any, Final, Self
from urllib.parse import urlencode

import msgspec
import uvloop
from msgspec import Struct

from tests.bench import database
from tests.bench.database import PASSWORD
from tests.bench.routes import POSTS

CONNECTIONS: Final = 64
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Latencies(Struct, frozen=True):
    """Percentiles in milliseconds, and the number of responses other than 200."""

    p50: float
    p99: float
    p999: float
    errors: int


class Connection(Struct):
    """A keep-alive connection, for one request at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def status_of(self, request: bytes) -> int:
        """Send a request and read the whole response."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length, head
        await self.reader.readexactly(int(length[1]))
        return int(head[9:12])


async def read(port: int, rate: int, seconds: int) -> Latencies:
    """Read random posts at a fixed rate, whether or not earlier requests have been answered (an open loop)."""
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await Connection.open(port))
    latencies: list[float] = []
    errors = 0

    async def read_one() -> None:
        nonlocal errors
        started_at = time.perf_counter()
        connection = await idle.get()
        post_id = randint(1, POSTS)  # noqa: S311 - not a secret
        status = await connection.status_of(b"GET /posts/%d HTTP/1.1\r\nhost: bench\r\n\r\n" % post_id)
        latencies.append(time.perf_counter() - started_at)
        errors += status != 200
        idle.put_nowait(connection)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as reads:
        for number in range(rate * seconds):
            await asyncio.sleep(start + number / rate - time.perf_counter())
            reads.create_task(read_one())
    percentiles = [1000 * seconds for seconds in quantiles(latencies, n=1000)]
    return Latencies(percentiles[499], percentiles[989], percentiles[998], errors)


async def log_in(port: int, clients: int, seconds: int) -> float:
    """Log in repeatedly. Returns logins per second."""
    end = time.perf_counter() + seconds

    async def client(number: int) -> int:
        body = urlencode({"username": f"user{number}", "password": PASSWORD})
        head = f"POST /auth/token HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}"
        request = f"{head}\r\ncontent-type: application/x-www-form-urlencoded\r\n\r\n{body}".encode()
        connection = await Connection.open(port)
        done = 0
        while time.perf_counter() < end:
            status = await connection.status_of(request)
            assert status == 200, status
            done += 1
        return done

    return sum(await asyncio.gather(*map(client, range(1, clients + 1)))) / seconds


async def verify(threads: int, seconds: int) -> float:
    """Verify a password repeatedly with argon2-cffi alone. Returns passwords per second."""
    hasher = database.hasher()
    stored = hasher.hash(PASSWORD)
    end = time.perf_counter() + seconds

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            hasher.verify(stored, PASSWORD)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads))) / seconds


TASKS: Final[dict[str, Callable[..., Coroutine[Any, Any, object]]]] = {"read": read, "log_in": log_in, "verify": verify}

if __name__ == "__main__":
    found = uvloop.run(TASKS[sys.argv[1]](*map(int, sys.argv[2:])))
    sys.stdout.write(msgspec.json.encode(found).decode())
