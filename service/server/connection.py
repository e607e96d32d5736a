"""One client connection: its state, its deadline, and the order of its responses.

A connection is in one of the states of ``state.py``. Only ``Connection._enter`` changes it, and sets the deadline of
the new state. An ``Exchange`` sends each response, also the one to a malformed request, so responses have the order of
the requests.
"""

import asyncio
from collections import deque
from typing import Any, Final, cast

from litestar.types import ASGIApp

from service.errors import ClientDisconnected, RequestTimeout, ServiceError, Stopping
from service.http.problems import problem_app
from service.server.exchange import Exchange
from service.server.parser import RequestParser
from service.server.state import Connections, State

# Bytes that are parsed before the limits are checked; also bounds how many pipelined requests are parsed ahead.
_PIECE: Final = 4 * 1024

# Bytes of a body that are held before reading pauses until the handler takes them.
_MAX_HELD_BYTES: Final = 64 * 1024

# The scope of the response to a malformed or incomplete request.
_NO_SCOPE: Final = {"type": "http", "method": "", "http_version": "1.1", "headers": ()}


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection, one request after the other."""

    transport: asyncio.Transport

    def __init__(self, app: ASGIApp, shared: Connections, app_state: dict[str, Any]) -> None:
        self.app = app
        self.shared = shared
        self.loop = asyncio.get_running_loop()
        self.state = State.IDLE
        self.deadline = 0.0  # in ticks
        self.drained: asyncio.Future[None] | None = None  # while any data is unsent; done when all of it is sent
        self._parser = RequestParser(self, app_state)
        self._receiving: Exchange | None = None  # its body is incomplete
        self._current: Exchange | None = None  # its response is the next
        self._waiting: deque[Exchange] = deque()  # behind the current one
        self._unparsed = b""  # arrived while requests were waiting
        self._input_ended = False  # what arrives is discarded
        self._half_closed = False  # by the client
        self._reading_paused = False
        self._unsent_bytes = 0  # when writing was paused, or at the last deadline
        self._unwritten = b""

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
                self.fail(RequestTimeout)
            case State.READING_BODY if self._reading_paused:
                self._enter(State.READING_BODY)  # the handler is late, not the client
            case State.READING_BODY:
                self.fail(RequestTimeout)
            case State.SENDING if (unsent := self.transport.get_write_buffer_size()) < self._unsent_bytes:
                self._unsent_bytes = unsent
                self._enter(State.SENDING)
            case State.SENDING:
                self.abort()
            case _:
                self._close()

    def shutdown(self) -> None:
        """Close after the current response; uvicorn calls this when it stops."""
        if self.state is State.IDLE:
            self._close()
        elif self.state is State.READING_BODY and self._current and self._current.complete:
            self._end_input()
            self._finish()
        elif self.state is State.LINGERING:
            self._enter(State.LINGERING)  # with the deadline of a server that stops

    def abort_in_flight(self) -> None:
        """Respond with 503 instead of waiting any longer; reset the connection where no response can be started."""
        if self.state is State.READING_HEAD:
            self.fail(Stopping)
        elif self._current and not self._current.ended and self._current.abandon():
            self._end_input()
            self._start(Exchange(self, problem_app(Stopping), self._current.scope, keep_alive=False))
        elif self.state is not State.LINGERING:
            self.abort()

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        # Writing is paused as long as any data is unsent.
        self.transport.set_write_buffer_limits(0)
        self.server = _address(transport, "sockname")
        self.client = _address(transport, "peername")
        self.shared.connections.add(self)
        self._enter(State.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._enter(State.CLOSED)
        self.shared.connections.discard(self)
        if self._current:
            self._current.disconnect()
        self._end_input()
        self._current = None
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client has closed its half: complete requests still get their responses."""
        self._half_closed = True
        if self.state in {State.IDLE, State.READING_HEAD, State.LINGERING}:
            return False
        if self._receiving:
            self.fail(ClientDisconnected)
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
            self._parser.feed(data)
        else:
            self._parse_in_pieces(data)
        if self._waiting:
            self.pause_reading()
        elif self._parser.in_head and self.state is State.IDLE:
            self._enter(State.READING_HEAD)

    # Reading requests: the parser's events, and pauses while the app is busy.

    def _parse_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self._waiting:
                self._unparsed = data[start:]
                return
            if self._input_ended:
                return
            self._parser.feed(data[start : start + _PIECE])

    def request_received(self, scope: Any, *, keep_alive: bool, expects_continue: bool) -> None:
        """The head of a request is complete."""
        exchange = Exchange(self, self.app, scope, keep_alive=keep_alive, expects_continue=expects_continue)
        self._receiving = exchange
        self._admit(exchange)

    def body_received(self, piece: bytes) -> None:
        if self._receiving and self._receiving.add_body(piece) > _MAX_HELD_BYTES:
            self.pause_reading()

    def request_complete(self, error: type[ServiceError] | None = None) -> None:
        """The body of a request is complete, or ``error`` is the reason why it never will be."""
        exchange, self._receiving = self._receiving, None
        if exchange is None:  # the parser was closed
            return
        exchange.end_body(error)
        if exchange is self._current:
            if exchange.complete:
                self._finish()
            else:
                self._enter(State.SENDING if self.drained else State.PROCESSING)

    def fail(self, error: type[ServiceError]) -> None:
        """Read no more, and respond with ``error`` unless the response has been sent already.

        A handler that runs still responds itself; it gets the error when it asks for the body.
        """
        self._input_ended = True
        self._unparsed = b""
        self._parser.close()
        if self._receiving:
            self.request_complete(error)
        else:
            self._admit(Exchange(self, problem_app(error), _NO_SCOPE | {"client": self.client}, keep_alive=False))

    def _end_input(self) -> None:
        """Read no more, and forget the requests that have not been started."""
        self._input_ended = True
        self._parser.close()
        self._receiving = None
        self._unparsed = b""
        self._waiting.clear()

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

    # Responding to them, in their order.

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
            self._enter(State.READING_HEAD if self._parser.in_head else State.IDLE)
        if not self._waiting:
            unparsed, self._unparsed = self._unparsed, b""
            if unparsed:
                self.data_received(unparsed)
            self.resume_reading()

    # Writing, for the exchange.

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def write_last(self, exchange: Exchange, data: bytes) -> None:
        """Write the end of the response of the current exchange after this turn of the event loop."""
        self._unwritten = data
        self.shared.flush_later(exchange)

    # Closing.

    def _linger(self) -> None:
        """Close our half, and discard what arrives until the client has closed its own (RFC 9112, section 9.6).

        The kernel resets a connection that is closed with unread data, and the client may lose the response.
        """
        if self._half_closed:
            self._close()
            return
        self._enter(State.LINGERING)
        try:
            self.transport.write_eof()
        except OSError:  # the client has disconnected
            self._close()
        self.resume_reading()

    def _close(self) -> None:
        self._enter(State.CLOSED)
        self.transport.close()

    def abort(self) -> None:
        """Reset the connection: a response cannot be completed, or the client does not read it."""
        self._enter(State.CLOSED)
        self.transport.abort()


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    """Host and port, which are unknown if the client has disconnected already.

    A socket for IPv6 also accepts IPv4, and writes its addresses ``::ffff:192.0.2.1``.
    """
    address = transport.get_extra_info(name)
    return (address[0].removeprefix("::ffff:"), address[1]) if address else None
