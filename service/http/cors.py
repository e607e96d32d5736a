"""Cross-origin requests of browsers (the CORS protocol of the Fetch standard)."""

import re
from collections.abc import Sequence
from typing import Any, Final

from litestar.types import ASGIApp, Receive, Send

from service.http.headers import Field, Head
from service.http.responses import head_of, send_whole

ANY: Final = "*"
EXPOSED: Final = "ETag, Idempotency-Replayed, Link, Location, Retry-After, WWW-Authenticate, X-Request-ID"
# Also those that no route has: a page may then read the 405.
METHODS: Final = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
MAX_AGE: Final = "600"  # seconds for which a browser keeps the response to a preflight

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_PORTS: Final = range(1, 65536)
_is_list_of_names: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]+").fullmatch
_is_origin: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?").fullmatch


def parse_origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them, separated by commas, or ``*``. Raises ``ValueError``."""
    entries = [entry for entry in map(str.strip, text.split(",")) if entry]
    if ANY in entries:
        if len(entries) > 1:
            raise ValueError("* stands for every origin; leave out the others, or the *")
        return (ANY,)
    return tuple(dict.fromkeys(_parse(entry) for entry in entries))


def _parse(entry: str) -> str:
    found = _is_origin(entry.lower())
    if not found or int(found[3] or 1) not in _PORTS:
        raise ValueError(f"{entry!r} is not an origin: {_remedy(entry)}")
    scheme, host, port = found.groups()
    # Browsers leave out the default port of the scheme.
    return f"{scheme}://{host}" if port in {None, _DEFAULT_PORTS.get(scheme)} else f"{scheme}://{host}:{int(port)}"


def _remedy(entry: str) -> str:
    if entry.endswith("/") and _is_origin(entry.lower().rstrip("/")):
        return f"remove the slash at its end, {entry.rstrip('/')}"
    if ANY in entry:
        return "write out every origin; only a * by itself allows every one"
    if not entry.isascii():
        return "write its host as browsers send it, in ASCII (xn--…)"
    return "it is a scheme and a host, and a port from 1 to 65535 unless it is the default: https://app.example"


class CrossOrigin:
    """The header fields of responses to the pages of other origins."""

    def __init__(self, origins: Sequence[str]) -> None:
        """``origins`` as ``parse_origins`` returns them."""
        exposed = Field(b"access-control-expose-headers", EXPOSED.encode())
        vary = Field(b"vary", b"Origin")
        self._of_others: tuple[Field, ...] = (vary,)
        if ANY in origins:
            # No credentials, and the same for every origin, so caches need not tell them apart.
            self._of_others = (Field(b"access-control-allow-origin", b"*"), exposed)
        self._of_origin = {
            origin.encode(): (
                vary,
                Field(b"access-control-allow-origin", origin.encode()),
                Field(b"access-control-allow-credentials", b"true"),
                exposed,
            )
            for origin in origins
            if origin != ANY
        }
        self._allows_any = ANY in origins

    def fields(self, headers: Head) -> tuple[Field, ...]:
        """The fields that the response to a request with ``headers`` has."""
        return self._of_origin.get(_value_of(b"origin", headers), self._of_others)

    def allows(self, origin: bytes) -> bool:
        return origin in self._of_origin or (self._allows_any and origin != b"")


class Preflights:
    """Answers preflights of the allowed origins, for every path, so that a page can read the 404 of a wrong one.

    Every other OPTIONS request goes to the app, also a preflight of another origin: the browser refuses that page,
    because the fields of ``CrossOrigin`` are missing. Litestar's own middleware answers such a preflight with an error
    that has no problem body, takes every OPTIONS request with an ``Origin`` for a preflight, replaces the ``Vary`` of a
    response, and does not see the errors of the server.
    """

    def __init__(self, app: ASGIApp, cross_origin: CrossOrigin) -> None:
        self.app = app
        self._cross_origin = cross_origin

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and self._is_preflight(scope["headers"]):
            await send_whole(send, 204, self._head(scope["headers"]), b"")
        else:
            await self.app(scope, receive, send)

    def _is_preflight(self, headers: Head) -> bool:
        origin = _value_of(b"origin", headers)
        return self._cross_origin.allows(origin) and _value_of(b"access-control-request-method", headers) != b""

    def _head(self, headers: Head) -> Head:
        allowed = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": MAX_AGE}
        # Any field is allowed: those that the service does not know have no effect.
        asked = _value_of(b"access-control-request-headers", headers).decode("latin-1")
        if _is_list_of_names(asked):
            allowed["Access-Control-Allow-Headers"] = asked
        return head_of(None, allowed)


def _value_of(name: bytes, headers: Head) -> bytes:
    """The value of a field of the request; empty if there is none."""
    return next((value for given, value in headers if given == name), b"")
