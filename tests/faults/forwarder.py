"""A TCP forwarder in front of PostgreSQL, which can lead to another server and drop connections silently."""

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Link:
    """A forwarded connection. Once it is dropped, no byte gets through, and neither side learns of it."""

    def __init__(self) -> None:
        self.dropped = False
        self.active_at = time.monotonic()

    async def copy(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.dropped:
                    self.active_at = time.monotonic()
                    writer.write(data)
                    await writer.drain()
        if not self.dropped:
            writer.close()


class Forwarder:
    def __init__(self, url: str) -> None:
        """``url`` is the server that new connections lead to; it may be changed."""
        self.url = url
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._start, "127.0.0.1", 0)
        self._port: int = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def address_of(self, url: str) -> str:
        """The same URL, but through the forwarder."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{self._port}"))

    def drop(self, idle_for: float = 0) -> int:
        """Drop the connections that have been idle for so many seconds, and return their number."""
        dropped = [link for link in self._links if not link.dropped and time.monotonic() - link.active_at >= idle_for]
        for link in dropped:
            link.dropped = True
        return len(dropped)

    def _start(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: StreamReader, writer: StreamWriter) -> None:
        link = Link()
        server = urlsplit(self.url)
        try:
            server_reader, server_writer = await asyncio.open_connection(server.hostname, server.port)
        except OSError:
            writer.close()
            return
        self._links.add(link)
        try:
            await asyncio.gather(link.copy(reader, server_writer), link.copy(server_reader, writer))
        finally:
            self._links.discard(link)
            writer.close()
            server_writer.close()
