"""The states of a connection, their deadlines, and what the connections of a process share.

=============  =============================================  ============================  ==========================
state          meaning                                        deadline                      at the deadline
=============  =============================================  ============================  ==========================
IDLE           no part of the next request has arrived        ``keep_alive_seconds``        close
READING_HEAD   the head of the next request is incomplete     ``client_timeout_seconds``    408, close
READING_BODY   the body of the current request is incomplete  the same, unless reading is   408, close
                                                              paused
PROCESSING     the request is complete, the response is not   none                          (statements have timeouts)
SENDING        a part of the output is unsent                 the same without progress     reset
LINGERING      our half is closed, input is discarded         ``linger_seconds``            close
CLOSED         the transport is closed                        none
=============  =============================================  ============================  ==========================
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from uvicorn.server import ServerState

from service.http.headers import Field
from service.server.exchange import Exchange

if TYPE_CHECKING:
    from service.server.connection import Connection

FieldsFor = Callable[[Any], tuple[Field, ...]]

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25


class State(Enum):
    IDLE = "idle"
    READING_HEAD = "reading head"
    READING_BODY = "reading body"
    PROCESSING = "processing"
    SENDING = "sending"
    LINGERING = "lingering"
    CLOSED = "closed"

    # Members are compared by identity; Enum's own hash is a Python function.
    __hash__ = object.__hash__


class Limits(Struct, kw_only=True):
    """The deadlines of the states, in seconds."""

    keep_alive_seconds: float
    client_timeout_seconds: float
    linger_seconds: float = 5


class Connections(ServerState):
    """What the connections of a process share.

    Deadlines are counted in ticks. A stopped process does not tick, so that time does not count against clients.
    """

    connections: set["Connection"]  # type: ignore[assignment]

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.ticks = 0
        self.closing = False  # every response announces the close of its connection
        self.run: Callable[[Exchange], Coroutine[Any, Any, None]] = Exchange.run
        self.record: Callable[[Sequence[Exchange]], None] | None = None  # called once for each, when it has ended
        self.fields_for: FieldsFor | None = None  # fields of a response that depend on its request
        self._unflushed: list[Exchange] = []
        self.ticks_in: dict[State, float] = {}
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        timeout = limits.client_timeout_seconds
        seconds = {
            State.IDLE: limits.keep_alive_seconds,
            State.READING_HEAD: timeout,
            State.READING_BODY: timeout,
            State.SENDING: timeout,
            State.LINGERING: limits.linger_seconds,
        }
        # One tick more, because the current one has already started.
        self.ticks_in = {state: seconds.get(state, float("inf")) / TICK_SECONDS + 1 for state in State}

    def flush_later(self, exchange: Exchange) -> None:
        """Write the responses of one turn of the event loop together.

        Their clients then send the next requests together, and these share statements.
        """
        if not self._unflushed:
            exchange.connection.loop.call_soon(self._flush)
        self._unflushed.append(exchange)

    def _flush(self) -> None:
        exchanges, self._unflushed = self._unflushed, []
        for exchange in exchanges:
            try:
                exchange.connection.flush()
            except Exception:  # a bug must not affect the other connections
                logger.exception("a connection is aborted because its response could not be written")
                exchange.connection.abort()
        if self.record:
            self.record(exchanges)
