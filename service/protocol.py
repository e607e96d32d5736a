"""HTTP as this service speaks it: uvicorn's protocol, with bounds on what a client may send, leave out or not take."""

import asyncio
import sys
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import httptools
import msgspec
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.errors import Overloaded, Stopping
from service.http.problems import MEDIA_TYPE, Problem, describe, describe_status
from service.http.requests import READS_BODY
from service.http.responses import head_of, send_whole
from service.transport import GatheredWrites

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


class Refused(Exception):
    """A head of a request that is not served."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def saying(problem: Problem, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    """An app that answers everything with a problem."""
    head, body = head_of(MEDIA_TYPE, headers), msgspec.json.encode(problem)

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_whole(send, problem.status, head, body)

    return answer


_say_overloaded: Final = saying(describe(Overloaded), Overloaded.headers)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for ever for a head, a body, or a reader."""

    server_state: State
    transport: GatheredWrites  # type: ignore[assignment]
    cycle: RequestResponseCycle | None  # type: ignore[assignment]
    scope: Any

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._served = self.app
        self._deaf = False  # nothing more is read: the connection ends
        # What the client had still to do when it was last looked after: the scope of its request, and the size of what
        # it had not taken of our responses.
        self._awaited: tuple[object, int] = (None, 0)
        self._awaited_since = 0.0
        self._head: object = None  # the scope of the head that comes in pieces
        self._head_bytes = 0
        self._idle_since = 0.0  # by the loop's clock; zero while a request is under way or has begun to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(GatheredWrites(transport, self.loop, self._drain))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.transport.lose()
        # What refers to this protocol and is referred to by it would wait for the garbage collector: tens of kilobytes
        # for each client that has gone.
        self.cycle = None
        self.pipeline.clear()
        self.app = self._served

    def eof_received(self) -> bool:  # type: ignore[override]
        """Still answer a client that closes its half of the connection after its last request."""
        self.transport.drain = None
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            self.transport.close()  # what is gathered is still to be written
            return False
        self._deaf = True
        self.cycle.keep_alive = False
        return True

    def _drain(self) -> bool:
        """Throw away what the client still sends, for as long as an idle connection is kept.

        Says whether it may send any.
        """
        if not self._deaf and not self._incomplete():
            return False
        self._deaf = True
        self._idle_since = self.loop.time()
        self.flow.resume_reading()
        return True

    def _incomplete(self) -> bool:
        """Whether the body of a request is still to come."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        if self._deaf or len(data) > _PIECE:
            self._receive_in_pieces(data)
            return
        self._idle_since = 0.0
        state = self.server_state
        self.app = self._served if len(self.tasks) < state.room + state.refusing else self._serve_health
        self._parse(data)
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.scope is not self.scope or self.pipeline:
            self._check(len(data))

    def _receive_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self._deaf:
                break
            self.data_received(data[start : start + _PIECE])

    def _parse(self, data: bytes) -> None:
        unparsed: bytes | None = data
        while unparsed is not None:
            piece, unparsed = unparsed, None
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                unparsed = self._without_upgrade(piece[upgrade.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse(error.__context__)

    def _refuse(self, error: BaseException | None) -> None:
        # By itself: a variable that holds the error in a frame of its traceback would wait for the garbage collector.
        if isinstance(error, Refused):
            self.fail(error.status, error.detail)
        else:
            self.fail(HTTPStatus.BAD_REQUEST, "This is no request of HTTP/1.1")

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Take a request for what it is without its ``Upgrade``, which we ignore (RFC 9110, section 7.8).

        The parser takes for something else than HTTP what follows such a head, also the body.
        """
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join([line, *fields, b"", rest])

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused(HTTPStatus.BAD_REQUEST, "This is no proxy")
            return
        if len(self.headers) > MAX_FIELDS:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many header fields")
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise Refused(HTTPStatus.BAD_REQUEST, "A request has one Host header")  # RFC 9112, section 3.2
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _check(self, more: int) -> None:
        """Look at what is more, or less, than one request."""
        if self.cycle is None or self.cycle.scope is not self.scope:
            self._bound_head(more)
        elif len(self.headers) > MAX_FIELDS:  # with those that came after the body
            self.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many header fields")
        if len(self.pipeline) > MAX_PIPELINED:
            self.fail(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests at once")

    def _bound_head(self, more: int) -> None:
        """Count what came of a head that is not complete yet."""
        self._head_bytes = more + (self._head_bytes if self._head is self.scope else 0)
        self._head = self.scope
        if self._head_bytes > MAX_HEAD_BYTES:
            self.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is over 64 KiB")

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
        await _say_overloaded(scope, receive, send)

    def look_after(self, now: float, timeout: float) -> bool:
        """End a client that has kept us waiting for more than ``timeout`` seconds, or stays idle between two requests.

        Called about once a second, with the loop's time. Says whether a request is under way that waits for its client,
        not for us.
        """
        unsent = self.transport.get_write_buffer_size()
        if self._idle_since and not unsent:
            self._awaited = (None, 0)
            if now - self._idle_since > self.timeout_keep_alive:
                self.transport.close()
            return False
        cycle = self.cycle if self.cycle and self.cycle.scope is self.scope else None
        running = cycle is not None and not cycle.response_complete
        if not unsent and (self.pipeline or (cycle and running and not cycle.more_body)):
            self._awaited = (None, 0)
            return False
        # A body has to be complete in time, but of a response it is enough to go on taking it.
        scope, size = self._awaited
        if scope is not self.scope or size != unsent // MAX_HEAD_BYTES:
            self._awaited, self._awaited_since = (self.scope, unsent // MAX_HEAD_BYTES), now
        elif now - self._awaited_since > timeout:
            if unsent:
                self.transport.abort()
            elif self.scope and (running or not cycle):
                self.fail(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time")
            else:
                self.transport.close()
        return running and READS_BODY in self.scope["state"]

    def fail(self, status: HTTPStatus, detail: str) -> None:
        """Read no more, answer what is no request or becomes none when it has its turn, and close."""
        if self._deaf:
            return
        self._deaf = True
        cycle, incomplete = self.cycle, self._incomplete()
        if cycle and not cycle.response_complete and (self.pipeline or not incomplete):
            # Those before are still to be answered, and this is the last.
            cycle.keep_alive = False
            if incomplete:
                self.pipeline[0] = (cycle, saying(describe_status(status, detail)))
            return
        if not (cycle and incomplete and cycle.response_started):
            self._write(describe_status(status, detail))
        if cycle and incomplete:
            cycle.disconnected = True  # for who waits for the rest
            cycle.message_event.set()
        self.transport.close()

    def give_up(self) -> None:
        """Answer what has taken too long for a process that stops, before uvicorn makes a 500 of it."""
        self._deaf = True
        if self.cycle and not self.cycle.response_started and not self.cycle.disconnected:
            self._write(describe(Stopping), Stopping.headers)
        self.transport.drain = None
        self.transport.close()

    def _write(self, problem: Problem, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = msgspec.json.encode(problem)
        fields = {"content-type": MEDIA_TYPE, "content-length": len(body), "connection": "close", **headers}
        lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in fields.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
