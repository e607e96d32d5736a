"""How the server writes to a connection, and how it ends one."""

import asyncio
from collections.abc import Callable
from typing import Any


class GatheredWrites:
    """A transport that hands over in one system call what is written to it in one turn of the event loop.

    uvicorn writes the head and the body of a response by themselves.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        drain: Callable[[], bool] = lambda: False,
    ) -> None:
        """``drain`` is called when the connection is to be closed: from now on it throws away what still comes.

        It says whether anything may.
        """
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self._lost = False
        self.drain: Callable[[], bool] | None = drain
        self.is_closing = transport.is_closing  # asked for with every response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Close the connection, at first only our half of it while the client still sends (RFC 9112, section 9.6).

        What a closed connection receives resets it, and with a reset the client may lose the answer.
        """
        self._flush()
        drain, self.drain = self.drain, None
        if drain and drain():
            self._transport.write_eof()
        else:
            self._transport.close()

    def lose(self) -> None:
        """Take no more: the connection has gone."""
        self._lost = True
        self.drain = None

    def _flush(self) -> None:
        if self._written and not self._lost:
            written, self._written = self._written, []
            self._transport.write(b"".join(written))
