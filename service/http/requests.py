"""A request as the handlers see it: its principal, its body, and the parts of the app."""

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final, TypeVar

import litestar
from litestar.datastructures import FormMultiDict, State
from litestar.enums import RequestEncodingType
from litestar.exceptions import ClientException, InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.serialization import default_deserializer
from litestar.types import Empty, Scope

from service.database.database import Database
from service.errors import (
    BodyTooLarge,
    ClientDisconnected,
    ContentCodingNotSupported,
    IncorrectPassword,
    NotForm,
    TooManyAttempts,
    WrongContentType,
)
from service.http.decoding import Decoder, parse_form
from service.security import events
from service.security.denylist import Denylist
from service.security.logins import Logins
from service.security.passwords import Passwords
from service.security.positions import SearchPositions
from service.security.refresh_tokens import RefreshTokens
from service.security.tokens import AccessTokens
from service.structs.auth import Credentials
from service.structs.sessions import MAX_USER_AGENT_LENGTH, Device, Lifetimes, Principal

T = TypeVar("T")

JSON: Final = RequestEncodingType.JSON.value
FORM: Final = RequestEncodingType.URL_ENCODED.value
MULTIPART: Final = RequestEncodingType.MULTI_PART.value

_any: Final = Decoder[Any](Any, default_deserializer)


class Request(litestar.Request[Principal, None, State]):
    """Litestar's request, with typed access to the parts of the app and with this service's errors."""

    @property
    def db(self) -> Database:
        # By key: the state looks an attribute up in several places first.
        return self.app.state["db"]  # type: ignore[no-any-return]

    @property
    def passwords(self) -> Passwords:
        return self.app.state["passwords"]  # type: ignore[no-any-return]

    @property
    def denylist(self) -> Denylist:
        return self.app.state["denylist"]  # type: ignore[no-any-return]

    @property
    def logins(self) -> Logins:
        return self.app.state["logins"]  # type: ignore[no-any-return]

    @property
    def access_tokens(self) -> AccessTokens:
        return self.app.state["access_tokens"]  # type: ignore[no-any-return]

    @property
    def refresh_tokens(self) -> RefreshTokens:
        return self.app.state["refresh_tokens"]  # type: ignore[no-any-return]

    @property
    def search_positions(self) -> SearchPositions:
        return self.app.state["search_positions"]  # type: ignore[no-any-return]

    @property
    def lifetimes(self) -> Lifetimes:
        return self.app.state["lifetimes"]  # type: ignore[no-any-return]

    @property
    def device(self) -> Device:
        """What the client says of itself, and the address that it connects from."""
        client = self.scope["client"]
        user_agent = next((value for name, value in self.scope["headers"] if name == b"user-agent"), b"")
        try:
            text = user_agent.decode()
        except UnicodeDecodeError:
            text = user_agent.decode("latin-1")
        return Device(text[:MAX_USER_AGENT_LENGTH], client[0] if client else "")

    async def verify_password(self, password: str) -> Credentials:
        """Verify the principal's password.

        Raises ``IncorrectPassword``, ``InvalidToken``, ``TooManyAttempts`` or ``TooManyPasswords``.
        """
        try:
            return await self.logins.verify_own(self.db, self.user, password, self.device.address)
        except IncorrectPassword:
            events.login_failed(self, self.user.user_id)
            raise
        except TooManyAttempts:
            events.login_throttled(self, self.user.user_id)
            raise

    async def body(self) -> bytes:
        """The whole body. Raises ``BodyTooLarge`` or ``ClientDisconnected``.

        Litestar would gather it from ``stream()``, whose generator costs a thirtieth of a request that writes.
        """
        state = self._connection_state
        if state.body is not Empty:
            return state.body
        limit = self.route_handler.resolve_request_max_body_size()
        if limit is not None and _announced_length(self.scope) > limit:
            raise BodyTooLarge(limit)
        body = b""
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientDisconnected
            body += message.get("body", b"")
            if limit is not None and len(body) > limit:
                raise BodyTooLarge(limit)
            if not message.get("more_body", False):
                state.body = self._body = body
                return body

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body piece by piece. Raises ``BodyTooLarge`` or ``ClientDisconnected``."""
        try:
            async for piece in super().stream():
                yield piece
        except RequestEntityTooLarge:
            raise BodyTooLarge(self.route_handler.resolve_request_max_body_size() or 0) from None
        except InternalServerException:
            if not self.is_connected:  # a second stream of the same body
                raise
            raise ClientDisconnected from None

    async def json(self) -> Any:
        """The JSON body as built-in types. Raises ``WrongContentType`` or ``NotJson``."""
        if self._json is Empty:
            check_content(self.scope, JSON)
            body = await self.body()
            self._json = _any.decode_json(body) if body else None
        return self._json

    async def form(self) -> FormMultiDict:
        """The fields of a form. Raises ``NotForm``."""
        check_content(self.scope)
        try:
            return await super().form()
        except (ClientException, ValueError, LookupError):  # the last two come from the charset of a part
            raise NotForm from None


async def read_json(request: litestar.Request[Any, Any, Any], decoder: Decoder[T]) -> T:
    """Decode a JSON body. Raises ``WrongContentType``, ``NotJson`` or ``InvalidFields``."""
    check_content(request.scope, JSON)
    return decoder.decode_json(await request.body())


async def read_form(request: litestar.Request[Any, Any, Any], decoder: Decoder[T]) -> T:
    """Decode a form into a struct. Raises ``WrongContentType``, ``NotForm`` or ``InvalidFields``.

    Browsers send a ``FormData`` object as ``multipart/form-data``, which is taken as well.
    """
    if check_content(request.scope, FORM) != MULTIPART:
        return _decode_form(parse_form(await request.body()), decoder)
    form = await request.form()
    await form.close()  # its files, which no field takes
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    check_encodable(value for _, value in texts)
    return _decode_form(texts, decoder)


def check_encodable(values: Iterable[Any]) -> None:
    """Raise ``NotForm`` for lone surrogates, which a part of a multipart form can contain, in UTF-7 for example."""
    try:
        for value in values:
            if isinstance(value, str):
                value.encode()
            elif isinstance(value, list):
                check_encodable(value)
    except UnicodeEncodeError:
        raise NotForm from None


def _decode_form(pairs: Iterable[tuple[str, str]], decoder: Decoder[T]) -> T:
    """Decode the fields of a form. A field without a value counts as absent (RFC 6749, section 3.2)."""
    texts: dict[str, Any] = {}
    for name, text in pairs:
        if text and name in decoder.lists:
            texts.setdefault(name, []).append(text)
        elif text:
            texts[name] = [texts[name], text] if name in texts else text
    return decoder.decode_texts(texts)


def check_content(scope: Scope, expected: str = "") -> str:
    """Return the media type of a body, without its parameters: the expected one if the client does not name one.

    Raises ``ContentCodingNotSupported``, or ``WrongContentType`` if the body is not the JSON or the form expected.
    """
    content_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = content_type or value
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise ContentCodingNotSupported
    media_type = content_type.decode("latin-1")
    if media_type == expected:
        return expected
    media_type = media_type.partition(";")[0].strip().lower() or expected
    if (
        media_type == expected
        or (expected == JSON and media_type.endswith("+json"))
        or (expected == FORM and media_type == MULTIPART)
        or expected not in {JSON, FORM, MULTIPART}
    ):
        return media_type
    raise WrongContentType


def _announced_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
