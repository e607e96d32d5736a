"""HTTP as this service speaks it: uvicorn's protocol, with bounds on what a client may send, leave out or not take."""

import asyncio
import sys
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Overloaded, Stopping
from service.problems import MEDIA_TYPE, Problem, describe, describe_status

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 1000  # headers and trailers
MAX_PIPELINED: Final = 128  # requests that may wait behind another of the same connection

# Seconds that a refusal takes its time: clients that ask again at once would keep us from those whom we serve.
_DETERRENT: Final = 0.25

# What is parsed between two looks at these bounds.
_PIECE: Final = 16 * 1024


class State(ServerState):
    """What the connections of a process share."""

    # How many requests may be under way. Those that wait for their clients do not count: see Protocol.look_after.
    room = sys.maxsize
    # How many requests wait for their refusal; these do not count either.
    refusing = 0


class GatheredWrites:
    """A transport that hands over in one system call what is written to it in one turn of the event loop.

    uvicorn writes the head and the body of a response by themselves.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self.is_closing = transport.is_closing  # asked for with every response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.write(b"".join(written))


_REFUSAL: Final = msgspec.json.encode(describe(Overloaded))
_REFUSAL_HEADERS: Final = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"content-length", b"%d" % len(_REFUSAL)),
    *((name.lower().encode(), value.encode()) for name, value in Overloaded.headers.items()),
]


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for ever for a head, a body, or a reader."""

    server_state: State
    cycle: RequestResponseCycle | None  # type: ignore[assignment]
    scope: Any

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._served = self.app
        self._deaf = False  # nothing more is read: the connection ends
        self._awaited: object = None  # what the client had still to do when it was last looked after
        self._awaited_since = 0.0
        self._head: object = None  # the scope of the head that comes in pieces
        self._head_bytes = 0
        self._idle_since = 0.0  # by the loop's clock; zero while a request is under way or has begun to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._upgrading = self.parser.should_upgrade
        super().connection_made(GatheredWrites(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # What refers to this protocol and is referred to by it would wait for the garbage collector: tens of kilobytes
        # for each client that has gone.
        del self._upgrading
        self.cycle = None
        self.pipeline.clear()
        self.app = self._served

    def data_received(self, data: bytes) -> None:
        if self._deaf or len(data) > _PIECE:
            self._receive_in_pieces(data)
            return
        self._idle_since = 0.0
        state = self.server_state
        self.app = self._served if len(self.tasks) < state.room + state.refusing else self._serve_health
        HttpToolsProtocol.data_received(self, data)
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.scope is not self.scope or self.pipeline or self._upgrading():
            self._check(len(data))

    def _receive_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self._deaf:
                break
            self.data_received(data[start : start + _PIECE])

    def _check(self, more: int) -> None:
        """Look at what is more, or less, than one request."""
        if self.cycle is None or self.cycle.scope is not self.scope:
            self._bound_head(more)
        elif len(self.headers) > MAX_FIELDS:
            self.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many header fields")
        elif self._upgrading():  # which we do not, but the parser takes what follows for no HTTP
            self._deaf = True
            self.cycle.keep_alive = False
        if len(self.pipeline) > MAX_PIPELINED:
            self.fail(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests at once")

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        # uvicorn arms a timer after every response, and disarms it with the next request; that cost a twentieth of what
        # a read does. Who stays idle is ended by look_after.
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self.cycle and self.cycle.scope is self.scope:  # nothing of the next request has come
            self._idle_since = self.loop.time()

    async def _serve_health(self, scope: Any, receive: Any, send: Any) -> None:
        """The app while there is no room for more."""
        if scope["path"].startswith("/health/"):
            await self._served(scope, receive, send)
            return
        self.server_state.refusing += 1
        try:
            await asyncio.sleep(_DETERRENT)
        finally:
            self.server_state.refusing -= 1
        await send({"type": "http.response.start", "status": Overloaded.status, "headers": _REFUSAL_HEADERS})
        await send({"type": "http.response.body", "body": _REFUSAL})

    def _bound_head(self, more: int) -> None:
        """Count what came of a head that is not complete yet."""
        self._head_bytes = more + (self._head_bytes if self._head is self.scope else 0)
        self._head = self.scope
        if self._head_bytes > MAX_HEAD_BYTES:
            self.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is over 64 KiB")

    def look_after(self, now: float, timeout: float) -> bool:
        """End a client that has kept us waiting for more than ``timeout`` seconds, or stays idle between two requests.

        Called about once a second, with the loop's time. Says whether a request is under way that waits for its client,
        not for us.
        """
        unsent = self.transport.get_write_buffer_size()
        if self._idle_since and not unsent:
            self._awaited = None
            if now - self._idle_since > self.timeout_keep_alive:
                self.transport.close()
            return False
        cycle = self.cycle if self.cycle and self.cycle.scope is self.scope else None
        running = cycle is not None and not cycle.response_complete
        if cycle and running and not cycle.more_body and not unsent:
            self._awaited = None
            return False
        # A body has to be complete in time, but of a response it is enough to go on taking it.
        awaited = (id(self.scope), unsent // MAX_HEAD_BYTES)
        if awaited != self._awaited:
            self._awaited, self._awaited_since = awaited, now
        elif now - self._awaited_since > timeout:
            if unsent:
                self.transport.abort()
            elif self.scope and (running or not cycle):
                self.fail(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time")
            else:
                self.transport.close()
        return running

    def send_400_response(self, msg: str) -> None:
        self.fail(HTTPStatus.BAD_REQUEST, msg)

    def fail(self, status: HTTPStatus, detail: str) -> None:
        """Read no more, answer what is no request or becomes none, and close."""
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not (cycle.scope is self.scope and cycle.more_body):
            cycle.keep_alive = False  # the one before is still to be answered, and that is the end
            return
        if cycle is None or cycle.scope is not self.scope or not cycle.response_started:
            self._write(describe_status(status, detail))
        self.transport.close()

    def give_up(self) -> None:
        """Answer what has taken too long for a process that stops, before uvicorn makes a 500 of it."""
        self._deaf = True
        if self.cycle and not self.cycle.response_started:
            self._write(describe(Stopping), Stopping.headers)
        self.transport.close()

    def _write(self, problem: Problem, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = msgspec.json.encode(problem)
        fields = {"content-type": MEDIA_TYPE, "content-length": len(body), "connection": "close", **headers}
        lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in fields.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
