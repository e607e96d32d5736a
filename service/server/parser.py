"""Parses the requests of a connection, and bounds what a client may send (RFC 9112)."""

import re
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import httptools

from service.errors import HeaderFieldsTooLarge, HostMissing, InvalidHost, NotAProxy, NotHTTP, ServiceError

if TYPE_CHECKING:
    from service.server.connection import Connection

# Bytes that may arrive without a complete head, chunk header, piece of a body or trailer section.
MAX_UNPARSED_BYTES: Final = 64 * 1024
MAX_HEADER_FIELDS: Final = 1000

# The parser acts on these also in a trailer section, where they must not be (RFC 9110, section 6.5.1).
_NOT_IN_TRAILERS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})

# The characters of a host and a port (RFC 3986, section 3.2).
_is_host: Final = re.compile(rb"[0-9A-Za-z._~!$&'()*+,;=%:\[\]-]*").fullmatch


class RequestParser:
    """Calls ``request_received``, ``body_received``, ``request_complete`` and ``fail`` of the connection."""

    def __init__(self, connection: "Connection", app_state: dict[str, Any]) -> None:
        self.in_head = False  # the head of a request is incomplete
        self._connection = connection
        self._app_state = app_state
        self._parser = self._new_parser()
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._unparsed_bytes = 0  # since the parser's last event
        self._refusal: type[ServiceError] = NotHTTP  # why the parser stops

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # The connection discards what follows a request that announces the close.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def close(self) -> None:
        """Parse no more, and break the reference cycles, which would wait for the garbage collector."""
        self.in_head = False
        self._fields = []
        self._parser = None
        self._connection = cast("Any", None)

    def feed(self, data: bytes) -> None:
        """Parse a piece of the input. The limits are checked after it, so it must be small."""
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._connection.fail(self._refusal)
            return
        if self._unparsed_bytes > MAX_UNPARSED_BYTES:
            self._connection.fail(HeaderFieldsTooLarge)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its ``Upgrade`` field (RFC 9110, section 7.8).

        The parser takes everything that follows such a head, even its body, for another protocol.
        """
        line = b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self._fields if field[0] != b"upgrade"]
        self._parser = self._new_parser()
        self.feed(b"\r\n".join([line, *fields, b"", rest]))

    def _refuse(self, error: type[ServiceError]) -> NoReturn:
        """Stop the parser, which then raises an error of its own."""
        self._refusal = error
        raise error

    # httptools's callbacks.

    def on_message_begin(self) -> None:
        self.in_head = True
        self._url = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self.in_head:
            self._fields.append((name, value))
        elif name in _NOT_IN_TRAILERS:
            self._refuse(NotHTTP)
        # Other trailer fields are ignored (RFC 9110, section 6.5.1).

    def on_headers_complete(self) -> None:
        parser, fields, connection = self._parser, self._fields, self._connection
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                self._refuse(NotAProxy)
            return
        version = parser.get_http_version()
        if len(fields) > MAX_HEADER_FIELDS:
            self._refuse(HeaderFieldsTooLarge)
        hosts = [value for name, value in fields if name == b"host"]
        if len(hosts) != 1 and (hosts or version != "1.0"):
            self._refuse(HostMissing)
        if hosts and not _is_host(hosts[0]):
            self._refuse(InvalidHost)
        if self._url == b"*" and method == b"OPTIONS":
            raw_path, query = b"/", b""
        else:
            url = httptools.parse_url(self._url)
            raw_path, query = url.path or b"/", url.query or b""
        path = raw_path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": connection.server,
            "client": connection.client,
            "scheme": "http",
            "method": method.decode("ascii"),
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": fields,
            "state": self._app_state.copy(),
        }
        self._unparsed_bytes = 0
        self.in_head = False
        connection.request_received(
            scope,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=version != "1.0" and (b"expect", b"100-continue") in fields,
        )

    def on_chunk_header(self) -> None:
        self._unparsed_bytes = 0

    on_chunk_complete = on_chunk_header

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        self._connection.body_received(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        if not self.in_head:  # else its head asks for an upgrade
            self._connection.request_complete()
