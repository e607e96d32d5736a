"""Authentication by bearer token, which sets ``connection.user``, the principal."""

from litestar.types import ASGIApp, Receive, Scope, Send

from service.errors import NotAuthenticated


class BearerAuthentication:
    """Reads the bearer token (RFC 6750). Every route has this middleware unless it says ``public=True``.

    It does not ask the database whether the session is alive: the statement of the route does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = scope["litestar_app"].state["access_tokens"].read(_bearer_token(scope))
        await self.app(scope, receive, send)


def _bearer_token(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (token := token.strip()):
                return token.decode("latin-1")
            break
    raise NotAuthenticated
