"""One client connection: what it is doing, until when it may, and what the parser reports (RFC 9112).

A connection is in one of the states of ``state.py``. Only ``Connection._enter`` changes it, and sets the deadline that
the state has. Every response is sent by an ``Exchange``, errors of the protocol included, so that responses keep the
order of the requests.
"""

import asyncio
import urllib.parse
from collections import deque
from typing import Any, Final, NoReturn, cast

import httptools
from litestar.types import ASGIApp

from service.errors import (
    ClientDisconnected,
    HeaderFieldsTooLarge,
    HostMissing,
    NotAProxy,
    NotHTTP,
    RequestTimeout,
    ServiceError,
    Stopping,
)
from service.http.problems import problem_app
from service.server.exchange import Exchange
from service.server.state import Connections, State

Fields = list[tuple[bytes, bytes]]

# Bytes that may arrive without a complete head, chunk header, piece of a body or trailer section.
MAX_UNPARSED_BYTES: Final = 64 * 1024
MAX_HEADER_FIELDS: Final = 1000

# Bytes that are parsed before the limits are checked; also bounds how many pipelined requests are parsed ahead.
_PIECE: Final = 4 * 1024

# Bytes of a body that are held before reading pauses until the handler takes them.
_MAX_HELD_BYTES: Final = 64 * 1024

# The parser acts on these also in a trailer section, where they must not be (RFC 9110, section 6.5.1).
_NOT_IN_TRAILERS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})

