"""HTTP over raw sockets: requests as bytes, and a parser for responses."""

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

from msgspec import Struct

HOST: Final = b"Host: x\r\n"
CLOSING_GET: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

_TIMEOUT: Final = 20  # seconds


class Response(Struct):
    status: int
    headers: dict[str, str]
    body: bytes


def get(target: bytes = b"/", fields: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"", target: bytes = b"/auth/register") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def parse_responses(received: bytes) -> list[Response]:
    """Parse responses. The last one must be complete, too."""
    responses = []
    while received:
        response, received = _parse_first(received)
        assert response, received
        responses.append(response)
    return responses


def _parse_first(received: bytes) -> tuple[Response | None, bytes]:
    """The first response, or ``None`` if it is incomplete, and the bytes that follow it."""
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None, received
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        return None, received
    return Response(int(line.split()[1]), headers, rest[:length]), rest[length:]


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    connection.settimeout(0)
    return connection


async def receive(connection: socket.socket) -> bytes:
    """Everything that arrives until the server closes the connection."""
    received = bytearray()
    async with asyncio.timeout(_TIMEOUT):
        while more := await asyncio.get_running_loop().sock_recv(connection, 1024 * 1024):
            received += more
    return bytes(received)


async def exchange(address: str, sent: bytes, then: bytes = b"") -> list[Response]:
    """Send a request, and ``then`` after the first bytes of a response; returns the responses until the close."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(address)
    received = b""
    with socket.socket() as connection:
        connection.settimeout(0)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        # A server that has closed the connection may reset it when more data arrives.
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
    return parse_responses(received)


class Client:
    """One connection to the service. A reset raises ``ConnectionError``."""

    def __init__(self, address: str, receive_buffer: int = 0) -> None:
        """``receive_buffer`` bounds the bytes of a response that the kernel takes before the test reads them."""
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
        """Up to ``size`` bytes, or none after the server has closed the connection."""
        async with asyncio.timeout(_TIMEOUT):
            return await asyncio.get_running_loop().sock_recv(self.socket, size)

    async def read_response(self) -> Response:
        """The next response."""
        received = bytearray(self._received)
        while True:
            response, self._received = _parse_first(bytes(received))
            if response:
                return response
            more = await self.receive(1024 * 1024)
            assert more, f"closed after {bytes(received)!r}"
            received += more

    async def read_until_close(self) -> list[Response]:
        """Every response until the server closes the connection."""
        received, self._received = self._received, b""
        return parse_responses(received + await receive(self.socket))

    async def status_of(self, sent: bytes) -> int:
        """Send a request, and return the status of the next response."""
        await self.send(sent)
        return (await self.read_response()).status

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def pieces_of(data: bytes, size: int) -> Iterable[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def statuses(responses: Iterable[Response]) -> list[int]:
    return [response.status for response in responses]
