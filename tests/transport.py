"""A transport for httpx, for the thousands of requests of the tests.

httpx's own takes longer than the service for a request, and still longer when many requests are in flight.
``test_real_clients.py`` uses that one and those of other clients.
"""

import asyncio
from typing import cast

import httpx
from httptools import HttpParserError, HttpResponseParser


class Connection(asyncio.Protocol):
    """A connection for one request at a time."""

    transport: asyncio.Transport
    _response: asyncio.Future[httpx.Response] | None = None

    async def send(self, request: httpx.Request) -> httpx.Response:
        self._is_head = request.method == "HEAD"
        self._is_complete = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._parser = HttpResponseParser(self)
        self._response = asyncio.get_running_loop().create_future()
        fields = b"".join(b"%b: %b\r\n" % field for field in request.headers.raw)
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode(), request.url.raw_path, fields)
        if "transfer-encoding" in request.headers:
            self.transport.write(head)
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for piece in request.stream:
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.transport.write(b"0\r\n\r\n")
        else:
            self.transport.write(head + await request.aread())
        return await self._response

    def is_reusable(self) -> bool:
        return self._keep_alive and not self.transport.is_closing()

    # asyncio calls these methods.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._response or self._response.done():
            self.transport.abort()  # nothing was requested
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:  # also if more than the response has arrived
            self._fail(str(error))
        else:
            if self._is_complete:
                self._response.set_result(
                    httpx.Response(
                        self._parser.get_status_code(),
                        headers=self._headers,
                        stream=httpx.ByteStream(bytes(self._body)),
                        extensions={"http_version": b"HTTP/1.1", "network_stream": self},
                    )
                )

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed before the end of the response: {exc}")

    def _fail(self, reason: str) -> None:
        self.transport.abort()
        if self._response and not self._response.done():
            self._response.set_exception(httpx.RemoteProtocolError(reason))

    # The parser calls these methods.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        if self._is_head:  # the parser does not know it, and expects a body
            self._is_complete = True

    def on_body(self, body: bytes) -> None:
        if self._is_head:
            self._fail("a response to HEAD has a body")
        self._body += body

    def on_message_complete(self) -> None:
        self._is_complete = self._parser.get_status_code() >= 200
        if not self._is_complete:  # an interim response
            self._headers.clear()


class Transport(httpx.AsyncBaseTransport):
    """Keeps connections to one server, as many as there are requests in flight."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = await self._connection(request)
        try:
            async with asyncio.timeout(30):
                response = await connection.send(request)
        except BaseException:
            connection.transport.abort()
            raise
        if connection.is_reusable():
            self._idle.append(connection)
        else:
            connection.transport.abort()
        return response

    async def _connection(self, request: httpx.Request) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable():
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, request.url.host, request.url.port or 80)
        return connection

    async def aclose(self) -> None:
        for connection in self._idle:
            connection.transport.abort()
