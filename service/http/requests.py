"""A request as the controllers see it: its user, its body and query as structs, and what the app holds for it."""

from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import litestar
from litestar.datastructures import State
from litestar.exceptions import ClientException
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from msgspec import Struct

from service.database.database import Database
from service.errors import BodyTooLarge, ClientDisconnected, NotForm, WrongContentType
from service.http.decoding import decode_form, decode_json, decode_query, parse_form
from service.http.headers import COMMON_HEADERS, request_id
from service.security.passwords import Passwords
from service.security.tokens import Tokens

T = TypeVar("T", bound=Struct)

MAX_BODY_BYTES: Final = 1024 * 1024
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"


class AllowOnOptions(ReceiveRoutePlugin):
    """Lets OPTIONS name every method of a path; Litestar 2.25 names those of its first handler alone."""

    def receive_route(self, route: BaseRoute) -> None:
        if not isinstance(route, HTTPRoute):
            return
        headers = {"Allow": ", ".join(sorted(route.methods)), **COMMON_HEADERS}

        async def answer(request: Any) -> litestar.Response[None]:
            more = {"X-Request-ID": request_id(request.scope).decode()}
            return litestar.Response(None, status_code=204, headers=headers | more)

        handler, _ = route.route_handler_map["OPTIONS"]
        handler.before_request = answer


class Request(litestar.Request[int, None, State]):
    """Litestar's request, with typed access to the app's parts and its own way to read a body.

    ``user`` is the id of the user behind the bearer token.
    """

    _read: bytes | None = None

    @property
    def db(self) -> Database:
        # By its key: an attribute of the state is looked for in vain before it is found.
        return self.app.state["db"]  # type: ignore[no-any-return]

    @property
    def passwords(self) -> Passwords:
        return self.app.state["passwords"]  # type: ignore[no-any-return]

    @property
    def tokens(self) -> Tokens:
        return self.app.state["tokens"]  # type: ignore[no-any-return]

    async def body(self) -> bytes:
        """The whole body. Raises ``BodyTooLarge``."""
        if self._read is None:
            self._read = await self._receive_all()
        return self._read

    async def _receive_all(self) -> bytes:
        announced = self._header(b"content-length")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            raise BodyTooLarge
        body = b""
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientDisconnected
            body += message["body"]
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLarge
            if not message["more_body"]:
                return body

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body in one piece: what Litestar reads a multipart form from."""
        yield await self.body()
        yield b""

    async def json_of(self, kind: type[T]) -> T:
        """Decode a JSON body into a struct. Raises ``WrongContentType``, ``NotJson`` or ``InvalidFields``."""
        media_type = self._media_type
        if media_type and media_type != "application/json" and not media_type.endswith("+json"):
            raise WrongContentType
        return decode_json(await self.body(), kind)

    async def form_of(self, kind: type[T]) -> T:
        """Decode a form into a struct. Raises ``WrongContentType``, ``NotForm`` or ``InvalidFields``."""
        if self._media_type == MULTIPART:  # what browsers make of a FormData object
            await self.body()
            try:
                form = await self.form()
                await form.close()  # the files in it, which nothing here takes
                return decode_form(
                    [(name, value) for name, value in form.multi_items() if isinstance(value, str)], kind
                )
            except (ClientException, ValueError, LookupError):  # the last two from the charset of a part
                raise NotForm from None
        if self._media_type not in {"", FORM}:
            raise WrongContentType
        return decode_form(parse_form(await self.body()), kind)

    def query_of(self, kind: type[T]) -> T:
        """Decode the query into a struct. Raises ``InvalidFields``."""
        return decode_query(self.scope["query_string"], kind)

    @property
    def _media_type(self) -> str:
        """Without its parameters; empty where the client names none, which is taken as what the route expects."""
        return self._header(b"content-type").decode("latin-1").partition(";")[0].strip().lower()

    def _header(self, name: bytes) -> bytes:
        """One header, without the mapping of all of them that Litestar would make."""
        for known, value in self.scope["headers"]:
            if known == name:
                return value
        return b""
