"""Responses as this service sends them: a status, few headers, and JSON."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

import litestar
import msgspec
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.datastructures import Cookie
from litestar.enums import MediaType
from litestar.response import Stream
from litestar.serialization import default_serializer
from litestar.types import ASGIApp, Receive, Scope, Send, Serializer

from service.http.headers import Field, Head, complete

T = TypeVar("T")

JSON: Final = "application/json"
# Responses that have no body (RFC 9110, sections 15.3.5 and 15.4.5).
WITHOUT_BODY: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

encode: Final = msgspec.json.Encoder(enc_hook=default_serializer).encode


class _Encoded:
    """The result of a query that was encoded last."""

    content: object = None
    body: bytes = b"null"


def encode_once(content: object) -> Any:
    """The result of a query, which nothing changes, as the content of a ``JSONResponse``: the bytes of its JSON.

    Equal reads in one iteration of the event loop share them.
    """
    if content is not _Encoded.content:
        _Encoded.body = encode(content)
        _Encoded.content = content
    return _Encoded.body


def head_of(media_type: str | None, headers: Mapping[str, str]) -> Head:
    """The header fields of a response as ASGI has them, except its request id and the length of its body."""
    named = {"content-type": media_type, **headers} if media_type else headers
    return complete(Field(name.lower().encode(), value.encode()) for name, value in named.items())


@lru_cache
def _field_name(name: str) -> bytes:
    """The name of a header field as ASGI has it."""
    return name.lower().encode()


@lru_cache
def _shared_head(media_type: str | None, headers: tuple[tuple[str, str], ...]) -> tuple[Head, frozenset[bytes]]:
    """The header fields that all responses of a route have, and their names."""
    head = head_of(media_type, dict(headers))
    return head, frozenset(name for name, _ in head)


async def send_whole(send: Send, status: int, head: Head, body: bytes) -> None:
    """Send a response, without a body if the status allows none. The server adds ``Content-Length``."""
    if status in WITHOUT_BODY:
        body = b""
    await send({"type": "http.response.start", "status": status, "headers": head.copy()})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class JSONStream(Stream, Generic[T]):
    """Litestar's stream, of JSON that the OpenAPI document describes as a ``T``."""

    __slots__ = ()


class JSONResponse(litestar.Response[T]):
    """Litestar's response, encoded as JSON, and without a body if the status allows none.

    Unless it has cookies, a background task or type encoders, it is sent without the mutable mapping of headers that
    Litestar builds for every response. If it has only a content and headers, a fast route sends it itself.
    """

    background: BackgroundTask | BackgroundTasks | None = None
    encoding = "utf-8"

    def __init__(  # noqa: PLR0913 - Litestar's parameters
        self,
        content: T,
        *,
        status_code: int | None = None,
        headers: dict[str, str] | None = None,
        media_type: str = JSON,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: Sequence[Cookie] | Mapping[str, str] | None = None,
        type_encoders: Mapping[Any, Callable[[Any], Any]] | None = None,
    ) -> None:
        if background or cookies or type_encoders:
            super().__init__(
                content,
                status_code=status_code,
                headers=headers,
                media_type=media_type,
                background=background,
                cookies=cookies,
                type_encoders=type_encoders,
            )
            return
        self.content = content
        self.status_code = status_code
        self.headers = headers or {}
        self.media_type = media_type
        self.cookies = []
        self.response_type_encoders = {}

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:  # noqa: ARG002
        return content if isinstance(content, bytes) else msgspec.json.encode(content, enc_hook=enc_hook)

    def to_asgi_response(  # type: ignore[override]
        self,
        app: None,
        request: litestar.Request[Any, Any, Any],
        *,
        headers: dict[str, str] | None = None,
        media_type: MediaType | str | None = None,
        status_code: int | None = None,
        **more: Any,
    ) -> ASGIApp:
        """Encode the content now. A header of the response replaces the one of its route."""
        status = self.status_code or status_code or HTTPStatus.OK
        has_body = status not in WITHOUT_BODY
        if self.background or self.cookies or self.response_type_encoders or any(more.values()):
            if not has_body:
                self.content = None  # type: ignore[assignment]
            return super().to_asgi_response(
                app, request, headers=headers, media_type=media_type, status_code=status_code, **more
            )
        shared = _shared_head(self.media_type if has_body else None, tuple(headers.items()) if headers else ())
        head, body = self.complete(*shared), self.encode()

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            await send_whole(send, status, head, body)

        return respond

    @property
    def is_simple(self) -> bool:
        """Whether it has only a content and headers, so that the status and the media type are those of its route."""
        return (
            self.status_code is None
            and self.media_type is JSON
            and not (self.cookies or self.background or self.response_type_encoders)
        )

    def complete(self, head: Head, names: frozenset[bytes]) -> Head:
        """``head`` with the headers of the response, which replace those of the same name."""
        completed = head.copy()
        for name, value in self.headers.items():
            field = _field_name(name)
            if field in names:
                completed = [given for given in completed if given[0] != field]
            completed.append((field, value.encode()))
        return completed

    def encode(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else encode(self.content)
