"""Responses as this service sends them: a status, few headers, and JSON."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

import litestar
import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

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
    """The headers of a response as ASGI has them, but for the length of its body."""
    named = {"content-type": media_type, **headers} if media_type else headers
    return [(name.lower().encode(), value.encode()) for name, value in named.items()]


async def send_whole(send: Send, status: int, head: Head, body: bytes) -> None:
    headers = [*head, (b"content-length", b"%d" % len(body))] if body else head
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
        head = head_of(self.media_type or media_type or JSON, {**(headers or {}), **self.headers})
        body = encode(self.content)

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            await send_whole(send, status, head, body)

        return respond
