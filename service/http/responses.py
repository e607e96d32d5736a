"""Responses as this service sends them: a status, few headers, and JSON."""

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, TypeVar

import litestar
import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from service.http.headers import COMMON_HEADERS, REQUEST_ID, request_id

T = TypeVar("T")
Head = list[tuple[bytes, bytes]]

JSON: Final = "application/json"

_encoder = msgspec.json.Encoder()


class _Encoded:
    """The content that was encoded last: what equal reads of one turn share is encoded once."""

    content: object = None
    body: bytes = b"null"


def encode(content: object) -> bytes:
    if content is not _Encoded.content:
        _Encoded.body = _encoder.encode(content)
        _Encoded.content = content
    return _Encoded.body


def head_of(media_type: str | None, headers: Mapping[str, str]) -> Head:
    """The header fields of a response as ASGI has them, but for its request id and the length of its body."""
    named = {"content-type": media_type} if media_type else {}
    named |= {name.lower(): value for name, value in (*COMMON_HEADERS.items(), *headers.items())}
    return [(name.encode(), value.encode()) for name, value in named.items()]


@lru_cache
def _common_head(media_type: str, headers: tuple[tuple[str, str], ...]) -> tuple[Head, frozenset[bytes]]:
    """What the responses of a route have in common, and the names of these fields."""
    head = head_of(media_type, dict(headers))
    return head, frozenset(name for name, _ in head)


async def send_whole(scope: Scope, send: Send, status: int, head: Head, body: bytes) -> None:
    """Send a response with the header fields of ``head``, its request id and the length of its body."""
    headers = [*head, (REQUEST_ID, request_id(scope))]
    if body:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Response(litestar.Response[T]):
    """Litestar's response without what no answer of ours has: cookies, background tasks, encoders of further types.

    Its mutable mapping of headers and its encoders cost every request.
    """

    def __init__(
        self,
        content: T,
        *,
        status_code: int | None = None,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
        **_: Any,
    ) -> None:
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}
        self.media_type = media_type

    def to_asgi_response(  # type: ignore[override]
        self,
        app: None,  # noqa: ARG002 - as Litestar calls it
        request: Any,  # noqa: ARG002
        *,
        status_code: int | None = None,
        headers: dict[str, str] | None = None,
        media_type: str | None = None,
        **_: Any,
    ) -> ASGIApp:
        """Encode the content now; what the route says of all its responses counts where this one says nothing."""
        status = self.status_code or status_code or HTTPStatus.OK
        head, names = _common_head(self.media_type or media_type or JSON, tuple(headers.items()) if headers else ())
        if self.headers:
            own = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            replaced = {name for name, _ in own if name in names}
            head = [*(field for field in head if field[0] not in replaced), *own] if replaced else [*head, *own]
        body = encode(self.content)

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            await send_whole(scope, send, status, head, body)

        return respond
