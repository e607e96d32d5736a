"""Faults of clients, one function each. It returns when the clients have disconnected."""

import asyncio
import resource
from collections import Counter
from contextlib import suppress
from typing import Final

from tests.bench import processes
from tests.bench.clients import Connection
from tests.faults.database import Fault, Target

SECONDS: Final = 5
IDLE: Final = 10_000
SLOW: Final = 400
GUESSES: Final = 1000
LOGIN_FAILURES: Final = 10  # the default of LOGIN_FAILURES_PER_ACCOUNT


async def overloaded(target: Target) -> None:
    """Twice as many connections as the service accepts requests, each sending its next request at once."""
    address = f"http://127.0.0.1:{target.port}/posts/1"
    command = [processes.find("wrk"), "-t1", "-c2048", f"-d{SECONDS}s", "--timeout=10s", address]
    await asyncio.to_thread(processes.output, command, seconds=30)


async def slow_clients(target: Target) -> None:
    """Ten thousand idle connections, and 400 with a body that never ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for number in range(IDLE + SLOW):
        connection = await Connection.open(target.port)
        if number >= IDLE:
            connection.writer.write(
                b"POST /auth/token HTTP/1.1\r\nhost: faults\r\ncontent-length: 100\r\n\r\nusername="
            )
        held.append(connection)
    await asyncio.sleep(SECONDS)
    for connection in held:
        connection.writer.close()
        with suppress(OSError):
            await connection.writer.wait_closed()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def guesses(target: Target) -> None:
    """Guesses from another address than the load's, or its logins would be refused as well."""
    form = b"username=somebody&password=%05d"
    head = b"POST /auth/token HTTP/1.1\r\nhost: faults\r\ncontent-type: application/x-www-form-urlencoded\r\n"

    connections = asyncio.Semaphore(GUESSES // 4)  # fewer than MAX_REQUESTS, beyond which everybody gets a 503

    async def guess(number: int) -> str:
        async with connections:
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port, local_addr=("127.0.0.2", 0))
            body = form % number
            writer.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
            status = (await reader.readuntil(b"\r\n\r\n"))[9:12].decode()
            writer.close()
        return status

    statuses = Counter(await asyncio.gather(*(guess(number) for number in range(GUESSES))))
    assert statuses["401"] <= 2 * LOGIN_FAILURES, statuses  # about ten hashes
    assert statuses["401"] + statuses["429"] + statuses["503"] == GUESSES, statuses


FAULTS: Final = (
    Fault("guesses", "1,000 wrong passwords at one account", guesses),
    Fault("overloaded", "2,048 connections that send requests without pause", overloaded),
    Fault("slow_clients", "10,000 idle connections, 400 endless bodies", slow_clients),
)
