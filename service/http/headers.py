"""Header fields that every response has. The server adds those that a response lacks, see ``exchange.py``."""

import itertools
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Final, Self

from litestar.datastructures import CacheControlHeader
from litestar.types import Scope

Head = list[tuple[bytes, bytes]]

_ILLEGAL_IN_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5


def encode_field(name: bytes, value: bytes) -> bytes:
    """Return the line of a header field. Raises ``ValueError`` for control characters."""
    if _ILLEGAL_IN_VALUE.search(value):
        raise ValueError(f"the header field {name!r} has a control character")
    return b"%b: %b\r\n" % (name, value)


class Field(tuple[bytes, bytes]):  # noqa: SLOT001 - a tuple has no slots
    """A header field of many responses. Its line is encoded once."""

    line: bytes

    def __new__(cls, name: bytes, value: bytes) -> Self:
        field = super().__new__(cls, (name, value))
        field.line = encode_field(name, value)
        return field


# A route or a response that has one of these itself replaces it.
COMMON_HEADERS: Final[Head] = [
    Field(b"x-content-type-options", b"nosniff"),
    Field(b"referrer-policy", b"no-referrer"),
    Field(b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    Field(b"cache-control", b"no-cache"),
]

NO_STORE: Final = CacheControlHeader(no_store=True)

REQUEST_ID: Final = b"x-request-id"

_is_request_id: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch


class _Ids:
    """Generated ids are a random prefix, one per process, and a number of fixed width. Random ids would cost more."""

    generated: Iterator[bytes]

    @classmethod
    def restart(cls) -> None:
        form = f"{secrets.token_hex(6)}-%08x".encode()
        cls.generated = map(form.__mod__, itertools.count(1))


_Ids.restart()
os.register_at_fork(after_in_child=_Ids.restart)  # a forked worker must not repeat the ids of another


def request_id(scope: Scope) -> bytes:
    """Return the id of a request: the client's own if it is valid, else a generated one that is kept in the scope."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _is_request_id(value):
            return value
    state = scope.setdefault("state", {})
    if not (generated := state.get("request_id")):
        generated = state["request_id"] = next(_Ids.generated)
    return generated


def complete(head: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return ``head`` with the common fields that it lacks. A head that begins with the first of them is complete."""
    given = head if isinstance(head, list) else [*head]
    if given and given[0] is COMMON_HEADERS[0]:
        return given
    names = {name.lower() for name, _ in given}
    return [*(field for field in COMMON_HEADERS if field[0] not in names), *given]
