"""One request and its response: the ASGI side of a connection."""

import asyncio
import contextvars
import logging
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from litestar.types import ASGIApp

from service.errors import InternalError, ServiceError
from service.http.headers import REQUEST_ID, Field, complete, encode_field, request_id
from service.http.problems import phrase, problem_app
from service.observability.context import current_requests

if TYPE_CHECKING:
    from service.server.connection import Connection

logger = logging.getLogger(__name__)

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status} {phrase(status)}\r\n".encode() for status in HTTPStatus}
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT.value, HTTPStatus.NOT_MODIFIED.value})
CLIENT_GONE: Final = 499  # as nginx logs it: the client left before its response
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """Runs the app for one request. A response is one write unless the app sends its body in parts."""

    begun: float  # the ``time.perf_counter`` of the start, if requests are recorded

    def __init__(
        self,
        connection: "Connection",
        app: ASGIApp,
        scope: Any,
        *,
        keep_alive: bool,
        expects_continue: bool = False,
    ) -> None:
        self.keep_alive = keep_alive  # the connection is kept after the response
        self.ended = False  # the app has sent all of its response
        self.complete = False  # the whole response has been written
        self.replaced = False  # another exchange answers this request
        self.connection = connection
        self._app = app
        self.scope = scope
        self.request_id = request_id(scope)
        self.status = CLIENT_GONE  # of the response, once there is one
        self._expects_continue = expects_continue
        self._body = b""
        self._body_complete = False
        self._body_taken = False
        self._error: type[ServiceError] | None = None  # of the body
        self._disconnected = False
        self._arrival: asyncio.Future[None] | None = None  # what receive() waits for
        self._start: Any = None  # the app's http.response.start
        self._head_sent = False
        self._chunked = False
        self._bodiless = False
        self._missing_bytes: int | None = None  # of the announced Content-Length

    # For the connection.

    def start(self) -> None:
        shared = self.connection.shared
        if shared.record:
            self.begun = perf_counter()
        # A new context, because the request before a pipelined one starts it.
        task = self.connection.loop.create_task(shared.run(self), context=contextvars.Context())
        shared.tasks.add(task)
        task.add_done_callback(shared.tasks.discard)

    def abandon(self) -> bool:
        """Ignore what the app sends from now on; returns whether another response can be sent instead."""
        self.disconnect()
        self.replaced = not self._head_sent
        return self.replaced

    def add_body(self, piece: bytes) -> int:
        """Add a piece of the body; returns the number of bytes that the app has not received yet."""
        if self.ended:
            return 0
        self._body += piece
        self._wake()
        return len(self._body)

    def end_body(self, error: type[ServiceError] | None) -> None:
        """The body is complete, or ``receive`` has to raise ``error`` because it never will be."""
        if error:
            self.keep_alive = False
            self._error = error
        else:
            self._body_complete = True
        if self._arrival:
            self._wake()

    def disconnect(self) -> None:
        self._disconnected = True
        self._wake()

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival and not arrival.done():
            arrival.set_result(None)

    # For the app.

    async def run(self) -> None:
        current_requests.set((self.scope,))
        try:
            await self._app(self.scope, self.receive, self.send)
        except Exception:
            logger.exception("%s %s failed", self.scope["method"], self.scope.get("path"))
            await self._replace(InternalError)
        else:
            if not self.ended and not self._disconnected:
                logger.error("%s %s returned without a response", self.scope["method"], self.scope.get("path"))
                await self._replace(InternalError)
        finally:
            if not self.ended and not self.replaced and self.connection.shared.record:
                self.connection.shared.record([self])

    async def _replace(self, error: type[ServiceError]) -> None:
        """Respond with ``error``, or reset the connection if a part of another response was sent."""
        if self.ended or self._disconnected:
            return
        if self._head_sent:
            self.connection.abort()
            return
        self._start = self._missing_bytes = None
        self.keep_alive = False
        await problem_app(error)(self.scope, self.receive, self.send)

    async def receive(self) -> Any:
        """Return the next part of the body. Raises the ``ServiceError`` that ended it early."""
        if self._expects_continue and not (self._body or self._body_complete or self._start):
            self._expects_continue = False
            self.connection.write(_CONTINUE)
        while not (
            self._body
            or (self._body_complete and not self._body_taken)
            or self._error
            or self.ended
            or self._disconnected
        ):
            self._arrival = self.connection.loop.create_future()
            self.connection.resume_reading()
            await self._arrival
        if self.ended or self._disconnected:
            return {"type": "http.disconnect"}
        if self._error:
            raise self._error
        body, self._body = self._body, b""
        self._body_taken = self._body_complete
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    async def send(self, message: Any) -> None:
        """Raises ``RuntimeError`` for a message in the wrong order, or a body of another length than announced.

        Raises ``ValueError`` for a header field with a control character.
        """
        if message["type"] == "http.response.start":
            if self._start:
                raise RuntimeError("the response has already been started")
            self._start = message
            return
        if self.ended or not self._start:
            raise RuntimeError("a part of the response was sent before its start or after its end")
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.connection.drained:
            await self.connection.drained
        if self._disconnected:
            return
        data = self._encode(body, more=more)
        self._head_sent = True
        if more:
            self.connection.write(data)
            return
        self.ended = True
        self._wake()
        self.connection.write_last(self, data)

    def _encode(self, body: bytes, *, more: bool) -> bytes:
        head = b"" if self._head_sent else self._encode_head(len(body), more=more)
        if self._bodiless:
            return head
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return head + chunk + (b"" if more else b"0\r\n\r\n")
        if self._missing_bytes is not None:
            self._missing_bytes -= len(body)
            if self._missing_bytes < 0 or (self._missing_bytes and not more):
                raise RuntimeError("the body is not as long as its Content-Length")
        return head + body

    def _encode_field(self, name: bytes, value: bytes) -> bytes:
        """The line of one of the app's fields; empty for a field that the server adds itself."""
        if name == b"content-length":
            self._missing_bytes = int(value)
            return b"content-length: %d\r\n" % self._missing_bytes
        if name == b"connection":
            self.keep_alive &= b"close" not in value.lower()
            return b""
        return b"" if name == REQUEST_ID else encode_field(name, value)

    def _encode_head(self, size: int, *, more: bool) -> bytes:
        """The status line and the fields. Decides how the body is delimited and whether the connection is kept."""
        self.status = status = self._start["status"]
        connection = self.connection
        lines = [_STATUS_LINES[status]]
        fields = (*connection.shared.default_headers, *complete(self._start.get("headers", ())))
        if connection.shared.fields_for:
            fields = (*fields, *connection.shared.fields_for(self.scope))
        lines += [field.line if type(field) is Field else self._encode_field(*field) for field in fields]
        lines.append(b"x-request-id: %b\r\n" % self.request_id)
        is_head = self.scope["method"] == "HEAD"
        self._bodiless = is_head or status in _BODILESS
        if self._missing_bytes is None and status not in _BODILESS:
            if not more and (size or not is_head):  # for HEAD, the app may send the body of GET
                lines.append(b"content-length: %d\r\n" % size)
            elif not is_head and self.scope["http_version"] != "1.0":  # in HTTP/1.0 the close ends the body
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        # Without 100 Continue the client may omit the body, so the next bytes could be a body or a request.
        if connection.shared.closing or (self._expects_continue and not self._body_complete):
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)
