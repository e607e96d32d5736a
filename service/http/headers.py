"""Header fields that every response carries."""

import itertools
import os
import re
import secrets
from typing import Final

from litestar.datastructures import CacheControlHeader
from litestar.types import Message, Scope, Send

# A route or a response that has one of these itself replaces it.
COMMON_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

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


def with_common_headers(send: Send, scope: Scope) -> Send:
    """Return a ``send`` that adds the fields of this module to a response of one of Litestar's own classes."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            head = list(message.get("headers", ()))
            present = {name for name, _ in head}
            common = [(name.lower().encode(), value.encode()) for name, value in COMMON_HEADERS.items()]
            head += [field for field in common if field[0] not in present]
            message["headers"] = head if REQUEST_ID in present else [*head, (REQUEST_ID, request_id(scope))]
        await send(message)

    return send_with_headers
