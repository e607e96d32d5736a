"""Bearer token -> connection.user, the id of the user whom it was issued to."""

from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send

from service.errors import NotAuthenticated


class BearerAuthentication:
    """Reads the bearer token (RFC 6750).

    That its user is still there is decided where the request asks the database anyhow: by the foreign key of a new
    post, by the owner of an old one, by the row of one's own account. A question of its own would cost every request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = scope["litestar_app"].state["tokens"].read(_bearer_token(scope))
        await self.app(scope, receive, send)


# What makes a route one for users only: enforced here, and shown in the OpenAPI document. Not on the whole app, because
# a middleware costs every request that passes it, with nothing to do on most of them.
AUTHENTICATED: Final[dict[str, Any]] = {"middleware": [BearerAuthentication], "security": [{"bearer": []}]}


def _bearer_token(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return token.decode("latin-1")
            break
    raise NotAuthenticated