# The scope of what is not, or not completely, a request.
_NO_SCOPE: Final = {"type": "http", "method": "GET", "http_version": "1.1", "headers": ()}


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection, one request after the other."""

    transport: asyncio.Transport

    def __init__(self, app: ASGIApp, shared: Connections, app_state: dict[str, Any]) -> None:
        self.app = app
        self.shared = shared
        self.loop = asyncio.get_running_loop()
        self.state = State.IDLE
        self.deadline = 0.0  # in ticks
        self._app_state = app_state
        self._parser: Any = None
        self._url = b""
        self._fields: Fields | None = None  # of the head that is arriving
        self._unparsed_bytes = 0  # since the parser's last event
        self._refusal: type[ServiceError] = NotHTTP  # why the parser stops
        self._receiving: Exchange | None = None  # its body is arriving
        self._current: Exchange | None = None  # its response is the next
        self._waiting: deque[Exchange] = deque()  # behind the current one
        self._unparsed = b""  # arrived while requests were waiting
        self._input_ended = False  # what arrives is discarded
        self._half_closed = False  # by the client
        self._reading_paused = False
        self._unsent_bytes = 0  # at the last deadline
        self._unwritten = b""
        self.drained: asyncio.Future[None] | None = None  # while anything is unsent; done when it is sent

    # The state.

    def _enter(self, state: State) -> None:
        self.state = state
        self.deadline = self.shared.ticks + self.shared.ticks_in[state]

    def check_deadline(self) -> None:
        """Act if the deadline of the state has passed."""
        if self.deadline > self.shared.ticks:
            return
        match self.state:
            case State.READING_HEAD:
                self._fail(RequestTimeout)
            case State.READING_BODY if self._reading_paused:
                self._enter(State.READING_BODY)  # the handler is late, not the client
            case State.READING_BODY:
                self._fail(RequestTimeout)
            case State.SENDING if (unsent := self.transport.get_write_buffer_size()) < self._unsent_bytes:
                self._unsent_bytes = unsent
                self._enter(State.SENDING)
            case State.SENDING:
                self.abort()
            case _:
                self._close()

    def shutdown(self) -> None:
        """Close when the current request is answered; uvicorn calls this when it stops."""
        if self.state is State.IDLE:
            self._close()
        elif self.state is State.READING_BODY and self._current and self._current.complete:
            self._end_input()
            self._finish()
        elif self.state is State.LINGERING:
            self._enter(State.LINGERING)  # with the deadline of a server that stops

    def abort_in_flight(self) -> None:
        """Answer 503 instead of waiting any longer, and for no client that still has to take its response."""
        if self.state is State.READING_HEAD:
            self._fail(Stopping)
        elif self._current and not self._current.ended and self._current.abandon():
            self._end_input()
            self._start(Exchange(self, problem_app(Stopping), self._current.scope, keep_alive=False))
        elif self.state is not State.LINGERING:
            self.abort()

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        # Writing is paused as long as anything is unsent.
        self.transport.set_write_buffer_limits(0)
        self.server = _address(transport, "sockname")
        self.client = _address(transport, "peername")
        self._parser = self._new_parser()
        self.shared.connections.add(self)
        self._enter(State.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._enter(State.CLOSED)
        self.shared.connections.discard(self)
        if self._current:
            self._current.disconnect()
        self._end_input()
        self._current = self._receiving = None
        # The parser refers to this object: without this, both would wait for the garbage collector.
        self._parser = None
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client has closed its half: the requests that arrived complete are still answered."""
        self._half_closed = True
        if self.state in {State.IDLE, State.READING_HEAD, State.LINGERING}:
            return False
        if self._receiving:
            self._fail(ClientDisconnected)
        self._fields = None
        self._input_ended = True
        return self.state is not State.CLOSED

    def pause_writing(self) -> None:
        self.drained = self.loop.create_future()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        if self.state is State.PROCESSING:
            self._enter(State.SENDING)

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained and not drained.done():
            drained.set_result(None)
        if self.state is State.SENDING:
            if self._current and not self._current.complete:
                self._enter(State.PROCESSING)
            else:
                self._respond_next()

    def data_received(self, data: bytes) -> None:
        if self._input_ended:
            return
        if self._unparsed:
            self._unparsed += data
            return
        if len(data) <= _PIECE:
            self._parse(data)
        else:
            self._parse_in_pieces(data)
        if self._waiting:
            self.pause_reading()

    # Reading requests.

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that announces the close is discarded by us, not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _parse_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self._waiting:
                self._unparsed = data[start:]
                return
            if self._input_ended:
                return
            self._parse(data[start : start + _PIECE])

    def _parse(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._fail(self._refusal)
            return
        if self._unparsed_bytes > MAX_UNPARSED_BYTES:
            self._fail(HeaderFieldsTooLarge)
        elif self._fields is not None and self.state is State.IDLE:
            self._enter(State.READING_HEAD)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Serve a request as what it is without its ``Upgrade`` field (RFC 9110, section 7.8).

        The parser takes everything behind such a head, also the body, for another protocol. So a new one gets the head
        without that field.
        """
        line = b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self._fields or () if field[0] != b"upgrade"]
        self._parser = self._new_parser()
        self._parse(b"\r\n".join([line, *fields, b"", rest]))

    def _refuse(self, error: type[ServiceError]) -> NoReturn:
        """Stop the parser, which raises an error of its own."""
        self._refusal = error
        raise error

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._fields is not None:
            self._fields.append((name, value))
        elif name in _NOT_IN_TRAILERS:
            self._refuse(NotHTTP)
        # Other trailer fields are ignored (RFC 9110, section 6.5.1).

    def on_headers_complete(self) -> None:
        """Admit a request, or refuse it."""
        parser, fields = self._parser, self._fields or []
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                self._refuse(NotAProxy)
            return
        version = parser.get_http_version()
        if len(fields) > MAX_HEADER_FIELDS:
            self._refuse(HeaderFieldsTooLarge)
        names = [name for name, _ in fields]
        hosts = names.count(b"host")
        if hosts != 1 and (hosts or version != "1.0"):
            self._refuse(HostMissing)
        raw_path, query = self._target(method)
        path = raw_path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": "http",
            "method": method.decode("ascii"),
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": fields,
            "state": self._app_state.copy(),
        }
        exchange = Exchange(
            self,
            self.app,
            scope,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=version != "1.0" and (b"expect", b"100-continue") in fields,
        )
        self._unparsed_bytes = 0
        self._fields = None
        self._receiving = exchange
        self._admit(exchange)

    def _target(self, method: bytes) -> tuple[bytes, bytes]:
        """The path and the query of the request target (RFC 9112, section 3.2)."""
        if method == b"OPTIONS" and self._url == b"*":
            return b"/", b""
        url = httptools.parse_url(self._url)
        return url.path or b"/", url.query or b""

    def on_chunk_header(self) -> None:
        self._unparsed_bytes = 0

    on_chunk_complete = on_chunk_header

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        if self._receiving and self._receiving.add_body(body) > _MAX_HELD_BYTES:
            self.pause_reading()

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        exchange, self._receiving = self._receiving, None
        if exchange is None:  # its head asks for an upgrade
            return
        exchange.end_body()
        if exchange is self._current:
            if exchange.complete:
                self._finish()
            else:
                self._enter(State.SENDING if self.drained else State.PROCESSING)

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self._waiting:
            self._reading_paused = False
            self.transport.resume_reading()
            if self.state is State.READING_BODY:
                self._enter(State.READING_BODY)  # the client has had no chance to send

    # Answering them.

    def _admit(self, exchange: Exchange) -> None:
        if self._current is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        self._enter(State.READING_BODY if exchange is self._receiving else State.PROCESSING)
        exchange.start()

    def flush(self) -> None:
        """Write the end of the current response. Unless it announced the close, the rest of the body is discarded."""
        if not self._current or self.state is State.CLOSED:
            return
        self.write(self._unwritten)
        self._unwritten = b""
        self._current.complete = True
        self.shared.total_requests += 1
        if not self._current.keep_alive:
            self._end_input()
        elif self._receiving is self._current:
            self.resume_reading()
            return
        self._finish()

    def _finish(self) -> None:
        """Go on as soon as the current response has been sent."""
        if self.drained:
            self._enter(State.SENDING)
        else:
            self._respond_next()

    def _respond_next(self) -> None:
        """Go on after a response that has been sent."""
        self._current = None
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._input_ended:
            self._linger()
            return
        else:
            self._enter(State.IDLE if self._fields is None else State.READING_HEAD)
        if not self._waiting:
            unparsed, self._unparsed = self._unparsed, b""
            if unparsed:
                self.data_received(unparsed)
            self.resume_reading()

    def _fail(self, error: type[ServiceError]) -> None:
        """Read no more, and answer ``error`` unless the response has been sent already.

        A handler that runs answers itself; it gets the error when it asks for the body.
        """
        receiving, self._receiving = self._receiving, None
        self._input_ended = True
        self._fields, self._unparsed = None, b""
        if receiving is None:
            self._admit(Exchange(self, problem_app(error), _NO_SCOPE.copy(), keep_alive=False))
            return
        receiving.fail(error)
        if receiving is self._current:
            if receiving.complete:
                self._finish()
            else:
                self._enter(State.SENDING if self.drained else State.PROCESSING)

    def _end_input(self) -> None:
        """Read no more, and forget the requests that have not been started."""
        self._input_ended = True
        self._receiving = self._fields = None
        self._unparsed = b""
        self._waiting.clear()

    def _linger(self) -> None:
        """Close our half, and discard what arrives until the client has closed its own (RFC 9112, section 9.6).

        A socket that is closed with unread data is reset, and the client may lose the response.
        """
        if self._half_closed:
            self._close()
            return
        self._enter(State.LINGERING)
        try:
            self.transport.write_eof()
        except OSError:  # the client has gone
            self._close()
        self.resume_reading()

    def _close(self) -> None:
        self._enter(State.CLOSED)
        self.transport.close()

    # Writing, for the exchange.

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def write_last(self, data: bytes) -> None:
        """Write the end of the current response after this turn of the event loop."""
        self._unwritten = data
        self.shared.flush_later(self)

    def abort(self) -> None:
        """Close without sending the rest: a response cannot be completed, or the client does not take it."""
        self._enter(State.CLOSED)
        self.transport.abort()


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    """Host and port, which are unknown for a client that has gone already.

    A socket for IPv6 also accepts IPv4, and writes its addresses ``::ffff:192.0.2.1``.
    """
    address = transport.get_extra_info(name)
    return (address[0].removeprefix("::ffff:"), address[1]) if address else None
