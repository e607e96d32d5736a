"""Bearer token -> connection.user."""

from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send

from service.errors import InvalidToken, NotAuthenticated
from service.queries import users
from service.structs.users import User


class BearerAuthentication:
    """Finds the user behind the bearer token (RFC 6750)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = await _authenticate(scope)
        await self.app(scope, receive, send)


# What makes a route one for users only: enforced here, and shown in the OpenAPI document. Not on the whole app, because
# a middleware costs every request that passes it, with nothing to do on most of them.
AUTHENTICATED: Final[dict[str, Any]] = {"middleware": [BearerAuthentication], "security": [{"bearer": []}]}


async def _authenticate(scope: Scope) -> User:
    state = scope["litestar_app"].state
    user_id = state.tokens.read(_bearer_token(scope))
    # Asked on every request, so that a deleted user's token is worth nothing.
    if (user := await users.select(state.db, user_id)) is None:
        raise InvalidToken
    return user


def _bearer_token(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return token.decode("latin-1")
            break
    raise NotAuthenticated
