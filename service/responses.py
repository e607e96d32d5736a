"""Responses as this service sends them: a status, few headers, and JSON."""

from http import HTTPStatus
from typing import Any, TypeVar

import litestar
import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


class _Encoded:
    """The content that was encoded last: what equal reads of one turn share is encoded once."""

    content: object = None
    body: bytes = b"null"


def _encode(content: object) -> bytes:
    if content is not _Encoded.content:
        _Encoded.body = _encoder.encode(content)
        _Encoded.content = content
    return _Encoded.body


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
        body = b""
        sent: list[tuple[bytes, bytes]] = []
        if status != HTTPStatus.NO_CONTENT:
            body = _encode(self.content)
            kind = self.media_type or media_type or "application/json"
            sent = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        for named in (headers, self.headers):
            if named:
                sent += [(name.lower().encode(), value.encode()) for name, value in named.items()]

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            await send({"type": "http.response.start", "status": status, "headers": sent})
            await send({"type": "http.response.body", "body": body, "more_body": False})

        return respond
