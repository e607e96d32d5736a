"""Header fields that every response has."""

import itertools
import os
import re
import secrets
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from litestar.datastructures import CacheControlHeader
from litestar.types import Scope, Send

Head = list[tuple[bytes, bytes]]

# A route or a response that has one of these itself replaces it.
COMMON_HEADERS: Final[Head] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-cache"),
]

NO_STORE: Final = CacheControlHeader(no_store=True)

REQUEST_ID: Final = b"x-request-id"

_is_request_id: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch


class _Ids:
    """Generated ids are a random prefix, one per process, and a number: cheaper than a random id per request."""

    prefix: bytes
    count: "itertools.count[int]"

    @classmethod
    def restart(cls) -> None:
        cls.prefix = secrets.token_hex(6).encode()
        cls.count = itertools.count(1)


_Ids.restart()
os.register_at_fork(after_in_child=_Ids.restart)  # a forked worker must not repeat the ids of another


def request_id(scope: Scope) -> bytes:
    """Return the id of a request: the client's own if it is valid, else a generated one that is kept in the scope."""
    for name, value in scope.get("headers", ()):
        if name == REQUEST_ID and _is_request_id(value):
            return value
    state = scope.setdefault("state", {})
    if not (generated := state.get("request_id")):
        generated = state["request_id"] = b"%b-%08x" % (_Ids.prefix, next(_Ids.count))
    return generated


def complete(head: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return ``head`` with the common fields that it lacks."""
    given = [*head]
    names = {name.lower() for name, _ in given}
    return [*(field for field in COMMON_HEADERS if field[0] not in names), *given]


def with_common_headers(send: Send, scope: Scope) -> Send:
    """Return a ``send`` that adds the common fields and the request id to a response.

    A head that begins with the first common field is complete already: see ``head_of``.
    """

    def send_with_headers(message: Any) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            head = message.get("headers") or ()
            if not (isinstance(head, list) and head and head[0] is COMMON_HEADERS[0]):
                head = [field for field in complete(head) if field[0].lower() != REQUEST_ID]
            message = {**message, "headers": [*head, (REQUEST_ID, request_id(scope))]}
        return send(message)

    return send_with_headers
