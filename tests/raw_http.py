"""HTTP over raw sockets: requests as bytes, and responses taken apart."""

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

from msgspec import Struct

HOST: Final = b"Host: x\r\n"
LAST: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

_TIMEOUT: Final = 20  # seconds


class Answer(Struct):
    status: int
    headers: dict[str, str]
    body: bytes


def get(target: bytes = b"/", fields: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"", target: bytes = b"/auth/register") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def answers_in(received: bytes) -> list[Answer]:
    """Every response, none of which may be cut off."""
    found = []
    while received:
        answer, received = _first_of(received)
        assert answer, received
        found.append(answer)
    return found


def _first_of(received: bytes) -> tuple[Answer | None, bytes]:
    """The first response, unless it is not complete, and what follows it."""
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None, received
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        return None, received
    return Answer(int(line.split()[1]), headers, rest[:length]), rest[length:]


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.settimeout(0)
    return connection


async def receive(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = bytearray()
    async with asyncio.timeout(_TIMEOUT):
        while more := await asyncio.get_running_loop().sock_recv(connection, 1024 * 1024):
            received += more
    return bytes(received)


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
            async with asyncio.timeout(_TIMEOUT):
                await loop.sock_sendall(connection, sent)
        with suppress(ConnectionError):
            async with asyncio.timeout(_TIMEOUT):
                while more := await loop.sock_recv(connection, 65536):
                    received += more
                    if then:
                        with suppress(ConnectionError):
                            await loop.sock_sendall(connection, then)
                        then = b""
    return answers_in(received)


class Client:
    """One connection to the service. A reset is an error, unless the test expects it."""

    def __init__(self, address: str, receive_buffer: int = 0) -> None:
        """``receive_buffer`` bounds what the kernel takes of a response before the test reads it."""
        parts = urlsplit(address)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((parts.hostname, parts.port))
        self.socket.settimeout(0)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, *pieces: bytes) -> None:
        async with asyncio.timeout(_TIMEOUT):
            for piece in pieces:
                await asyncio.get_running_loop().sock_sendall(self.socket, piece)

    async def receive(self, size: int = 65536) -> bytes:
        """Up to ``size`` bytes; none once the server has closed."""
        async with asyncio.timeout(_TIMEOUT):
            return await asyncio.get_running_loop().sock_recv(self.socket, size)

    async def answer(self) -> Answer:
        """The next response."""
        received = bytearray(self._received)
        while True:
            found, self._received = _first_of(bytes(received))
            if found:
                return found
            more = await self.receive(1024 * 1024)
            assert more, f"closed after {bytes(received)!r}"
            received += more

    async def rest(self) -> list[Answer]:
        """Every response until the server closes the connection."""
        received, self._received = self._received, b""
        return answers_in(received + await receive(self.socket))

    async def ask(self, sent: bytes) -> int:
        """Send a request; the status of the next response."""
        await self.send(sent)
        return (await self.answer()).status

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def pieces_of(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def statuses(answers: Iterable[Answer]) -> list[int]:
    return [answer.status for answer in answers]
