"""A request as the controllers see it: its user, its body as a struct, and what the app holds for it."""

from functools import partial
from typing import Any, Final, TypeVar

import litestar
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.exceptions import ClientException, InternalServerException
from litestar.handlers import HTTPRouteHandler
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from msgspec import Struct

from service.bodies import decode_form, decode_json, parse_form
from service.database import Database
from service.errors import BodyTooLarge, ClientDisconnected, NotForm, NotJson, WrongContentType
from service.passwords import Passwords
from service.structs.users import User
from service.tokens import Tokens

T = TypeVar("T", bound=Struct)

MAX_BODY_BYTES: Final = 1024 * 1024
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

# HEAD answers wherever GET does (RFC 9110, section 9.3.2); the server leaves out the body.
get = partial(HTTPRouteHandler, http_method=[HttpMethod.GET, HttpMethod.HEAD])


class AllowOnOptions(ReceiveRoutePlugin):
    """Lets OPTIONS name every method of a path; Litestar 2.25 names those of its first handler alone."""

    def receive_route(self, route: BaseRoute) -> None:
        if not isinstance(route, HTTPRoute):
            return
        allowed = litestar.Response(None, status_code=204, headers={"Allow": ", ".join(sorted(route.methods))})

        async def answer(_: Any) -> litestar.Response[None]:
            return allowed

        handler, _ = route.route_handler_map["OPTIONS"]
        handler.before_request = answer


class Request(litestar.Request[User, None, State]):
    """Litestar's request, with typed access to the app's parts and its own way to read a body."""

    @property
    def db(self) -> Database:
        return self.app.state.db  # type: ignore[no-any-return]

    @property
    def passwords(self) -> Passwords:
        return self.app.state.passwords  # type: ignore[no-any-return]

    @property
    def tokens(self) -> Tokens:
        return self.app.state.tokens  # type: ignore[no-any-return]

    async def body(self) -> bytes:
        """Read the whole body. Raises ``BodyTooLarge``, and on a JSON route ``WrongContentType`` or ``NotJson``."""
        if is_json := self.route_handler.parsed_data_field is not None:
            media_type = self._media_type
            if media_type and media_type != "application/json" and not media_type.endswith("+json"):
                raise WrongContentType
        try:
            body = await super().body()
        except litestar.exceptions.HTTPException as error:
            if error.status_code == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
                raise BodyTooLarge from None
            if isinstance(error, InternalServerException):
                raise ClientDisconnected from None
            raise
        if is_json and not body:
            raise NotJson
        return body

    async def json(self) -> Any:
        """Decode the body into the struct that the route declares as its ``data``: called by Litestar for it."""
        field = self.route_handler.parsed_data_field
        return decode_json(await self.body(), field.annotation) if field else await super().json()

    async def form_of(self, kind: type[T]) -> T:
        """Decode a form into a struct. Raises ``WrongContentType``, ``NotForm`` or ``InvalidFields``."""
        if self._media_type == MULTIPART:  # what browsers make of a FormData object
            await self.body()
            try:
                return decode_form((await self.form()).multi_items(), kind)
            except (ClientException, UnicodeDecodeError, LookupError):
                raise NotForm from None
        if self._media_type not in {"", FORM}:
            raise WrongContentType
        return decode_form(parse_form(await self.body()), kind)

    @property
    def _media_type(self) -> str:
        """Without its parameters; empty where the client names none, which is taken as what the route expects."""
        return self.content_type[0].lower()
